-- A script failed over data in our keys that we did not write. What has another type than ours, or a word where
-- we count, is renamed, for a person to look at within a week; then the generation ends, as more may have
-- been changed: the leader rebuilds from the database. ARGV: term, how many quotas, their ids, then the key lists.
-- Returns {'ok', names of what was set aside}.
local term, aside = ARGV[1], {}

local function away(key)
  redis.call('RENAME', key, ASIDE .. ':' .. key)
  redis.call('EXPIRE', ASIDE .. ':' .. key, 604800)
  aside[#aside + 1] = key
end

local function expect(kind, key)
  local found = redis.call('TYPE', key).ok
  if found == kind or found == 'none' then return found == kind end
  away(key)
  return false
end

expect('hash', GATE)
if not leads(term) and redis.call('HGET', GATE, 'term') then return {'term'} end
for _, field in ipairs({'changes', 'beat', 'release'}) do
  local value = redis.call('HGET', GATE, field)
  if value and not string.match(value, '^-?%d+$') then redis.call('HDEL', GATE, field) end
end
for _, key in ipairs({PLACE, PERMITS, QUEUES, OVERFLOW, FLIGHT, WORKERS, ASIDE_COUNTS}) do expect('hash', key) end
for _, key in ipairs({UNREDEEMED, ORPHANS}) do expect('zset', key) end
for _, key in ipairs({OUTCOMES, WAKE, WAKE_FEEDER, ASIDE}) do expect('list', key) end
expect('set', REQUEUE)
for _, queue in ipairs(redis.call('HKEYS', QUEUES)) do
  for _, step in ipairs(STEPS) do expect('list', list_of(queue, step)) end
end
local quotas_given = tonumber(ARGV[2])
for i = 3, #ARGV do
  local key = i < 3 + quotas_given and 'penstock:quota:' .. ARGV[i] or ARGV[i]
  if i >= 3 + quotas_given then
    expect('list', key)
  elseif expect('hash', key) then
    local values = redis.call('HMGET', key, 'rate', 'size', 'level', 'token_rate', 'token_size', 'tokens', 'cap',
      'flight', 'at', 'until', 'braked_at', 'sent', 'brakes')
    for _, value in ipairs(values) do
      if value and not tonumber(value) then
        away(key)
        break
      end
    end
  end
end
redis.call('HDEL', GATE, 'run_id')
return {'ok', aside}
