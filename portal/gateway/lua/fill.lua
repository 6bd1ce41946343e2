-- prefix, accept_s → granted.
return fill(ARGV[1], clock(), tonumber(ARGV[2]))
