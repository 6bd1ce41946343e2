-- prefix; lease_s, then (replica, request, alone) for each lease of one gateway. Plain ZADD, so that it also
-- brings them back after a flush: what runs, runs.
local p, expires = KEYS[1], clock() + tonumber(ARGV[1])
for i = 2, #ARGV, 3 do
  take(p, ARGV[i], ARGV[i + 1], expires)
  if ARGV[i + 2] == '1' then redis.call('SADD', p .. SUSPECTS, ARGV[i + 1]) end
end
return (#ARGV - 1) / 3
