"""What happens to pairs atomically, in the store itself, by its own clock."""

from __future__ import annotations

from serving.scripts import NOW
from serving.solaris.record import FORMAT, HEAD_BYTES

MERGE_PAIRS = (
    NOW
    + f"local FORMAT, HEAD = {FORMAT}, {HEAD_BYTES}"
    + """
-- KEYS: records of one partition. ARGV: allowance, ttl (ms), head, then for each record: most entries, new ones
local allowance, ttl, head = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local size = HEAD + 2 * struct.unpack('<I2', head, 5)
local stamp = struct.pack('<i8', now)

-- The order of a record, and who goes first when it is full. An entry is exchanged only for one that stands higher, so
-- what is kept does not depend on the order of arrival.
local function higher(a, b)
  if a.feature ~= b.feature then return a.feature > b.feature end
  if a.version ~= b.version then return a.version > b.version end
  if a.priority ~= b.priority then return a.priority > b.priority end
  if a.high ~= b.high then return a.high < b.high end
  return a.low < b.low
end

local function entry_at(value, begin)
  local low, high, version, feature, write, priority = struct.unpack('<I4i4I4i8i8f', value, begin)
  return {
    member = string.sub(value, begin, begin + 7), low = low, high = high, version = version, feature = feature,
    write = write, priority = priority, bytes = string.sub(value, begin, begin + size - 1)
  }
end

-- Those that have not outlived their time; and whether the record is of another width and newer than `than`.
local function entries_of(value, than)
  if type(value) ~= 'string' or #value < 6 or string.byte(value) ~= FORMAT then return {}, false end
  local count, width = struct.unpack('<I2I2', value, 3)
  if count == 0 or #value ~= 6 + count * (HEAD + 2 * width) then return {}, false end
  local version, feature, write = struct.unpack('<I4i8i8', value, 15)
  if string.sub(value, 5, 6) ~= string.sub(head, 5, 6) then
    local newer = feature > than.feature or (feature == than.feature and version > than.version)
    return {}, newer and write > now - ttl
  end
  local entries = {}
  for begin = 7, #value, size do
    local one = entry_at(value, begin)
    if one.write > now - ttl then entries[#entries + 1] = one end
  end
  return entries, false
end

-- An entry as it came, written now. The same computation again is dated anew, with the higher priority.
local function stamped(one, priority)
  one.priority = math.max(one.priority, priority)
  one.bytes = string.sub(one.bytes, 1, 20) .. stamp .. struct.pack('<f', one.priority) .. string.sub(one.bytes, 33)
  return one
end

local function merged(key, most, given)
  local entries, new, first, late = {}, {}, nil, 0
  for begin = 1, #given, size do
    local one = entry_at(given, begin)
    if one.feature <= now + allowance then
      new[#new + 1] = one
      if not first or higher(one, first) then first = one end
    else
      late = late + 1
    end
  end
  if not first then return 0, late end
  local old, is_newer = entries_of(redis.pcall('GET', key), first)
  if is_newer then return 0, late end
  local place = {}
  for _, one in ipairs(old) do
    entries[#entries + 1] = one
    place[one.member] = #entries
  end
  for _, one in ipairs(new) do
    local at = place[one.member]
    local known = at and entries[at]
    if not known then
      entries[#entries + 1] = stamped(one, one.priority)
      place[one.member] = #entries
    elseif one.feature == known.feature and one.version == known.version then
      entries[at] = stamped(one, known.priority)
    elseif higher(one, known) then
      entries[at] = stamped(one, one.priority)
    end
  end
  table.sort(entries, higher)
  local parts, kept = {}, 0
  for i = 1, math.min(#entries, most) do
    parts[i] = entries[i].bytes
    place[entries[i].member] = 0
  end
  for _, one in ipairs(new) do
    if place[one.member] == 0 then
      kept, place[one.member] = kept + 1, nil
    end
  end
  local record = string.sub(head, 1, 2) .. struct.pack('<I2', #parts) .. string.sub(head, 5, 6) .. table.concat(parts)
  redis.call('SET', key, record, 'PX', ttl)
  return kept, late
end

local found = {}
for k = 1, #KEYS do
  found[2 * k - 1], found[2 * k] = merged(KEYS[k], tonumber(ARGV[2 + 2 * k]), ARGV[3 + 2 * k])
end
return found
"""
)
"""Of each record: how many of the new members are in it now, and how many entries were from the future.

The newest features come first, of the same features the newest version, of the same version the highest priority; with
more than `most` entries the last ones go. The same computation again (member, features, version) changes its write
time alone.
"""

