-- Shared by all scripts: it is prepended to each when they are loaded.
-- Pacing time is TIME less a stored skew. A step back, or a gap above 5 s, is added to the skew, so that neither a wall
-- clock that steps nor a frozen server releases a flood, or stops all releases. Redis 6.2 commands only.

local GATE, PLACE, PERMITS, UNREDEEMED = 'penstock:gate', 'penstock:place', 'penstock:permits', 'penstock:unredeemed'
local QUEUES, OVERFLOW, FLIGHT, ORPHANS = 'penstock:queues', 'penstock:overflow', 'penstock:flight', 'penstock:orphan permits'
local WORKERS, OUTCOMES, REQUEUE = 'penstock:workers', 'penstock:outcomes', 'penstock:refeed'
local ASIDE, ASIDE_COUNTS = 'penstock:aside', 'penstock:aside:counts'
local WAKE, WAKE_FEEDER, DONE = 'penstock:wake', 'penstock:wake:feeder', 'penstock:done'
local STEPS = {0, 3, 6}
local MAX_GAP = 5

local function seconds(value) return string.format('%.6f', value) end

local function pacing_time()
  local clock = redis.call('TIME')
  local raw = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
  local stored = redis.call('HMGET', GATE, 'clock', 'skew')
  local last, skew = tonumber(stored[1]) or raw, tonumber(stored[2]) or 0
  if raw < last or raw - last > MAX_GAP then
    skew = skew + raw - last
    redis.call('HSET', GATE, 'skew', seconds(skew))
  end
  redis.call('HSET', GATE, 'clock', seconds(raw))
  return raw - skew
end

local function run_id() return string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') end

-- Whether the data was written since this server process started, so that nothing was lost unnoticed.
local function same_generation()
  local stored = redis.call('HGET', GATE, 'run_id')
  return stored and stored == run_id()
end

local function leads(term) return redis.call('HGET', GATE, 'term') == term end

local function list_of(queue, step)
  if tonumber(step) == 0 then return queue end
  return queue .. '\6\22' .. step
end

-- A queue with fewer messages than this takes more even when the window of all queues is full: no backlog blocks another.
local LEAST = 100

-- Messages of a queue, all its lists together.
local function length_of(queue)
  local sum = 0
  for _, step in ipairs(STEPS) do sum = sum + redis.call('LLEN', list_of(queue, step)) end
  return sum
end

-- The leader reads the heads of queues that changed. It caches at most `LOOKED` heads of a list: changes behind them do
-- not matter to it.
local LOOKED = 128

local function changed(queue) redis.call('HSET', QUEUES, queue, redis.call('HINCRBY', GATE, 'changes', 1)) end

-- Whether more than this share of maxmemory is in use.
local function short_of_memory(share)
  local memory = redis.call('INFO', 'memory')
  local limit = tonumber(string.match(memory, '\nmaxmemory:(%d+)'))
  return limit and limit > 0 and tonumber(string.match(memory, '\nused_memory:(%d+)')) > limit * share
end

local function wake(key)
  if redis.call('LLEN', key) == 0 then redis.call('LPUSH', key, 1) end
end

-- The id of the task in a message, as kombu wrote it; nil for a message that is not ours.
local function task_of(message) return string.match(message, '"correlation_id": ?"([%w_.-]+)"') end

-- Keeps unreadable entries for inspection, the newest 100 for a week, and counts them for the leader's log.
local function set_aside(kind, what)
  redis.call('HINCRBY', ASIDE_COUNTS, kind, 1)
  redis.call('LPUSH', ASIDE, what)
  redis.call('LTRIM', ASIDE, 0, 99)
  redis.call('EXPIRE', ASIDE, 604800)
end

local function decoded(text)
  local read, value = pcall(cjson.decode, text)
  return read and type(value) == 'table' and value or nil
end

-- A task's permit; nil where there is none. An unreadable one counts as none: its task is queued again.
local function permit_of(id)
  local stored = redis.call('HGET', PERMITS, id)
  if not stored then return nil end
  local permit = decoded(stored)
  if permit and type(permit.n) == 'string' and type(permit.k) == 'string' and type(permit.q) == 'table'
    and type(permit.t) == 'number' and type(permit.e) == 'number' then
    return permit
  end
  set_aside('permit', stored)
  redis.call('HDEL', PERMITS, id)
  redis.call('ZREM', UNREDEEMED, id)
  redis.call('SADD', REQUEUE, id)
  return nil
end

-- Quotas: loaded once a script, refilled to `now`, written back if changed.
local quotas = {}

local function quota(id, now)
  local q = quotas[id]
  if q then return q end
  local v = redis.call('HMGET', 'penstock:quota:' .. id, 'rate', 'size', 'level', 'token_rate', 'token_size', 'tokens',
    'cap', 'flight', 'at', 'until', 'braked_at', 'sent')
  q = {rate = tonumber(v[1]), size = tonumber(v[2]), level = tonumber(v[3]), token_rate = tonumber(v[4]),
    token_size = tonumber(v[5]), tokens = tonumber(v[6]), cap = tonumber(v[7]), flight = tonumber(v[8]) or 0,
    at = tonumber(v[9]) or now, braked_until = tonumber(v[10]) or 0, braked_at = tonumber(v[11]) or 0,
    sent = tonumber(v[12])}
  local passed = math.max(0, now - q.at)
  if q.rate then
    -- Levels of calls are never negative: one below 0 was written in error, and would stop the quota for as long.
    q.level = math.min(q.size, math.max(0, q.level or 0) + passed * q.rate)
    -- What may be sent, as against released: 0.15 s' worth more, for the jitter in between. Another 0.1 s may pass from
    -- here to the send (permits.py): together what the bucket size leaves room for (routing.py).
    q.sent_size = q.size + 0.15 * q.rate
    q.sent = math.min(q.sent_size, math.max(0, q.sent or q.sent_size) + passed * q.rate)
  end
  if q.token_rate then q.tokens = math.min(q.token_size, (q.tokens or 0) + passed * q.token_rate) end
  q.at = now
  quotas[id] = q
  return q
