-- How many more messages that go by their deadline each of a queue's lists would take. ARGV: queue.
local rooms = {}
for i, step in ipairs(STEPS) do rooms[i] = math.max(0, ORDERED - #ordered_part(list_of(ARGV[1], step))) end
return rooms
