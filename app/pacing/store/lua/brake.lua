-- Brakes a quota for a while: nothing is released, and permits released before cannot be redeemed. ARGV: term, quota, seconds, why.
if not leads(ARGV[1]) then return {'term'} end
brake(ARGV[2], pacing_time(), tonumber(ARGV[3]), ARGV[4])
return {'ok'}
