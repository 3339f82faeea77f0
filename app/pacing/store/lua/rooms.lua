-- How many more messages each queue takes in this round, as in publish.lua: the emptiest first, within the window of
-- all queues. ARGV: window of a queue, window of all, share of maxmemory in use allowed, most of a queue in
-- a round, then the queues.
local window, all, share, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local rooms, queues = {}, {}
for i = 5, #ARGV do
  rooms[i - 4] = 0
  queues[i - 4] = {at = i - 4, length = length_of(ARGV[i])}
end
if short_of_memory(share) then return rooms end
local left = math.max(0, all - redis.call('HLEN', PLACE))
table.sort(queues, function(a, b) return a.length < b.length or (a.length == b.length and a.at < b.at) end)
for _, queue in ipairs(queues) do
  local room = math.min(most, window - queue.length, math.max(left, LEAST - queue.length))
  if room > 0 then
    rooms[queue.at] = room
    left = math.max(0, left - room)
  end
end
return rooms
