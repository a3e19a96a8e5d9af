#!lua flags=allow-oom
-- commit.lua: append tokens if the caller owns the session and they fit what is there.
-- KEYS[1] session hash   KEYS[2] tokens (u32 little-endian)
-- ARGV[1] epoch  [2] nonce  [3] base  [4] packed tokens  [5] state after a final commit, else ''  [6] terminal ttl ms
-- A full store still takes the tokens of sessions that it has; tokens that it lost (evicted) make a gap.
-- returns {"OK"|"GAP", length}, {"ENDED", state}, {"NOSESSION"}, {"DIVERGED"}, {"FENCED"} or {"LIMIT", max tokens}
local h, t = KEYS[1], KEYS[2]
local v = redis.call('HMGET', h, 'st', 'ep', 'nonce', 'n', 'mx', 'ttl')
if not v[1] then return {'NOSESSION'} end
local n = math.min(tonumber(v[4]), redis.call('STRLEN', t) / 4)
local base, len = tonumber(ARGV[3]), #ARGV[4] / 4
local shared = math.min(n - base, len)
if shared > 0 and redis.call('GETRANGE', t, base * 4, (base + shared) * 4 - 1) ~= string.sub(ARGV[4], 1, shared * 4) then
  redis.call('HSET', h, 'div', base)
  return {'DIVERGED'}
end
if base + len <= n and (ARGV[5] == '' or v[1] ~= 'A') then return {'OK', n} end
if v[1] ~= 'A' then return {'ENDED', v[1]} end
if v[2] ~= ARGV[1] or v[3] ~= ARGV[2] then return {'FENCED'} end
if base > n then return {'GAP', n} end
if base + len > tonumber(v[5]) then return {'LIMIT', v[5]} end
redis.call('APPEND', t, string.sub(ARGV[4], (n - base) * 4 + 1))
local length, final = math.max(n, base + len), ARGV[5] ~= ''
redis.call('HSET', h, 'n', length, 'st', final and ARGV[5] or 'A')
local ttl = final and ARGV[6] or v[6]
redis.call('PEXPIRE', h, ttl)
redis.call('PEXPIRE', t, ttl)
return {'OK', length}