ENQUEUE_PAIRS = (
    NOW
    + f"local FORMAT, HEAD = {FORMAT}, {HEAD_BYTES}"
    + """
-- KEYS: queue, leases, held, features of some users, records of the same
-- ARGV: longest, most entries, their width, how long they are fresh (ms), then of each pair member, priority and which
--       of the users it is of, from 1
local found, records = {}, {}

-- A record that is full of what is fresh: its last entry, and who is in it; else nothing.
local function full(value)
  if type(value) ~= 'string' or #value < 6 or string.byte(value) ~= FORMAT then return {} end
  local count, width = struct.unpack('<I2I2', value, 3)
  local size, most = HEAD + 2 * width, tonumber(ARGV[2])
  if count < most or width ~= tonumber(ARGV[3]) or #value ~= 6 + count * size then return {} end
  local members = {}
  for begin = 7, 6 + most * size, size do
    if struct.unpack('<i8', value, begin + 20) <= now - ARGV[4] then return {} end
    members[string.sub(value, begin, begin + 7)] = true
  end
  return {members = members, last = 7 + (most - 1) * size, value = value}
end

-- Whether the store would not keep it: it stands below the last entry of a full record.
local function outranked(pair, priority, user)
  if not records[user] then records[user] = full(redis.pcall('GET', KEYS[(#KEYS - 3) / 2 + 3 + user])) end
  local record, member = records[user], string.sub(pair, 9, 16)
  if not record.members or record.members[member] then return false end
  local features = redis.pcall('GETRANGE', KEYS[3 + user], 0, 7)
  if type(features) ~= 'string' or #features < 8 then return false end
  local feature = struct.unpack('<i8', features)
  local low, high, version, last_feature, _, last = struct.unpack('<I4i4I4i8i8f', record.value, record.last)
  if feature ~= last_feature then return feature < last_feature end
  local mine = struct.unpack('<f', struct.pack('<f', priority))
  if mine ~= last then return mine < last end
  local my_low, my_high = struct.unpack('<I4i4', member)
  if my_high ~= high then return my_high > high end
  return my_low > low
end

local function outcome(member, priority, user)
  if redis.call('EXISTS', KEYS[3 + user]) == 0 then return -2 end
  if outranked(member, tonumber(priority), tonumber(user)) then return -3 end
  if redis.call('ZSCORE', KEYS[2], member) then return 0 end
  local known = redis.call('ZSCORE', KEYS[1], member)
  if known then
    if tonumber(known) < tonumber(priority) then redis.call('ZADD', KEYS[1], priority, member) end
    return 0
  end
  if redis.call('ZCARD', KEYS[1]) < tonumber(ARGV[1]) then
    redis.call('ZADD', KEYS[1], priority, member)
    return 1
  end
  local lowest = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
  if tonumber(lowest[2]) >= tonumber(priority) then return -1 end
  redis.call('ZREM', KEYS[1], lowest[1])
  redis.call('HDEL', KEYS[3], lowest[1])
  redis.call('ZADD', KEYS[1], priority, member)
  return 2
end
for k = 5, #ARGV, 3 do found[#found + 1] = outcome(ARGV[k], ARGV[k + 1], ARGV[k + 2]) end
return found
"""
)
"""Of each: 1: queued; 0: waits already, with the higher priority of the two, or is worked on; -1: shed; 2: queued, and
one of a lower priority was shed for it; -2: the user has no features that it could be computed with; -3: outranked: the
user's record is full of what is fresh, and what would be made of the features that the store has now stands below all
of it. Newer features, a higher priority and an entry that ages let it in."""

TAKE_PAIRS = (
    NOW
    + """
-- KEYS: queue, leases, held, rate, aside
-- ARGV: most to take, lease in ms, most deliveries, microseconds between two pairs (0: no limit), burst in
--       microseconds, most that is kept aside, deliveries from which on a pair is given out alone
local HELD = '<I4d'
local most = tonumber(ARGV[1])

local overdue, again, aside = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, most), 0, 0
for _, member in ipairs(overdue) do
  local deliveries, priority = struct.unpack(HELD, redis.call('HGET', KEYS[3], member) or struct.pack(HELD, 0, 0))
  redis.call('ZREM', KEYS[2], member)
  if deliveries >= tonumber(ARGV[3]) then
    redis.call('HDEL', KEYS[3], member)
    redis.call('LPUSH', KEYS[5], struct.pack('<i8I4', now, deliveries) .. member)
    redis.call('LTRIM', KEYS[5], 0, ARGV[6] - 1)
    aside = aside + 1
  else
    redis.call('ZADD', KEYS[1], 'GT', string.format('%.17g', priority), member)
    again = again + 1
  end
end

local found, interval = {again, aside}, tonumber(ARGV[4])
local number, micros, free = math.min(most, redis.call('ZCARD', KEYS[1])), time[1] * 1000000 + time[2], 0
if interval > 0 and number > 0 then
  free = math.max(tonumber(redis.call('GET', KEYS[4]) or '0'), micros - ARGV[5])
  number = math.min(number, math.max(math.floor((micros - free) / interval) + 1, 0))
end
if number == 0 then return found end

local waiting, given = redis.call('ZREVRANGE', KEYS[1], 0, number - 1, 'WITHSCORES'), 0
for i = 1, #waiting, 2 do
  local member, priority = waiting[i], waiting[i + 1]
  local held = redis.call('HGET', KEYS[3], member)
  local deliveries = (held and struct.unpack(HELD, held) or 0) + 1
  local is_alone = deliveries >= tonumber(ARGV[7])
  if is_alone and given > 0 then break end
  redis.call('ZREM', KEYS[1], member)
  redis.call('HSET', KEYS[3], member, struct.pack(HELD, deliveries, tonumber(priority)))
  redis.call('ZADD', KEYS[2], now + ARGV[2], member)
  found[#found + 1] = member
  found[#found + 1] = priority
  found[#found + 1] = deliveries
  given = given + 1
  if is_alone then break end
end
if interval > 0 then
  free = free + given * interval
  redis.call('SET', KEYS[4], string.format('%.0f', free), 'PX', math.ceil((free - micros + ARGV[5]) / 1000) + 1)
end
return found
"""
)
"""How many were taken over from workers that did not get them done, how many were set aside; then of each pair taken,
the highest priority first: member, priority, deliveries. What others did not get done so often that it may be what
they died of comes alone: a process that dies of it charges nobody else a delivery."""

DONE_PAIRS = """
-- KEYS: leases, held. ARGV: members
local found = redis.call('ZREM', KEYS[1], unpack(ARGV))
redis.call('HDEL', KEYS[2], unpack(ARGV))
return found
"""
"""How many nobody else had done."""

RENEW_PAIRS = (
    NOW
    + """
-- KEYS: leases. ARGV: lease in ms, members
for k = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', now + ARGV[1], ARGV[k]) end
"""
)
"""Nothing. Those that are leased, by whomever, are leased from now on; others are not."""
