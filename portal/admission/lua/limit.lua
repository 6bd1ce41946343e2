-- request, permit_s, now ('' = the clock), then the limits → what take_limits says.
return take_limits(ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]) or clock(), 4)
