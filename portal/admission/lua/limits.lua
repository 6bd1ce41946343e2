-- What the scripts about limits share. The rule is that of portal/policy/limits.py, and a test holds the two
-- together. From ARGV[first]: (key, kind, limit, cost) for each limit; the key is whole.

-- All levels are looked at before any is taken from: one refusal takes nothing. → {number of the one that refuses or
-- 0, seconds until it would not, now, then (remaining, when it is whole) for each}.
local function take_limits(request, permit_s, now, first)
  local refused, retry_s, now_text, fulls = 0, 0, exact(now), {}
  local answer = {0, '0', now_text}
  local function refuse(number, seconds)
    if refused == 0 or seconds > retry_s then refused, retry_s = number, seconds end
  end
  for i = first, #ARGV, 4 do
    local number, key, kind = (i - first) / 4 + 1, ARGV[i], ARGV[i + 1]
    local limit = tonumber(ARGV[i + 2])
    if kind == 'concurrent' or kind == 'queued' then
      local n = redis.call('ZCARD', key)
      if n >= limit then
        redis.call('ZREMRANGEBYSCORE', key, '-inf', now_text)
        n = redis.call('ZCARD', key)
        if n >= limit and not redis.call('ZSCORE', key, request) then refuse(number, 1) end
      end
      answer[2 + 2 * number], answer[3 + 2 * number] = math.max(0, limit - n - 1), now_text
    else
      local unit_s = 60 / limit
      local start = tonumber(redis.call('GET', key) or now)
      if start < now then start = now end
      local after = start + math.min(tonumber(ARGV[i + 3]), limit) * unit_s
      local retry = after - now - 60
      if retry > 0.0001 then
        refuse(number, retry)
        after = start
      end
      fulls[number] = after
      answer[2 + 2 * number] = math.max(0, math.floor((60 - (after - now) + 0.0001) / unit_s))
      answer[3 + 2 * number] = exact(after)
    end
  end
  if refused > 0 then
    answer[1], answer[2] = refused, exact(retry_s)
    return answer
  end
  for i = first, #ARGV, 4 do
    local number, key = (i - first) / 4 + 1, ARGV[i]
    if fulls[number] then
      redis.call('SET', key, answer[3 + 2 * number], 'EX', math.ceil(fulls[number] - now) + 1)
    else
      redis.call('ZADD', key, exact(now + permit_s), request)
      redis.call('EXPIRE', key, math.ceil(4 * permit_s))
    end
  end
  return answer
end

-- What was held is given back, and tokens become what was really used: `cost` more than was taken, or less.
local function settle_limits(request, now, first)
  for i = first, #ARGV, 4 do
    local key, kind = ARGV[i], ARGV[i + 1]
    if kind == 'concurrent' or kind == 'queued' then
      redis.call('ZREM', key, request)
    else
      now = now or clock()
      local full_at = tonumber(redis.call('GET', key) or now)
      if full_at < now then full_at = now end
      full_at = full_at + tonumber(ARGV[i + 3]) * (60 / tonumber(ARGV[i + 2]))
      if full_at > now then
        redis.call('SET', key, exact(full_at), 'EX', math.ceil(full_at - now) + 1)
      else
        redis.call('DEL', key)
      end
    end
  end
end
