-- prefix; lane, project → nothing. No row of the project waits there any more.
give_back(KEYS[1], ARGV[1], ARGV[2])
