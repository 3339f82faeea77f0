-- One request of a client against its requests per minute: a bucket of `rpm`, refilled evenly.
-- ARGV: client, rpm. Returns {1 or 0, how many are left, milliseconds until one is there, until it is full}.
local key, size = 'penstock:rpm:' .. ARGV[1], tonumber(ARGV[2])
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local stored = redis.call('HMGET', key, 'level', 'at')
local rate = size / 60
local level = tonumber(stored[1]) or size
local passed = math.max(0, now - (tonumber(stored[2]) or now))
level = math.min(size, level + passed * rate)
local allowed = 0
if level >= 1 then
  level = level - 1
  allowed = 1
end
redis.call('HSET', key, 'level', seconds(level), 'at', seconds(now))
redis.call('EXPIRE', key, 120)
local wait = math.max(0, math.ceil((1 - level) / rate * 1000))
return {allowed, math.floor(level), wait, math.ceil((size - level) / rate * 1000)}
