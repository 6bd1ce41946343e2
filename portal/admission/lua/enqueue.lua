-- prefix, accept_s, request, order_key, owner, alone → granted. Only after the request's row is committed.
local p, accept_s, request = ARGV[1], tonumber(ARGV[2]), ARGV[3]
redis.call('ZADD', p .. ':wait', ARGV[4], request)
redis.call('HSET', p .. ':owner', request, ARGV[5])
if ARGV[6] == '1' then
  redis.call('SADD', p .. ':suspects', request)
  redis.call('EXPIRE', p .. ':suspects', 86400)
end
return fill(p, accept_s)
