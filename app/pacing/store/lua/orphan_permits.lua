-- A lost worker's permits become orphan permits: their tasks can be released again, while their calls, which may still
-- run upstream, count in their quotas for some seconds. ARGV: term, seconds, then task id, release, ...
local term, pause = ARGV[1], tonumber(ARGV[2])
if not same_generation() then return {'epoch'} end
if not leads(term) then return {'term'} end
local now = pacing_time()
for i = 3, #ARGV, 2 do
  local id, release = ARGV[i], ARGV[i + 1]
  local permit = permit_of(id)
  if permit and permit.n == release then
    redis.call('HDEL', PERMITS, id)
    redis.call('ZREM', UNREDEEMED, id)
    redis.call('HINCRBY', FLIGHT, permit.k, -1)
    redis.call('ZADD', ORPHANS, seconds(now + pause), cjson.encode({id = id, n = permit.n, q = permit.q}))
  end
end
return {'ok'}
