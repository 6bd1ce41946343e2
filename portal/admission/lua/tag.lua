-- prefix; lane, project, share, priority, request ('' = its place is in PostgreSQL only), then nothing, or what was
-- rebuilt from PostgreSQL: virtual time, then (project, priority, finish tag) for each → key, or '' = bring that.
-- The rule is that of portal/policy/fairshare.py, and a test holds the two together.
local p, lane, project, share = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local priority, request = tonumber(ARGV[4]), ARGV[5]
local vtimes, tags = p .. VTIME, p .. TAGS
local function field(of, level) return lane .. ':' .. of .. ':' .. level end
local v = tonumber(redis.call('HGET', vtimes, lane))
if not v then
  if not ARGV[6] then return '' end
  v = tonumber(ARGV[6])
  redis.call('HSET', vtimes, lane, ARGV[6])
  for i = 7, #ARGV, 3 do redis.call('HSET', tags, field(ARGV[i], ARGV[i + 1]), ARGV[i + 2]) end
end
local key = tonumber(redis.call('HGET', tags, field(project, priority)))
if not key or key <= v then
  local newest = tonumber(redis.call('HGET', vtimes, lane .. ':newest'))
  key = v
  if newest and newest + 1 / 1024 > v then key = newest + 1 / 1024 end
  redis.call('HSET', vtimes, lane .. ':newest', exact(key))
end
redis.call('HSET', tags, field(project, priority), exact(key + share))
for lower = priority - 1, -1, -1 do
  local finish = tonumber(redis.call('HGET', tags, field(project, lower)))
  if not finish or finish < key then finish = key end
  redis.call('HSET', tags, field(project, lower), exact(finish + share))
end
if request ~= '' then
  -- Those of a gateway that died leave no word; what lies behind the virtual time waits no more.
  local line = line_key(p, project)
  redis.call('ZREMRANGEBYSCORE', line, '-inf', '(' .. exact(v))
  redis.call('ZADD', line, exact(key), request)
  redis.call('EXPIRE', line, LINE_S)
  redis.call('HSET', p .. PROJECTS, request, project)
end
return exact(key)
