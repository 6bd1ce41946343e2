-- prefix; lease_s of a slot, permit_s, place, then the limits → {what take_limits says, what admit says}. Whoever a
-- limit refuses gets no slot.
local place = place_at(3)
local limits = take_limits(place.request, tonumber(ARGV[2]), clock(), 6)
if limits[1] > 0 then return {limits, {}} end
return {limits, admit(KEYS[1], place, tonumber(ARGV[1]))}
