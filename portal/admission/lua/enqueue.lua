-- prefix; accept_s, request, order_key, owner, alone → granted. Only after the request's row is committed.
local p, accept_s, request = KEYS[1], tonumber(ARGV[1]), ARGV[2]
redis.call('ZADD', p .. WAIT, ARGV[3], request)
redis.call('HSET', p .. OWNER, request, ARGV[4])
if ARGV[5] == '1' then
  redis.call('SADD', p .. SUSPECTS, request)
  redis.call('EXPIRE', p .. SUSPECTS, SUSPECTS_S)
end
return fill(p, accept_s)
