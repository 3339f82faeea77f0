-- What the leader needs to decide, in one round trip; also its heartbeat.
-- ARGV: term, heads to look at per list, messages to drop at most, the last change that the leader has seen (0: none),
-- then the quota ids. Queues that did not change since are left out: reading heads is most of the cost of a tick.
-- Cancelled messages (without a place) and those that hold a permit are dropped on the way, free of charge.
-- Returns {'ok', JSON of [now, requeue, outcomes, flights, workers, whether it contains all queues, last change,
-- [queue, its lists: [step, length, heads]], [quota rows], what was set aside: kind, count, ...]} or an error word. One
-- string, as clients decode it much faster.
local term, look, drops, since = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
if not same_generation() then return {'epoch'} end
if not leads(term) then return {'term'} end
local now = pacing_time()
redis.call('HINCRBY', GATE, 'beat', 1)

local lists = {}
local function head(list, queue)
  local heads, at = {}, 1
  while #heads < 2 * look do
    local messages = redis.call('LRANGE', list, -look - at + 1, -at)
    local ids = {}
    for i = #messages, 1, -1 do ids[#ids + 1] = task_of(messages[i]) or '' end
    if #ids == 0 then break end
    local places = redis.call('HMGET', PLACE, unpack(ids))
    local permits = redis.call('HMGET', PERMITS, unpack(ids))
    local dropped = false
    for i, id in ipairs(ids) do
      if places[i] and not permits[i] then
        if #heads < 2 * look then heads[#heads + 1] = id; heads[#heads + 1] = places[i] end
        at = at + 1
      elseif drops > 0 then
        if id == '' then set_aside('message', messages[#messages - i + 1]) end
        -- the message's index from the end is `at`; it is removed there, whatever lies before it
        redis.call('LREM', list, -1, messages[#messages - i + 1])
        drops = drops - 1
        dropped = true
      else
        changed(queue)  -- the rest of the void messages is dropped at the next snapshot
        return heads
      end
    end
    if not dropped then break end
  end
  return heads
end

local last = tonumber(redis.call('HGET', GATE, 'changes')) or 0
if redis.call('HDEL', GATE, 'void') == 1 or since > last then since = 0 end
local known = redis.call('HGETALL', QUEUES)
for i = 1, #known, 2 do
  local queue = known[i]
  if (tonumber(known[i + 1]) or math.huge) > since then
    local of_queue = {}
    for _, step in ipairs(STEPS) do
      local list = list_of(queue, step)
      if redis.call('EXISTS', list) == 1 then
        local heads = head(list, queue)
        local length = redis.call('LLEN', list)
        if length > 0 then of_queue[#of_queue + 1] = {step, length, heads} end
      end
    end
    if #of_queue == 0 then redis.call('HDEL', QUEUES, queue) end
    lists[#lists + 1] = {queue, of_queue}
  end
end

local rows = {}
for i = 5, #ARGV do
  rows[#rows + 1] = redis.call('HMGET', 'penstock:quota:' .. ARGV[i], 'level', 'tokens', 'at', 'flight', 'until', 'why')
end
local requeue = redis.call('SPOP', REQUEUE, 500)
local outcomes = redis.call('LRANGE', OUTCOMES, 0, 999)
if #outcomes > 0 then redis.call('LTRIM', OUTCOMES, #outcomes, -1) end
local aside = redis.call('HGETALL', ASIDE_COUNTS)
if #aside > 0 then redis.call('UNLINK', ASIDE_COUNTS) end
return {'ok', cjson.encode({seconds(now), requeue, outcomes, redis.call('HGETALL', FLIGHT),
  redis.call('HGETALL', WORKERS), since == 0, last, lists, rows, aside})}
