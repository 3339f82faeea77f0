-- The feeder found no more rows in the database for a queue: others may publish to it again, unless another was refused
-- meanwhile. ARGV: queue, refusals seen before the database was read.
if redis.call('HGET', OVERFLOW, ARGV[1]) == ARGV[2] then redis.call('HDEL', OVERFLOW, ARGV[1]) end
return 'ok'
