-- prefix; lease_s, place → {replica, route} with a slot taken, or {} = wait.
return admit(KEYS[1], place_at(2), tonumber(ARGV[1]))
