-- Reads entries and records their use. KEYS: index of uses, then the entries. Returns their values
-- in order, false for none. Redis 6.2 commands only.
local used = KEYS[1]
local clock = redis.call('TIME')
local now = string.format('%.6f', clock[1] + clock[2] / 1000000)
local found = {}
for i = 2, #KEYS do
  found[i - 1] = redis.call('GET', KEYS[i])
  if found[i - 1] then redis.call('ZADD', used, 'XX', now, KEYS[i]) end
end
return found
