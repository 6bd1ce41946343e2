-- prefix; request, lease_s → {replica, route} with a slot taken, or {} = wait.
return admit(KEYS[1], ARGV[1], tonumber(ARGV[2]))
