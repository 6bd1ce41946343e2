-- lease_s, then (key, member) for each count that one gateway holds → nothing. Plain ZADD, so that it also brings
-- them back after a flush.
local lease_s = tonumber(ARGV[1])
local expires = clock() + lease_s
for i = 2, #ARGV, 2 do
  redis.call('ZADD', ARGV[i], exact(expires), ARGV[i + 1])
  redis.call('EXPIRE', ARGV[i], math.ceil(4 * lease_s))
end
