-- Reclaims permits that were not redeemed in time: tokens returned, the message to the front of its backlog queue, or,
-- when a worker has popped it, its task to those that are queued again. Orphan permits (slots of lost workers' calls,
-- which may still run upstream) that are due end. ARGV: term, age in seconds.
local term, age = ARGV[1], tonumber(ARGV[2])
if not same_generation() then return {'epoch'} end
if not leads(term) then return {'term'} end
local now = pacing_time()
local taken = 0
local lists, touched, ordered = {}, {}, {}

-- A key list's messages by task id; read once, or 500 permits over a list of 1,000 would hold Redis for seconds.
local function messages_of(list)
  if not lists[list] then
    lists[list] = {}
    for _, message in ipairs(redis.call('LRANGE', list, 0, -1)) do lists[list][task_of(message) or ''] = message end
  end
  return lists[list]
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', UNREDEEMED, '-inf', seconds(now - age), 'LIMIT', 0, 500)) do
  local permit = permit_of(id)
  if permit then
    local list = permit.r
    local found = list and permit.l and permit.p and messages_of(list)[id]
    end_permit(id, permit, now, nil, false)
    if found then
      redis.call('LREM', list, 0, found)
      local due = due_of(permit.p)
      if due and due > 0 then
        local newcomers = ordered[permit.l] or {}
        ordered[permit.l] = newcomers
        newcomers[#newcomers + 1] = {due, found, #newcomers}
        redis.call('HSET', PLACE, id, permit.p)
      else
        redis.call('RPUSH', permit.l, found)
        redis.call('HSET', PLACE, id, first_of_all(permit.p))
      end
      touched[string.gsub(permit.l, '\6\22%d+$', '')] = true
    else
      redis.call('SADD', REQUEUE, id)
    end
    taken = taken + 1
  else
    redis.call('ZREM', UNREDEEMED, id)
  end
end
-- All of a list at once: one by one, each would walk the list and push what stands before it again.
for list, newcomers in pairs(ordered) do place_by_due(list, ordered_part(list), newcomers) end
for _, orphan in ipairs(redis.call('ZRANGEBYSCORE', ORPHANS, '-inf', seconds(now), 'LIMIT', 0, 500)) do
  local g = decoded(orphan)
  redis.call('ZREM', ORPHANS, orphan)
  if not g or type(g.q) ~= 'table' then
    set_aside('ghost', orphan)
    g = {q = {}}
  end
  for _, name in ipairs(g.q) do
    local q = quota(name, now)
    q.flight = math.max(0, q.flight - 1)
    q.changed = true
  end
  taken = taken + 1
end
for queue in pairs(touched) do changed(queue) end
store_quotas()
return {'ok', taken}
