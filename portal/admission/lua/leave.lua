-- prefix; accept_s, request, replica, then the limits as for settle → granted. The end of a request that took its slot
-- on entering and never stood in line.
redis.call('ZREM', slots_key(KEYS[1], ARGV[3]), ARGV[2] .. '|0')
settle_limits(ARGV[2], nil, 4)
return fill(KEYS[1], tonumber(ARGV[1]))
