-- prefix, lease_s, then (replica, request, alone) for each lease of one gateway. Plain ZADD, so that it also
-- brings them back after a flush: what runs, runs.
local p, expires = ARGV[1], clock() + tonumber(ARGV[2])
for i = 3, #ARGV, 3 do
  take(p, ARGV[i], ARGV[i + 1], expires)
  if ARGV[i + 2] == '1' then redis.call('SADD', p .. ':suspects', ARGV[i + 1]) end
end
return (#ARGV - 2) / 3
