-- prefix; lease_s, then (replica, place) for each lease of one gateway → how many. Plain ZADD, so that it also brings
-- them back after a flush: what runs, runs.
local p, expires = KEYS[1], clock() + tonumber(ARGV[1])
for i = 2, #ARGV, 4 do
  local place = place_at(i + 1)
  take(p, ARGV[i], place, expires)
  if place.alone then redis.call('SADD', p .. SUSPECTS, place.request) end
end
return (#ARGV - 1) / 4
