-- The leader resigns; a candidate may lead at once. ARGV: term.
if not leads(ARGV[1]) then return {'term'} end
redis.call('HDEL', GATE, 'term')
return {'ok'}
