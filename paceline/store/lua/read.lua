-- read.lua: state and tokens of one moment.
-- KEYS[1] session hash   KEYS[2] tokens (u32 little-endian)
-- returns {"OK", state, epoch, tokens, max tokens, fingerprint, reason} or {"NOSESSION"}
local v = redis.call('HMGET', KEYS[1], 'st', 'ep', 'mx', 'fp', 'rs')
if not v[1] then return {'NOSESSION'} end
return {'OK', v[1], v[2], redis.call('GET', KEYS[2]) or '', v[3], v[4], v[5]}