end

local function store_quotas()
  for id, q in pairs(quotas) do
    if q.changed then
      local fields = {'flight', q.flight, 'at', seconds(q.at)}
      if q.rate then
        fields[#fields + 1] = 'level'; fields[#fields + 1] = seconds(q.level)
        fields[#fields + 1] = 'sent'; fields[#fields + 1] = seconds(q.sent)
      end
      if q.token_rate then fields[#fields + 1] = 'tokens'; fields[#fields + 1] = seconds(q.tokens) end
      redis.call('HSET', 'penstock:quota:' .. id, unpack(fields))
    end
  end
end

local function take(q, estimate)
  q.flight = q.flight + 1
  if q.rate then q.level = q.level - 1 end
  if q.token_rate then q.tokens = q.tokens - estimate end
  q.changed = true
end

-- Counts a send that happens now on its quotas. Where sends would bunch, returns the seconds to wait instead.
local function count_send(names, now)
  local pause = 0
  for _, name in ipairs(names) do
    local q = quota(name, now)
    if q.rate and q.sent < 1 then pause = math.max(pause, (1 - q.sent) / q.rate) end
  end
  if pause > 0 then return pause end
  for _, name in ipairs(names) do
    local q = quota(name, now)
    if q.rate then q.sent = q.sent - 1; q.changed = true end
  end
  store_quotas()
end

-- Ends a permit. `used` tokens: nil keeps the reservation; `called` false gives everything back.
local function end_permit(id, permit, now, used, called)
  redis.call('HDEL', PERMITS, id)
  redis.call('ZREM', UNREDEEMED, id)
  redis.call('HINCRBY', FLIGHT, permit.k, -1)
  for _, name in ipairs(permit.q) do
    local q = quota(name, now)
    q.flight = math.max(0, q.flight - 1)
    q.changed = true
    if not called then
      if q.rate then q.level = math.min(q.size, q.level + 1) end
      if q.token_rate then q.tokens = math.min(q.token_size, q.tokens + permit.e) end
    elseif used and q.token_rate then
      local refund = permit.e - used
      if refund < 0 then
        q.tokens = q.tokens + refund
      elseif now - permit.t <= 60 then
        q.tokens = math.min(q.token_size, q.tokens + refund)
      end
    end
  end
end

local function brake(name, now, pause, why)
  local key = 'penstock:quota:' .. name
  local until_at = math.max(tonumber(redis.call('HGET', key, 'until')) or 0, now + pause)
  redis.call('HSET', key, 'until', seconds(until_at), 'braked_at', seconds(now), 'why', why)
  redis.call('HINCRBY', key, 'brakes', 1)
end

-- Lists with messages ordered by deadline: these come first, the nearest first; at most ORDERED of them, so that finding
-- a position takes a short walk. A place's sixth field is its deadline; '' for none, 0 for what was put to
-- the very front.
local ORDERED = 500

local function due_of(place)
  return tonumber(string.match(place, '^[^|]*|[^|]*|[^|]*|[^|]*|[^|]*|([^|]*)') or '')
end

local function first_of_all(place)
  return (string.gsub(place, '^([^|]*|[^|]*|[^|]*|[^|]*|[^|]*|)[^|]*', '%10'))
end

-- The messages ordered by deadline at a list's served end, each with its deadline; also void ones between them.
local function ordered_part(list)
  local part = {}
  while #part <= 2 * ORDERED do
    local page = redis.call('LRANGE', list, -#part - 128, -#part - 1)
    if #page == 0 then break end
    local ids = {}
    for i = #page, 1, -1 do ids[#ids + 1] = task_of(page[i]) or '' end
    local places = redis.call('HMGET', PLACE, unpack(ids))
    for i = 1, #ids do
      local due = 0
      if places[i] then due = due_of(places[i]) end
      if not due then return part end
      part[#part + 1] = {due, page[#page - i + 1]}
    end
    if #page < 128 then break end
  end
  return part
end

-- Inserts newcomers ({due, message}, ...) by deadline, after equal ones. `part` is the list's ordered one.
local function place_by_due(list, part, newcomers)
  table.sort(newcomers, function(a, b) return a[1] < b[1] or (a[1] == b[1] and a[3] < b[3]) end)
  local merged, at = {}, 1
  for _, one in ipairs(newcomers) do
    while part[at] and part[at][1] <= one[1] do
      merged[#merged + 1] = part[at][2]
      at = at + 1
    end
    merged[#merged + 1] = one[2]
  end
  if at > 1 then redis.call('RPOP', list, at - 1) end
  for i = #merged, 1, -1 do redis.call('RPUSH', list, merged[i]) end
end
