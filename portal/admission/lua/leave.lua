-- prefix; accept_s, replica, place, then the limits as for settle → granted. The end of a request that took its slot on
-- entering and never stood in line.
local place = place_at(3)
free(KEYS[1], ARGV[2], place)
settle_limits(place.request, nil, 6)
return fill(KEYS[1], tonumber(ARGV[1]))
