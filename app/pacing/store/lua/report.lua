-- A worker's report of what it consumes and how many calls it can hold, with pacing time. ARGV: worker, facts as JSON.
redis.call('HSET', WORKERS, ARGV[1], seconds(pacing_time()) .. '|' .. ARGV[2])
return 'ok'
