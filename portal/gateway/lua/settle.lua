-- prefix, member, now ('' = the clock), then (key, kind, limit, more) for each limit → nothing. What was held is
-- given back, and tokens become what was really used: `more` than was taken, or less.
local p, member = ARGV[1], ARGV[2]
local now = tonumber(ARGV[3]) or clock()
for i = 4, #ARGV, 4 do
  local key, kind = p .. ':' .. ARGV[i], ARGV[i + 1]
  if kind == 'concurrent' or kind == 'queued' then
    redis.call('ZREM', key, member)
  else
    local full_at = tonumber(redis.call('GET', key)) or now
    if full_at < now then full_at = now end
    full_at = full_at + tonumber(ARGV[i + 3]) * (60 / tonumber(ARGV[i + 2]))
    if full_at > now then
      redis.call('SET', key, exact(full_at), 'EX', math.ceil(full_at - now) + 1)
    else
      redis.call('DEL', key)
    end
  end
end
