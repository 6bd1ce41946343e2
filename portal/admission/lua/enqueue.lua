-- prefix; accept_s, order_key, owner, place → granted. Only after the request's row is committed.
local p, place = KEYS[1], place_at(4)
redis.call('ZADD', p .. WAIT, ARGV[2], place.request)
redis.call('HSET', p .. OWNER, place.request, ARGV[3])
if place.alone then
  redis.call('SADD', p .. SUSPECTS, place.request)
  redis.call('EXPIRE', p .. SUSPECTS, SUSPECTS_S)
end
return fill(p, tonumber(ARGV[1]))
