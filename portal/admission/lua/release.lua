-- prefix, accept_s, request, replica ('' = it only waited), over → granted. With over = '1' the request has ended.
local p, request = ARGV[1], ARGV[3]
if ARGV[4] ~= '' then redis.call('ZREM', slots_key(p, ARGV[4]), request .. '|0') end
if ARGV[5] == '1' then
  redis.call('ZREM', p .. ':wait', request)
  redis.call('HDEL', p .. ':owner', request)
  redis.call('SREM', p .. ':suspects', request)
  leave_line(p, request, false)
end
return fill(p, tonumber(ARGV[2]))
