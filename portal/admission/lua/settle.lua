-- prefix, member, now ('' = the clock), then the limits, with how much more than was taken → nothing.
settle_limits(ARGV[1], ARGV[2], tonumber(ARGV[3]), 4)
