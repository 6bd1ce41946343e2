"""Who gets a slot of a replica, and when (docs/design.md §3), as values and commands; no gateway's and no page's objects.

Read from the top:

place         what one request asks of its pool's replicas
slots         the questions to Redis: enter, admit, enqueue, release, renew; routes; links
scripts, lua/ how they are spelled, and the scripts that decide: limits first, then nobody passes a waiter, then the
              replica with the largest working set that has room
keeper        what one gateway holds there: slots in use, requests in line; renewed, put back, granted
pipe          the connection that these commands share; patience: asking again while Redis is away
subjects      whose limits concern a request, and what a refusal says

reservations  places in line for rows that pilots pull, and
quotas        their limits: both for code that may block, over redis_calls
consumption   how much of each limit is taken, for people to see
"""
