-- prefix, member, lease_s, now ('' = the clock), then (key, kind, limit, cost) for each limit → {number of the one
-- that refuses or 0, seconds until it would not, then (remaining, seconds until whole) for each}. All levels are
-- looked at before any is taken from: one refusal takes nothing. The rule is that of portal/gateway/policy/limits.py.
local p, member, lease_s = ARGV[1], ARGV[2], tonumber(ARGV[3])
local now = tonumber(ARGV[4]) or clock()
local refused, retry_s, takes, told = 0, 0, {}, {}
local function refuse(number, seconds)
  if refused == 0 or seconds > retry_s then refused, retry_s = number, seconds end
end
for i = 5, #ARGV, 4 do
  local number, key, kind = (i - 1) / 4, p .. ':' .. ARGV[i], ARGV[i + 1]
  local limit, cost = tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  if kind == 'concurrent' or kind == 'queued' then
    redis.call('ZREMRANGEBYSCORE', key, '-inf', exact(now))
    local n = redis.call('ZCARD', key)
    if not redis.call('ZSCORE', key, member) then
      if n >= limit then refuse(number, 1) end
      n = n + 1
    end
    takes[number] = function()
      redis.call('ZADD', key, exact(now + lease_s), member)
      redis.call('EXPIRE', key, math.ceil(4 * lease_s))
    end
    told[#told + 1] = math.max(0, limit - n)
    told[#told + 1] = '0'
  else
    local unit_s = 60 / limit
    local start = tonumber(redis.call('GET', key)) or now
    if start < now then start = now end
    local after = start + math.min(cost, limit) * unit_s
    local retry = after - now - 60
    if retry > 0.0001 then
      refuse(number, retry)
      after = start
    end
    takes[number] = function() redis.call('SET', key, exact(after), 'EX', math.ceil(after - now) + 1) end
    told[#told + 1] = math.max(0, math.floor((60 - (after - now) + 0.0001) / unit_s))
    told[#told + 1] = exact(after - now)
  end
end
if refused == 0 then
  for _, take in ipairs(takes) do take() end
end
return {refused, exact(retry_s), unpack(told)}
