-- Reads entries and records their use. KEYS: index of uses, then the entries. ARGV: "lru" or "lfu", then for each entry
-- how often it was used elsewhere; without it the entry is read, which is one use. Returns the values in order, false
-- for none. The index orders entries by the time of their last use or, with lfu, by the number of uses, then by time.
-- Redis 6.2 commands only.
local used, policy = KEYS[1], ARGV[1]
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local found = {}
for i = 2, #KEYS do
  local times = ARGV[i]
  found[i - 1] = not times and redis.call('GET', KEYS[i])
  if times or found[i - 1] then
    local score = redis.call('ZSCORE', used, KEYS[i])
    if score and policy == 'lfu' then
      local now_score = math.floor(tonumber(score)) + (times or 1) + now / 1e10
      redis.call('ZADD', used, string.format('%.9f', now_score), KEYS[i])
    elseif score then
      redis.call('ZADD', used, string.format('%.6f', now), KEYS[i])
    end
  end
end
return found
