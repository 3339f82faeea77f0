-- A worker's word on what it consumes and can take, stamped with pacing time. ARGV: worker, facts as JSON.
redis.call('HSET', WORKERS, ARGV[1], seconds(pacing_time()) .. '|' .. ARGV[2])
return 'ok'
