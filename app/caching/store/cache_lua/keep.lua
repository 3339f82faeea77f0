-- Stores an entry and bounds their number: entries unused for longer than the longest lifetime are deleted, then the
-- least recently used. KEYS: index of uses, entry, time of the last replacement. ARGV: value, lifetime in milliseconds,
-- most entries, longest lifetime in seconds.
local used, entry, replaced = KEYS[1], KEYS[2], KEYS[3]
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
if redis.call('EXISTS', entry) == 1 then
  redis.call('SET', replaced, clock[1] .. '.' .. clock[2])
end
redis.call('SET', entry, ARGV[1], 'PX', ARGV[2])
redis.call('ZADD', used, string.format('%.6f', now), entry)
redis.call('ZREMRANGEBYSCORE', used, '-inf', now - tonumber(ARGV[4]) - 1)
local over = redis.call('ZCARD', used) - tonumber(ARGV[3])
if over > 0 then
  local oldest = redis.call('ZPOPMIN', used, math.min(over, 1000))
  for i = 1, #oldest, 2 do redis.call('UNLINK', oldest[i]) end
end
return 1
