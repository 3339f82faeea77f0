-- Carries out what was planned: each message from its backlog list to its key's list, with a permit, if every limit
-- still allows it. ARGV: term, routes as JSON [{key, list, upstream, account, model, quotas, proved, tested}] (the last
-- two: pacing time of the last success with the key, and of its last test), then for each release:
-- queue, step, task id, index of the route from 0, estimate, messages of its list that stay in front of it.
-- Returns one word for each release: 'ok', 'moved' (no longer at the head) or the quota that refuses; then the
-- instant of all of them.
local term, routes = ARGV[1], cjson.decode(ARGV[2])
if not same_generation() then return {'epoch'} end
if not leads(term) then return {'term'} end
local now = pacing_time()
local answers, touched = {}, {}
local number = math.max(tonumber(redis.call('HGET', GATE, 'release')) or 0, math.floor(now * 1000000))

local function refusal(route, estimate)
  for _, name in ipairs(route.quotas) do
    local q = quota(name, now)
    if q.braked_until > now or (q.cap and q.flight >= q.cap) or (q.rate and q.level < 1)
      or (q.token_rate and q.tokens < math.min(estimate, q.token_size) - 0.000001) then
      return name
    end
  end
end

for i = 3, #ARGV, 6 do
  local queue, step, id, estimate = ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 4])
  local behind = tonumber(ARGV[i + 5])
  local route = routes[tonumber(ARGV[i + 3]) + 1]
  local list = list_of(queue, step)
  local message = redis.call('LINDEX', list, -1 - behind)
  local answer
  if not message or task_of(message) ~= id or redis.call('HEXISTS', PLACE, id) == 0
    or redis.call('HEXISTS', PERMITS, id) == 1 then
    answer = 'moved'
    touched[queue] = true
  else
    answer = refusal(route, estimate)
    if not answer then
      for _, name in ipairs(route.quotas) do take(quota(name, now), estimate) end
      number = number + 1
      if behind == 0 then redis.call('RPOP', list) else redis.call('LREM', list, -1, message) end
      redis.call('HSET', PERMITS, id, cjson.encode({n = string.format('%d', number), k = route.key, u = route.upstream,
        a = route.account, m = route.model, q = route.quotas, e = estimate, t = now, l = list,
        r = route.list, pr = route.proved, te = route.tested, p = redis.call('HGET', PLACE, id)}))
      redis.call('HDEL', PLACE, id)
      redis.call('ZADD', UNREDEEMED, seconds(now), id)
      redis.call('HINCRBY', FLIGHT, route.key, 1)
      redis.call('LPUSH', route.list, message)
      touched[queue] = true
      answer = 'ok'
    end
  end
  answers[#answers + 1] = answer
end
for queue in pairs(touched) do changed(queue) end
redis.call('HSET', GATE, 'release', string.format('%d', number))
store_quotas()
answers[#answers + 1] = seconds(now)
return answers
