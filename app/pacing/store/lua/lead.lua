-- Takes the lead if the term that the candidate saw still stands. ARGV: own term, term seen ('' for none).
-- Returns {'ok', whether the generation is unbroken} or {'term'}.
local seen = redis.call('HGET', GATE, 'term') or ''
if seen ~= ARGV[2] then return {'term'} end
redis.call('HSET', GATE, 'term', ARGV[1], 'beat', 0)
return {'ok', same_generation() and '1' or '0'}
