-- prefix, member, lease_s, now ('' = the clock), then the limits → what take_limits says.
return take_limits(ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]) or clock(), 5)
