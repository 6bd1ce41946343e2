-- permit_s, then (key, request) for each permit that one gateway holds → nothing. Plain ZADD, so that it also brings
-- them back after a flush.
local permit_s = tonumber(ARGV[1])
local expires = clock() + permit_s
for i = 2, #ARGV, 2 do
  redis.call('ZADD', ARGV[i], exact(expires), ARGV[i + 1])
  redis.call('EXPIRE', ARGV[i], math.ceil(4 * permit_s))
end
