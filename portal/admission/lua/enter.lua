-- prefix, request, lease_s of a slot, the limits' prefix, lease_s of what they count, then the limits → {what
-- take_limits says, what admit says}. Whoever a limit refuses gets no slot.
local said = take_limits(ARGV[4], ARGV[2], tonumber(ARGV[5]), clock(), 6)
if said[1] > 0 then return {said, {}} end
return {said, admit(ARGV[1], ARGV[2], tonumber(ARGV[3]))}
