-- prefix; request, lease_s of a slot, lease_s of what limits count, then the limits → {what take_limits says, what
-- admit says}. Whoever a limit refuses gets no slot.
local said = take_limits(ARGV[1], tonumber(ARGV[3]), clock(), 4)
if said[1] > 0 then return {said, {}} end
return {said, admit(KEYS[1], ARGV[1], tonumber(ARGV[2]))}
