-- Counts a send that happens now. ARGV: its quotas. Returns {'ok'} or {'later', seconds} (sends would bunch: ask again).
if not same_generation() then return {'epoch'} end
local pause = count_send(ARGV, pacing_time())
if pause then return {'later', seconds(pause)} end
return {'ok'}
