-- Opens a generation: permits of running rows are put back, configured buckets start empty, publishing is allowed again.
-- ARGV: term, permits as JSON [{id, n, k, u, a, m, q, e, w}], queues with rows in the database as JSON (these go
-- first, by the feeder), quota ids.
local term = ARGV[1]
if not leads(term) then return {'term'} end
local now = pacing_time()
for i = 4, #ARGV do
  redis.call('HSET', 'penstock:quota:' .. ARGV[i], 'level', 0, 'tokens', 0, 'sent', 0, 'flight', 0, 'at', seconds(now))
end
for _, permit in ipairs(cjson.decode(ARGV[2])) do
  permit.t = now
  for _, name in ipairs(permit.q) do
    local q = quota(name, now)
    q.flight = q.flight + 1
    q.changed = true
  end
  redis.call('HINCRBY', FLIGHT, permit.k, 1)
  local id = permit.id
  permit.id = nil
  redis.call('HSET', PERMITS, id, cjson.encode(permit))
end
store_quotas()
for _, queue in ipairs(cjson.decode(ARGV[3])) do redis.call('HINCRBY', OVERFLOW, queue, 1) end
redis.call('HSET', GATE, 'run_id', run_id())
return {'ok'}
