"""What the compute center does to the stream of requests, each step at once."""

from __future__ import annotations

TAKE = """
-- KEYS: the markers of n users, then their features
local half = #KEYS / 2
redis.call('DEL', unpack(KEYS, 1, half))
return redis.call('MGET', unpack(KEYS, half + 1))
"""
"""The features, after the markers went: who asks from now on is queued again, and what was asked before is seen."""

DONE = """
-- KEYS: stream, lists that somebody waits at
-- ARGV: group, how long an answer stays in ms, the answers (a digit for each list), ids
redis.call('XACK', KEYS[1], ARGV[1], unpack(ARGV, 4))
-- entries are given out in order: what is before the first that is pending is done. To cut it off is a hundred times
-- cheaper than to look for each entry, which is left for those behind what another worker is at
local pending, found = redis.pcall('XPENDING', KEYS[1], ARGV[1]), 0
if not pending.err then
  local bound = pending[2]
  if not bound then
    local time, number = string.match(ARGV[#ARGV], '(%d+)-(%d+)')
    bound = time .. '-' .. string.format('%.0f', number + 1)
  end
  found = redis.call('XTRIM', KEYS[1], 'MINID', '=', bound)
end
if found < #ARGV - 3 then
  found = found + redis.call('XDEL', KEYS[1], unpack(ARGV, 4))
end
for k = 2, #KEYS do
  redis.pcall('RPUSH', KEYS[k], string.sub(ARGV[3], k - 1, k - 1))
  redis.pcall('PEXPIRE', KEYS[k], ARGV[2])
end
return found
"""
"""How many of them nobody else had done."""

SET_ASIDE = """
-- KEYS: stream, the stream of what was set aside. ARGV: group, most that is kept, then id, user, deliveries
for k = 3, #ARGV, 3 do
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', 'u', ARGV[k + 1], 'id', ARGV[k], 'deliveries', ARGV[k + 2])
  redis.call('XACK', KEYS[1], ARGV[1], ARGV[k])
  redis.call('XDEL', KEYS[1], ARGV[k])
end
return (#ARGV - 2) / 3
"""

LEAVE = """
-- KEYS: stream. ARGV: group, consumer
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) > 0 then return 0 end
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
return 1
"""
"""1 when it went: with entries that it was given, it stays, as they would go with it."""
