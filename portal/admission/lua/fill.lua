-- prefix; accept_s → granted.
return fill(KEYS[1], tonumber(ARGV[1]))
