-- Counts a send that comes now. ARGV: its quotas. Gives back {'ok'} or {'later', seconds} (sends would bunch: ask again).
if not same_epoch() then return {'epoch'} end
local pause = count_send(ARGV, gate_time())
if pause then return {'later', seconds(pause)} end
return {'ok'}
