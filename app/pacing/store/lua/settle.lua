-- Ends permits: returns slots and unused tokens, brakes for all workers at once, reports outcomes to the dispatcher,
-- notifies waiters. ARGV: settlements, each as JSON {id, n, used, called, ended, brakes: [[quota, seconds, why]], report}.
-- A permit that is not there, or of another release, is no error: the rest is still done.
local now = pacing_time()
local fresh = same_generation()
local feeder = false
for i = 1, #ARGV do
  local s = cjson.decode(ARGV[i])
  local permit = fresh and permit_of(s.id)
  if permit and permit.n == s.n then
    local used = type(s.used) == 'number' and s.used or nil
    end_permit(s.id, permit, now, used, s.called)
  end
  for _, b in ipairs(s.brakes) do brake(b[1], now, b[2], b[3]) end
  if s.report ~= '' and permit and permit.n == s.n then
    -- What the dispatcher learns from: the worker's report, and the route and instant of the release.
    local route = cjson.encode({key = permit.k, upstream = permit.u, account = permit.a, model = permit.m,
      estimate = permit.e, released_at = permit.t, at = now, place = permit.p, list = permit.l})
    redis.call('RPUSH', OUTCOMES, '[' .. s.report .. ',' .. route .. ']')
  end
  if s.ended then redis.call('PUBLISH', DONE, s.id) else feeder = true end
end
store_quotas()
if redis.call('LLEN', OUTCOMES) > 20000 then redis.call('LTRIM', OUTCOMES, -10000, -1) end
-- While nothing waits for a release, outcomes can wait for the leader's next snapshot.
if redis.call('HLEN', PLACE) > 0 then wake(WAKE) end
if feeder then wake(WAKE_FEEDER) end
return 'ok'
