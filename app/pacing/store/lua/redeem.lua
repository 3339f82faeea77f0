-- Exchanges a permit for the right to send within 2 s. ARGV: task id, worker, age in seconds at which it is stale,
-- whether its send is counted at once ('1') or when it comes, by send.lua ('').
-- Returns {'ok', permit}, {'later', seconds} (sends would bunch: ask again), or {reason}.
-- A refused permit ends here; its task is put back by the leader.
local id, worker, stale, at_once = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1'
if not same_generation() then return {'epoch'} end
local permit = permit_of(id)
if not permit or permit.w then return {'missing'} end
local now = pacing_time()

local function refuse(reason)
  end_permit(id, permit, now, nil, false)
  store_quotas()
  redis.call('SADD', REQUEUE, id)
  wake(WAKE)
  return {reason}
end

if now - permit.t > stale then return refuse('stale') end
for _, name in ipairs(permit.q) do
  local q = quota(name, now)
  if q.braked_until > now and q.braked_at >= permit.t then return refuse('braked') end
end
local pause = at_once and count_send(permit.q, now)
if pause then
  if now + pause - permit.t > stale then return refuse('stale') end
  return {'later', seconds(pause)}
end
permit.w = worker
redis.call('ZREM', UNREDEEMED, id)
redis.call('HSET', PERMITS, id, cjson.encode(permit))
return {'ok', permit.n, permit.k, permit.u, permit.a, permit.m, permit.e, seconds(permit.t), permit.q,
  seconds(permit.pr or 0), seconds(permit.te or 0)}
