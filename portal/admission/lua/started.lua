-- prefix; lane, order key → nothing. Rows of a lane that pilots pull have started with at most this key.
started(KEYS[1], ARGV[1], tonumber(ARGV[2]))
