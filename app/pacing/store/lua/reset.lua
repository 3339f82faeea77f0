-- Begins a generation: places and permits in Redis cannot be trusted and are deleted; they are rebuilt from the
-- database. ARGV: term, generation, then the key lists. Lists are unlinked: freeing them costs this script nothing.
local term = ARGV[1]
if not leads(term) and redis.call('HGET', GATE, 'term') then return {'term'} end
for _, queue in ipairs(redis.call('HKEYS', QUEUES)) do
  for _, step in ipairs(STEPS) do redis.call('UNLINK', list_of(queue, step)) end
end
for i = 3, #ARGV do redis.call('UNLINK', ARGV[i]) end
redis.call('UNLINK', PLACE, PERMITS, UNREDEEMED, QUEUES, OVERFLOW, FLIGHT, ORPHANS, OUTCOMES, REQUEUE)
redis.call('HDEL', GATE, 'run_id')
redis.call('HSET', GATE, 'term', term, 'epoch', ARGV[2])
return {'ok'}
