-- prefix, lane, project → nothing. No row of the project waits there any more.
give_back(ARGV[1], ARGV[2], ARGV[3])
