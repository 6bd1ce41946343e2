-- prefix, request, lease_s → {replica, route} with a slot taken, or {} = wait.
return admit(ARGV[1], ARGV[2], tonumber(ARGV[3]))
