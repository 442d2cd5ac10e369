"""What happens atomically, in the store itself, by its own clock. `serving.record` says what the bytes are.

The scripts read the time and then write: Redis replicates and logs what they wrote, not their text (by effects, the
default since Redis 5). A value that is not what it should be is taken for none, and is written over: a damaged record
must not shut a user out for ever.
"""

from __future__ import annotations

from serving.record import FORMATS

NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

_MERGE = (
    NOW
    + f"local BY_VERSION = {FORMATS['versions']}"
    + """
local function newer(a, b)
  if a.feature ~= b.feature then return a.feature > b.feature end
  return a.version > b.version
end

-- Whether `one` gives way to `mine`: the same computation, or, where a record keeps one of each version, its version's.
local function gives_way(one, mine, format)
  return one.version == mine.version and (format == BY_VERSION or one.feature == mine.feature)
end

-- The entries of a value in their order, and its K and D as bytes. A value that is no record has none.
local function entries_of(value, format)
  if type(value) ~= 'string' or #value < 7 or string.byte(value) ~= format then return {} end
  local count, k, d = struct.unpack('<BI2I2', value, 2)
  local size, entries = 20 + 2 * k * d, {}
  if count == 0 or #value ~= 6 + count * size then return {} end
  for begin = 7, #value, size do
    local version, feature = struct.unpack('<I4i8', value, begin)
    entries[#entries + 1] = {version = version, feature = feature, bytes = string.sub(value, begin, begin + size - 1)}
  end
  return entries, string.sub(value, 3, 6)
end

-- Of `entries` those that a record keeps, newest first.
local function kept_of(entries)
  table.sort(entries, newer)
  while #entries > most or entries[#entries].feature < entries[1].feature - lookback do entries[#entries] = nil end
  return entries
end

local function put(key, ttl, head, entries)
  local parts = {string.sub(head, 1, 1), string.char(#entries), string.sub(head, 3, 6)}
  for i = 1, #entries do parts[3 + i] = entries[i].bytes end
  redis.call('SET', key, table.concat(parts), 'PX', ttl)
end

-- An entry as it came, written now.
local function entry_of(given)
  local version, feature = struct.unpack('<I4i8', given)
  local bytes = string.sub(given, 1, 12) .. struct.pack('<i8', now) .. string.sub(given, 21)
  return {version = version, feature = feature, bytes = bytes}
end
"""
)

_PLACE = (
    """
local allowance, most, lookback = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
"""
    + _MERGE
    + """
local stamp = struct.pack('<i8', now)

-- What nearly every entry is: newer than all there are, of the same shape. Nothing is taken apart for it.
local function is_put_first(key, ttl, head, given, old)
  local size = #given
  if type(old) ~= 'string' or #old < 6 + size or string.byte(old) ~= string.byte(head) then return false end
  local kept = string.byte(old, 2)
  if #old ~= 6 + kept * size or string.sub(old, 3, 6) ~= string.sub(head, 3, 6) then return false end
  local version, feature = struct.unpack('<I4i8', given)
  local first_version, first = struct.unpack('<I4i8', old, 7)
  if feature < first or (feature == first and version <= first_version) then return false end
  for i = 0, string.byte(head) == BY_VERSION and kept - 1 or -1 do
    if struct.unpack('<I4', old, 7 + i * size) == version then return false end
  end
  kept = math.min(kept, most - 1)
  while kept > 0 and struct.unpack('<i8', old, 11 + (kept - 1) * size) < feature - lookback do kept = kept - 1 end
  local record = string.sub(head, 1, 1) .. string.char(kept + 1) .. string.sub(head, 3, 6)
    .. string.sub(given, 1, 12) .. stamp .. string.sub(given, 21) .. string.sub(old, 7, 6 + kept * size)
  redis.call('SET', key, record, 'PX', ttl)
  return true
end

local function place_of(key, ttl, head, given)
  local _, feature = struct.unpack('<I4i8', given)
  if feature > now + allowance then return -1 end
  local value = redis.pcall('GET', key)
  if is_put_first(key, ttl, head, given, value) then return 1 end
  local mine = entry_of(given)
  local old, shape = entries_of(value, string.byte(head))
  if shape and shape ~= string.sub(head, 3, 6) then
    if newer(old[1], mine) then return 0 end
    old = {}
  end
  local entries = {mine}
  for _, one in ipairs(old) do
    if not gives_way(one, mine, string.byte(head)) then
      entries[#entries + 1] = one
    elseif one.feature > mine.feature then
      return 0
    end
  end
  for place, one in ipairs(kept_of(entries)) do
    if one == mine then
      put(key, ttl, head, entries)
      return place
    end
  end
  return 0
end
"""
)

MERGE = (
    """
-- KEYS: records of one user
-- ARGV: allowance, entries kept, lookback (times in ms), then per record: ttl in ms, head, entry
"""
    + _PLACE
    + """
local places = {}
for k = 1, #KEYS do places[k] = place_of(KEYS[k], ARGV[1 + 3 * k], ARGV[2 + 3 * k], ARGV[3 + 3 * k]) end
return places
"""
)
"""The entry's place in each record, 1 for the newest; 0: older than what is kept, dropped; -1: from the future.

The same entry again (version and feature time) takes the place of the first: it was computed once more. In a record of
one entry per version a version's newer features take the place of its older ones.
"""

