-- prefix, accept_s, request, replica, the limits' prefix, then the limits as for settle → granted. The end of a request
-- that took its slot on entering and never stood in line.
redis.call('ZREM', slots_key(ARGV[1], ARGV[4]), ARGV[3] .. '|0')
settle_limits(ARGV[5], ARGV[3], nil, 6)
return fill(ARGV[1], tonumber(ARGV[2]))
