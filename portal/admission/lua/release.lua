-- prefix; accept_s, replica ('' = it only waited), over, place → granted. With over = '1' the request has ended.
local p, place = KEYS[1], place_at(4)
if ARGV[2] ~= '' then free(p, ARGV[2], place) end
if ARGV[3] == '1' then
  redis.call('ZREM', p .. WAIT, place.request)
  redis.call('HDEL', p .. OWNER, place.request)
  redis.call('SREM', p .. SUSPECTS, place.request)
  leave_line(p, place.request, false)
end
return fill(p, tonumber(ARGV[1]))
