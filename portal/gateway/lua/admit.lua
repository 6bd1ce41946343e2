-- prefix, request, lease_s → {replica, route} with a slot taken, or {} = wait. Nobody barges past a waiter.
local p, request, lease_s = ARGV[1], ARGV[2], tonumber(ARGV[3])
if redis.call('EXISTS', p .. ':wait') == 1 then return {} end
local t = clock()
local route = choose(load_routes(p, t))
if not route then return {} end
take(p, route.id, request, t + lease_s)
return {route.id, route.raw}
