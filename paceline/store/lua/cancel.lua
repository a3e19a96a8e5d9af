#!lua flags=allow-oom
-- cancel.lua: end an active session and fence its owner; ended ones stay as they are.
-- KEYS[1] session hash   KEYS[2] tokens (u32 little-endian)
-- ARGV[1] reason  [2] terminal ttl ms
-- returns {"OK", state, epoch, tokens, max tokens, fingerprint, reason} or {"NOSESSION"}
local h, t = KEYS[1], KEYS[2]
local state = redis.call('HGET', h, 'st')
if not state then return {'NOSESSION'} end
if state == 'A' then
  redis.call('HINCRBY', h, 'ep', 1)
  redis.call('HSET', h, 'st', 'C', 'rs', ARGV[1])
  redis.call('PEXPIRE', h, ARGV[2])
  redis.call('PEXPIRE', t, ARGV[2])
end
local v = redis.call('HMGET', h, 'st', 'ep', 'mx', 'fp', 'rs')
return {'OK', v[1], v[2], redis.call('GET', t) or '', v[3], v[4], v[5]}
