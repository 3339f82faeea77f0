-- Writes the limits of quotas; levels are kept, a new bucket starts empty. ARGV: term, then for each quota: id, rate,
-- size, token rate, token size, cap ('' for none).
local term = ARGV[1]
if not leads(term) then return {'term'} end
local now = pacing_time()
local fields = {'rate', 'size', 'token_rate', 'token_size', 'cap'}
for i = 2, #ARGV, 6 do
  local key = 'penstock:quota:' .. ARGV[i]
  local before = redis.call('HMGET', key, 'rate', 'token_rate')
  local q = quota(ARGV[i], now)
  q.changed = true
  store_quotas()
  quotas[ARGV[i]] = nil
  for j, field in ipairs(fields) do
    if ARGV[i + j] == '' then redis.call('HDEL', key, field) else redis.call('HSET', key, field, ARGV[i + j]) end
  end
  if not before[1] then redis.call('HSET', key, 'level', 0, 'sent', 0) end
  if not before[2] then redis.call('HSET', key, 'tokens', 0) end
end
return {'ok'}
