-- prefix, lane, order key → nothing. Rows of a lane that pilots pull have started with at most this key.
started(ARGV[1], ARGV[2], tonumber(ARGV[3]))