MERGE_MANY = (
    """
-- KEYS: records of users of one partition, model by model
-- ARGV: as MERGE's, then per model: how many records, ttl in ms, head, their entries one after the other
"""
    + _PLACE
    + """
local places, k = {}, 0
for at = 4, #ARGV, 4 do
  local number, ttl, head, blob = tonumber(ARGV[at]), ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local size = #blob / number
  for i = 1, number do
    k = k + 1
    places[k] = place_of(KEYS[k], ttl, head, string.sub(blob, (i - 1) * size + 1, i * size))
  end
end
return places
"""
)
"""As MERGE: what a batch computed, in as few words as possible."""

SEED = (
    """
-- KEYS: records of many users, of one model
-- ARGV: allowance, entries kept, lookback, ttl in ms, head, an entry for each key, versions to drop (u32 each)
local allowance, most, lookback = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local ttl, head, blob = ARGV[4], ARGV[5], ARGV[6]
local dropped = {}
for at = 1, #ARGV[7], 4 do dropped[struct.unpack('<I4', ARGV[7], at)] = true end
"""
    + _MERGE
    + """
local shape, size = string.sub(head, 3, 6), #blob / #KEYS
local counts = {0, 0, 0, 0}
local WRITTEN, KNOWN, OLDER, FUTURE = 1, 2, 3, 4

local function seed(key, mine)
  if mine.feature > now + allowance then return FUTURE end
  local old, other = entries_of(redis.pcall('GET', key), string.byte(head))
  if other and other ~= shape then
    if newer(old[1], mine) and not dropped[old[1].version] then return OLDER end
    old = {}
  end
  local entries, known, older = {}, false, false
  for _, one in ipairs(old) do
    local gives = gives_way(one, mine, string.byte(head))
    known = known or (gives and one.feature == mine.feature)
    older = older or (gives and one.feature > mine.feature)
    if not dropped[one.version] and not (gives and one.feature < mine.feature) then entries[#entries + 1] = one end
  end
  local changed = #entries < #old
  if not known and not older then entries[#entries + 1] = mine end
  entries = kept_of(entries)
  local added = false
  for _, one in ipairs(entries) do added = added or one == mine end
  if added or changed then put(key, ttl, head, entries) end
  return added and WRITTEN or known and KNOWN or OLDER
end

for k = 1, #KEYS do
  local became = seed(KEYS[k], entry_of(string.sub(blob, (k - 1) * size + 1, k * size)))
  counts[became] = counts[became] + 1
end
return counts
"""
)
"""How many entries were written, were there already, were older than what is kept, were from the future.

An entry that is there already stays as it is: loading a day again makes nothing look young. Entries of versions to drop
go from the records that are touched.
"""

_FEATURES = """
-- The features' time; nothing where none are known
local function time_of(key)
  local head = redis.pcall('GETRANGE', key, 0, 7)
  if type(head) ~= 'string' or #head < 8 then return nil end
  return (struct.unpack('<i8', head))
end
"""

SEED_FEATURES = (
    NOW
    + _FEATURES
    + """
-- KEYS: features of many users. ARGV: allowance, ttl in ms, then for each key its value
local written = 0
for k = 1, #KEYS do
  local value = ARGV[2 + k]
  local feature, known = struct.unpack('<i8', value), time_of(KEYS[k])
  if feature <= now + tonumber(ARGV[1]) and (not known or known < feature) then
    redis.call('SET', KEYS[k], value, 'PX', ARGV[2])
    written = written + 1
  end
end
return written
"""
)
"""How many were newer than what was known."""

ENQUEUE = (
    NOW
    + _FEATURES
    + """
-- KEYS: features, marker, stream, rate; a real-time request's reply
-- ARGV: user, feature time, payload, features' ttl, marker's ttl, longest stream, allowance,
--       microseconds between two inferences (0: no limit)
local function is_within_rate(interval)
  if interval == 0 then return true end
  local micros = time[1] * 1000000 + time[2]
  local free = math.max(tonumber(redis.call('GET', KEYS[4]) or '0'), micros)
  if free > micros + 100000 then return false end
  redis.call('SET', KEYS[4], string.format('%.0f', free + interval), 'PX', math.ceil((100000 + interval) / 1000))
  return true
end
local function enqueue()
  local feature, payload = tonumber(ARGV[2]), ARGV[3]
  if #payload > 0 then
    if feature > now + tonumber(ARGV[7]) then return -3 end
    local known = time_of(KEYS[1])
    if not known or known <= feature then
      redis.call('SET', KEYS[1], struct.pack('<i8', feature) .. payload, 'PX', ARGV[4])
    end
  elseif redis.call('EXISTS', KEYS[1]) == 0 then
    return -2
  end
  if not KEYS[5] and redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
  if redis.call('XLEN', KEYS[3]) >= tonumber(ARGV[6]) then return -1 end
  if not is_within_rate(tonumber(ARGV[8])) then return -4 end
  redis.call('SET', KEYS[2], '1', 'PX', ARGV[5])
  if KEYS[5] then
    redis.call('XADD', KEYS[3], '*', 'u', ARGV[1], 'r', KEYS[5])
  else
    redis.call('XADD', KEYS[3], '*', 'u', ARGV[1])
  end
  return 1
end
local code = enqueue()
if KEYS[5] and code < 0 then
  redis.call('RPUSH', KEYS[5], code)
  redis.call('PEXPIRE', KEYS[5], 1000)
end
return code
"""
)
"""1: queued; 0: waits already; -1: shed; -2: no features are known; -3: they are from the future; -4: above the rate
(a tenth of a second's worth may come at once). A real-time request is queued even if the user waits already: it is
answered by a push to its reply key, at once where it is refused, else by the worker (`1` once the vectors are written,
`0` when it could not)."""
