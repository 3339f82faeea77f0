-- The leader's heartbeat. ARGV: term.
if not leads(ARGV[1]) then return {'term'} end
redis.call('HINCRBY', GATE, 'beat', 1)
return {'ok'}
