-- Puts messages into their backlog queues, in order, each with its place, and wakes the dispatcher.
-- ARGV: the leader's term when its feeder calls, else '', window of a queue, window of all, share of maxmemory in use
-- allowed, channel of Celery's events, then for each message: queue, step, task id, place, front ('1'), message, event
-- that announces it ('': none).
-- Returns index, reason, index, reason ... of what was refused.
local feeding, window, all, share = ARGV[1] ~= '', tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local channel, refused, lengths, pushed = ARGV[5], {}, {}, false

local function refuse_all(reason)
  for i = 6, #ARGV, 7 do
    refused[#refused + 1] = (i - 6) / 7; refused[#refused + 1] = reason
  end
  wake(WAKE_FEEDER)
  return refused
end

if not same_generation() or (feeding and not leads(ARGV[1])) then return refuse_all('epoch') end
if short_of_memory(share) then return refuse_all('memory') end
local placed = redis.call('HLEN', PLACE)
local parts, newcomers = {}, {}
local touched, sizes = {}, {}

local function part_of(list)
  if not parts[list] then parts[list], newcomers[list] = ordered_part(list), {} end
  return parts[list]
end

local function length(queue)
  if not lengths[queue] then lengths[queue] = length_of(queue) end
  return lengths[queue]
end

-- Whether a message appended to a list is among the heads that the leader may cache, or the queue is new to it.
local function among_heads(list, queue)
  if not sizes[list] then
    sizes[list] = redis.call('LLEN', list)
    if redis.call('HEXISTS', QUEUES, queue) == 0 then sizes[list] = 0 end
  end
  return sizes[list] <= LOOKED
end

for i = 6, #ARGV, 7 do
  local queue, step, id, place, front, message = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5]
  local list, due, reason = list_of(queue, step), due_of(place), nil
  if redis.call('HEXISTS', PERMITS, id) == 1 then
    reason = 'held'
  elseif redis.call('HEXISTS', PLACE, id) == 0 then
    if not feeding and redis.call('HEXISTS', OVERFLOW, queue) == 1 then
      reason = 'behind'
    elseif length(queue) >= window or (placed >= all and length(queue) >= LEAST) then
      reason = 'full'
    elseif due and front ~= '1' and #part_of(list) + #newcomers[list] >= ORDERED then
      reason = 'full'
    end
    if not reason then
      if due or front == '1' or among_heads(list, queue) then touched[queue] = true end
      if due then
        part_of(list)
        table.insert(newcomers[list], {due, message, i})
      else
        redis.call(front == '1' and 'RPUSH' or 'LPUSH', list, message)
        if front == '1' then
          place = first_of_all(place)
          if parts[list] then table.insert(parts[list], 1, {0, message}) end
        end
      end
      redis.call('HSET', PLACE, id, place)
      lengths[queue] = lengths[queue] + 1
      placed = placed + 1
      pushed = true
    elseif not feeding then
      redis.call('HINCRBY', OVERFLOW, queue, 1)
      wake(WAKE_FEEDER)
    end
  end
  if reason then
    refused[#refused + 1] = (i - 6) / 7; refused[#refused + 1] = reason
  elseif ARGV[i + 6] ~= '' then
    redis.call('PUBLISH', channel, ARGV[i + 6])
  end
end
for list, ones in pairs(newcomers) do
  if #ones > 0 then place_by_due(list, parts[list], ones) end
end
for queue in pairs(touched) do changed(queue) end
if pushed then wake(WAKE) end
return refused
