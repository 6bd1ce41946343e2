-- prefix, lease_s, then (key, member) for each count that one gateway holds → nothing. Plain ZADD, so that it also
-- brings them back after a flush.
local expires, lease_s = clock() + tonumber(ARGV[2]), tonumber(ARGV[2])
for i = 3, #ARGV, 2 do
  redis.call('ZADD', ARGV[1] .. ':' .. ARGV[i], exact(expires), ARGV[i + 1])
  redis.call('EXPIRE', ARGV[1] .. ':' .. ARGV[i], math.ceil(4 * lease_s))
end
