"""The clock of this node against the portal's: times are converted once, at the agent's edge, in both directions.

Clocks of nodes differ, by minutes where nobody looks after them. The portal reckons with times of many nodes beside its
own, and the agent with a deadline that the portal names; so what goes out is the portal's time and what comes in is
this node's. The difference is known to half of a call's duration; what that explains is no difference.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from gpuworker import wire

log = logging.getLogger("berth.clock")

SLACK_S = 0.25
WORTH_SAYING_S = 2.0


class PortalClock:
    """The portal's clock as this node estimates it.

    `ahead_s` is what to add to this node's clock, in seconds, to have the portal's.
    """

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def heard(self, portal_at: float, sent_at: float, received_at: float) -> None:
        """Learn from an answer that the portal stamped with its clock (all three times are UNIX seconds).

        `sent_at` and `received_at` are this node's times of the call.
        """
        took_s = received_at - sent_at
        if not portal_at or took_s < 0:  # a portal of before; or our clock was set back meanwhile
            return
        ahead_s = portal_at - (sent_at + received_at) / 2
        if abs(ahead_s - self.ahead_s) <= took_s / 2 + SLACK_S:
            return
        if abs(ahead_s - self.ahead_s) >= WORTH_SAYING_S:
            log.warning("this node's clock is %.1f s %s the portal's", abs(ahead_s), _side(ahead_s))
        self.ahead_s = ahead_s

    def registration(self, said: wire.Register, now: float) -> wire.Register:
        return replace(
            said,
            started_at=said.started_at + self.ahead_s,
            agent_at=said.agent_at + self.ahead_s,
            sent_at=now + self.ahead_s,
        )

    def report(self, said: wire.Sync) -> wire.Sync:
        if not self.ahead_s:
            return said
        replicas = [
            replace(
                one,
                started_at=self._theirs(one.started_at),
                hot_at=self._theirs(one.hot_at),
                idle_since=self._theirs(one.idle_since),
            )
            for one in said.replicas
        ]
        return replace(said, at=said.at + self.ahead_s, replicas=replicas)

    def results(self, said: wire.Results) -> wire.Results:
        if not self.ahead_s:
            return said
        ends = [
            replace(
                one,
                first_token_at=self._theirs(one.first_token_at),
                ended_at=one.ended_at + self.ahead_s,
            )
            for one in said.results
        ]
        return replace(said, results=ends)

    def answer(self, said: wire.SyncAnswer) -> wire.SyncAnswer:
        if said.deadline_at is None:
            return said
        return replace(said, deadline_at=said.deadline_at - self.ahead_s)

    def _theirs(self, at: float | None) -> float | None:
        return None if at is None else at + self.ahead_s


def _side(ahead_s: float) -> str:
    return "behind" if ahead_s > 0 else "ahead of"
