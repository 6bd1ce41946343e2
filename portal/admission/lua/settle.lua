-- request, now ('' = the clock), then the limits, with how much more than was taken → nothing.
settle_limits(ARGV[1], tonumber(ARGV[2]), 3)
