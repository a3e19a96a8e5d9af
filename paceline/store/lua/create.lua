-- create.lua: make a session, or show the existing one of the same request.
-- KEYS[1] session hash   KEYS[2] tokens (u32 little-endian)
-- ARGV[1] fingerprint  [2] owner  [3] nonce  [4] lease ms  [5] ttl ms  [6] max tokens  [7] seed
-- ARGV[8] model digest  [9] numerics id  [10] packed prompt
-- returns {"OK", state, epoch, tokens, max tokens, fingerprint, reason} or {"CONFLICT"}
local h, t = KEYS[1], KEYS[2]
if redis.call('EXISTS', h) == 0 then
  local now = redis.call('TIME')
  local lease = now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[4]
  redis.call('HSET', h, 'st', 'A', 'ep', 1, 'nonce', ARGV[3], 'ow', ARGV[2], 'lx', lease, 'n', 0, 'mx', ARGV[6],
    'fp', ARGV[1], 'sd', ARGV[7], 'md', ARGV[8], 'nm', ARGV[9], 'pr', ARGV[10], 'ttl', ARGV[5], 'rs', '')
  redis.call('DEL', t)
  redis.call('PEXPIRE', h, ARGV[5])
end
local v = redis.call('HMGET', h, 'st', 'ep', 'mx', 'fp', 'rs')
if v[4] ~= ARGV[1] then
  return {'CONFLICT'}
end
return {'OK', v[1], v[2], redis.call('GET', t) or '', v[3], v[4], v[5]}
