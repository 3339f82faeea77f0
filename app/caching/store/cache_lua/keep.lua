-- Stores an entry and bounds their number: the expired go first, then the least recently used or, with lfu, the least
-- frequently used, but never the new one for that. KEYS: index of uses, entry, time of the last replacement, index of
-- expiries (lfu only). ARGV: value, lifetime in milliseconds, most entries, longest lifetime in seconds, "lru" or "lfu".
local used, entry, replaced, expiries = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local most, lfu = tonumber(ARGV[3]), ARGV[5] == 'lfu'
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
if redis.call('EXISTS', entry) == 1 then
  redis.call('SET', replaced, clock[1] .. '.' .. clock[2])
end
redis.call('SET', entry, ARGV[1], 'PX', ARGV[2])
local score = redis.call('ZSCORE', used, entry)
if lfu then
  local expired = redis.call('ZRANGEBYSCORE', expiries, '-inf', now, 'LIMIT', 0, 1000)
  for _, name in ipairs(expired) do
    if name ~= entry then redis.call('ZREM', used, name) end
    redis.call('ZREM', expiries, name)
  end
else
  redis.call('ZREMRANGEBYSCORE', used, '-inf', now - tonumber(ARGV[4]) - 1)
end
redis.call('ZREM', used, entry)
local over = redis.call('ZCARD', used) + 1 - most
if over > 0 then
  local evicted = redis.call('ZPOPMIN', used, math.min(over, 1000))
  for i = 1, #evicted, 2 do
    redis.call('UNLINK', evicted[i])
    redis.call('ZREM', expiries, evicted[i])
  end
end
if lfu then
  local uses = score and math.floor(tonumber(score)) + 1 or 1
  redis.call('ZADD', used, string.format('%.9f', uses + now / 1e10), entry)
  redis.call('ZADD', expiries, string.format('%.3f', now + ARGV[2] / 1000), entry)
else
  redis.call('ZADD', used, string.format('%.6f', now), entry)
end
return 1
