"""What happens atomically, in the store itself, by its own clock."""

from __future__ import annotations

import hashlib

_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

MERGE = (
    _NOW
    + """
-- KEYS: records of one user. ARGV: allowance in ms, entries kept, then per record: ttl in ms, head, entry
local allowance, most, results = tonumber(ARGV[1]), tonumber(ARGV[2]), {}
local function newer(a, b)
  if a.feature ~= b.feature then return a.feature > b.feature end
  return a.version > b.version
end
for k = 1, #KEYS do
  local ttl, head, given = tonumber(ARGV[3 * k]), ARGV[3 * k + 1], ARGV[3 * k + 2]
  local version, feature = struct.unpack('<I4i8', given)
  local body = string.sub(given, 21)
  local mine = {version = version, feature = feature, bytes = struct.pack('<I4i8i8', version, feature, now) .. body}
  if feature > now + allowance then
    results[k] = -1
  else
    local entries, old = {mine}, redis.call('GET', KEYS[k])
    if old and string.sub(old, 1, 1) == string.sub(head, 1, 1) and string.sub(old, 3, 6) == string.sub(head, 3, 6) then
      for begin = 7, #old, #given do
        local v, f = struct.unpack('<I4i8', old, begin)
        if v ~= version or f ~= feature then
          entries[#entries + 1] = {version = v, feature = f, bytes = string.sub(old, begin, begin + #given - 1)}
        end
      end
    end
    table.sort(entries, newer)
    local place, parts = 0, {}
    for i = 1, math.min(#entries, most) do
      parts[i] = entries[i].bytes
      if entries[i] == mine then place = i end
    end
    results[k] = place
    if place > 0 then
      local record = string.sub(head, 1, 1) .. string.char(#parts) .. string.sub(head, 3, 6) .. table.concat(parts)
      redis.call('SET', KEYS[k], record, 'PX', ttl)
    end
  end
end
return results
"""
)
"""The entry's place in each record, 1 for the newest; 0: older than what is kept, dropped; -1: from the future."""

ENQUEUE = (
    _NOW
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
    local old = redis.call('GETRANGE', KEYS[1], 0, 7)
    if #old < 8 or struct.unpack('<i8', old) <= feature then
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


def script_sha(script: str) -> str:
    """What EVALSHA calls it."""
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
