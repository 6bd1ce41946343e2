-- prefix; accept_s, request, replica ('' = it only waited), over → granted. With over = '1' the request has ended.
local p, request = KEYS[1], ARGV[2]
if ARGV[3] ~= '' then redis.call('ZREM', slots_key(p, ARGV[3]), request .. '|0') end
if ARGV[4] == '1' then
  redis.call('ZREM', p .. WAIT, request)
  redis.call('HDEL', p .. OWNER, request)
  redis.call('SREM', p .. SUSPECTS, request)
  leave_line(p, request, false)
end
return fill(p, tonumber(ARGV[1]))
