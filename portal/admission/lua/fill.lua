-- prefix, accept_s → granted.
return fill(ARGV[1], tonumber(ARGV[2]))
