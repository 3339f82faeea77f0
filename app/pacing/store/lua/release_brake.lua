-- Takes the brake off a quota before its time. ARGV: term, quota.
if not leads(ARGV[1]) then return {'term'} end
local key = 'penstock:quota:' .. ARGV[2]
if redis.call('HEXISTS', key, 'until') == 1 then redis.call('HSET', key, 'until', 0) end
wake(WAKE)
return {'ok'}
