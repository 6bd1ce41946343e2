-- What the scripts share. `p` is the pool's prefix, which each script about a pool gets as KEYS[1]; ROUTES, SLOTS and
-- the other names in capitals are what portal/redis/keys.py puts before this text: nothing here spells a key. A slot's
-- member is "<request>|0", its score the expiry in UNIX seconds. The routing rule is that of portal/policy/routing.py,
-- and a test holds the two together.

local function clock()
  local t = redis.call('TIME')
  return tonumber(t[1]) + tonumber(t[2]) / 1000000
end

-- A double that comes back the same: Redis and Lua would cut it to 14 digits.
local function exact(x)
  return string.format('%.17g', x)
end

-- Those of a project that wait in the pool, by order key.
local function line_key(p, project)
  return p .. LINE .. project
end

-- A request with this key starts service. The virtual time of a flushed Redis is rebuilt by tag.lua only.
local function started(p, lane, key)
  local v = tonumber(redis.call('HGET', p .. VTIME, lane))
  if v and key > v then redis.call('HSET', p .. VTIME, lane, exact(key)) end
end

-- Nothing of the project waits in this lane any more: what it reserved and did not use is forgotten.
local function give_back(p, lane, project)
  for priority = -1, 1 do redis.call('HDEL', p .. TAGS, lane .. ':' .. project .. ':' .. priority) end
end

-- The held request leaves the line of its project. `served`: it had its turn.
local function leave_line(p, request, served)
  local project = redis.call('HGET', p .. PROJECTS, request)
  if not project then return end
  redis.call('HDEL', p .. PROJECTS, request)
  redis.call('ZREM', line_key(p, project), request)
  if not served and redis.call('EXISTS', line_key(p, project)) == 0 then give_back(p, 'held', project) end
end

-- What one request asks of a replica, from three arguments: portal/admission/place.py.
local function place_at(i)
  return {request = ARGV[i], adapter = ARGV[i + 1], alone = ARGV[i + 2] == '1'}
end

local function slots_key(p, replica)
  return p .. SLOTS .. replica
end

local function take(p, replica, place, expires)
  local key = slots_key(p, replica)
  redis.call('ZADD', key, string.format('%.6f', expires), place.request .. '|0')
  redis.call('EXPIRE', key, SLOTS_S)
end

local function free(p, replica, place)
  redis.call('ZREM', slots_key(p, replica), place.request .. '|0')
end

-- A replica whose slots hold a suspect is shut: the suspect runs alone.
local function holds_suspect(p, replica)
  for _, member in ipairs(redis.call('ZRANGE', slots_key(p, replica), 0, -1)) do
    local request = string.match(member, '^[^|]+')
    if request and redis.call('SISMEMBER', p .. SUSPECTS, request) == 1 then return true end
  end
  return false
end

-- Every routable replica with its in-flight count, expired slots dropped. In order of id.
local function load_routes(p, t)
  local flat = redis.call('HGETALL', p .. ROUTES)
  local suspects = #flat > 0 and redis.call('EXISTS', p .. SUSPECTS) == 1
  local expired = string.format('%.6f', t)
  local routes = {}
  for i = 1, #flat, 2 do
    local ok, route = pcall(cjson.decode, flat[i + 1])
    if ok and type(route) == 'table' and route.state == 'hot' and tonumber(route.cap) then
      local key = slots_key(p, flat[i])
      redis.call('ZREMRANGEBYSCORE', key, '-inf', expired)
      local n = redis.call('ZCARD', key)
      routes[#routes + 1] = {
        id = flat[i], raw = flat[i + 1], cap = tonumber(route.cap), n = n,
        shut = suspects and n > 0 and holds_suspect(p, flat[i]),
      }
    end
  end
  if #routes > 1 then table.sort(routes, function(a, b) return a.id < b.id end) end
  return routes
end

-- The largest working set that still has room.
local function choose(routes)
  local best
  for _, route in ipairs(routes) do
    if not route.shut and route.n < route.cap and (not best or route.n > best.n) then best = route end
  end
  return best
end

-- For a suspect: the replica that will be empty first. It is kept free for it from now on.
local function emptiest(routes)
  local best
  for _, route in ipairs(routes) do
    if not route.shut and (not best or route.n < best.n) then best = route end
  end
  return best
end

-- A slot, if nobody waits and a replica has room: {replica, route}, or {} = wait. Nobody barges past a waiter.
local function admit(p, place, lease_s)
  if redis.call('EXISTS', p .. WAIT) == 1 then return {} end
  local t = clock()
  local route = choose(load_routes(p, t))
  if not route then return {} end
  take(p, route.id, place, t + lease_s)
  return {route.id, route.raw}
end

-- While there is room and a waiter: the lowest key gets a slot, with `accept_s` to take it up.
local function fill(p, accept_s)
  local wait = p .. WAIT
  if redis.call('EXISTS', wait) == 0 then return 0 end
  local t = clock()
  local routes = load_routes(p, t)
  local granted, passed = 0, 0
  while #routes > 0 do
    local first = redis.call('ZRANGE', wait, passed, passed, 'WITHSCORES')
    local request = first[1]
    if not request then break end
    local place = {request = request, alone = redis.call('SISMEMBER', p .. SUSPECTS, request) == 1}
    local route
    if place.alone then route = emptiest(routes) else route = choose(routes) end
    if not route then break end
    if place.alone and route.n > 0 then
      route.shut = true
      passed = passed + 1
    else
      local owner = redis.call('HGET', p .. OWNER, request)
      redis.call('ZREM', wait, request)
      redis.call('HDEL', p .. OWNER, request)
      local heard = 0
      if owner then
        local pool = string.match(p, '{(.*)}$')
        heard = redis.call('PUBLISH', GATEWAY .. owner,
          cjson.encode({pool = pool, request = request, replica = route.id, route = route.raw}))
      end
      -- An owner that does not listen gets no slot; when it is back it enqueues again, with the same key.
      if heard > 0 then
        take(p, route.id, place, t + accept_s)
        route.n = route.n + 1
        route.shut = place.alone
        granted = granted + 1
        started(p, 'held', tonumber(first[2]))
        leave_line(p, request, true)
      end
    end
  end
  return granted
end
