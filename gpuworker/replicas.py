"""All replicas of this pilot: carries out what `plan` decides, and answers who is here."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from gpuworker import plan
from gpuworker.nodes import Nodes
from gpuworker.replica import STOP_GRACE_S, Replica
from gpuworker.seats import spare_seats
from gpuworker.staging import Staging
from gpuworker.wakeup import log_failure
from gpuworker.wire import DesiredReplica, ObservedReplica

MEASURE_S = 5.0


class Replicas:
    """The replicas of this pilot.

    `changed` is called on every move; `cut` before an engine is stopped, to take back what runs on it.
    """

    def __init__(self, nodes: Nodes, folder: Path, changed: Callable[[], None]) -> None:
        self._nodes = nodes
        self._folder = folder
        self._changed = changed
        self._all: dict[str, Replica] = {}
        self.staging = Staging(folder, changed, self._sources)
        self._desired: list[DesiredReplica] = []
        self._stops: set[asyncio.Task[None]] = set()
        self._count = 0
        self._measured_at = 0.0
        self._phases: dict[str, str] = {}
        self.cut: Callable[[str, str], None] = lambda replica, why: None

    def get(self, replica: str) -> Replica | None:
        return self._all.get(replica)

    def __iter__(self) -> Iterator[Replica]:
        return iter(list(self._all.values()))

    def observed(self) -> list[ObservedReplica]:
        return [replica.observed() for replica in self]

    @property
    def in_flight(self) -> int:
        return sum(replica.seats.in_flight for replica in self)

    @property
    def drain_limit_s(self) -> float:
        """Return the longest drain that any replica which still serves may take, in seconds."""
        return max((r.want.drain_limit_s for r in self if r.state not in plan.ENDED), default=0.0)

    @property
    def longest_s(self) -> float | None:
        """Return the longest that one of the last requests took, on any replica that still serves; None:
        nobody knows."""
        known = [r.seats.longest_s for r in self if r.state not in plan.ENDED]
        return max((s for s in known if s is not None), default=None)

    def _sources(self) -> set[str]:
        """Return the model folders of those whose engines may read them yet."""
        return {
            model.path for replica in self if replica.state not in plan.ENDED for model in replica.want.hosted
        }

    def most_held(self) -> int:
        """Return how many requests of gateways may be in flight here at once."""
        return sum(replica.seats.cap + spare_seats(replica.seats.cap) for replica in self)

    def all_ended(self) -> bool:
        return all(replica.state in plan.ENDED for replica in self)

    def logs(self) -> list[tuple[str, Path]]:
        found = []
        for replica in self:
            title = f"{replica.want.hosted[0].name} ({replica.want.engine}, replica {replica.want.id})"
            found.append((title, replica.log_path))
            ranks = sorted(self._folder.glob(f"{replica.log_path.stem}.rank*.log"))
            found += [(f"{title}, {path.suffixes[0][1:]}", path) for path in ranks]
        return found

    def want(self, desired: list[DesiredReplica]) -> None:
        self._desired = desired

    async def step(self, pilot_drains: bool) -> None:
        """Make one pass: decide, do. It is quick; whatever takes time goes on by itself and reports
        through `changed`."""
        here = {replica.want.id: replica.here() for replica in self}
        for action in plan.decide(self._desired, here, pilot_drains, time.time()):
            self._do(action)
        for replica in self:
            if self._phases.get(replica.want.id) != replica.phase:
                self._phases[replica.want.id] = replica.phase
                self._changed()
        if time.monotonic() - self._measured_at >= MEASURE_S:
            self._measured_at = time.monotonic()
            for replica in self:
                await replica.measure()

    def _do(self, action: plan.Action) -> None:
        if action.do == "start":
            self._start(next(d for d in self._desired if d.id == action.replica))
            return
        replica = self._all[action.replica]
        if action.do == "forget":
            del self._all[action.replica]
            self._phases.pop(action.replica, None)
        elif action.do == "drain":
            replica.drain(action.why)
        elif action.do == "sleep":
            replica.sleep(next(d.sleep_level for d in self._desired if d.id == action.replica))
        elif action.do == "wake":
            replica.wake()
        elif not replica.stopping:
            self._stop(replica, action.why, failed=action.do == "fail")

    def _start(self, want: DesiredReplica) -> None:
        self._count += 1
        # The agent's pid keeps a restarted agent's files apart from those of the one before.
        name = f"{os.getpid()}-{self._count}"
        self._all[want.id] = Replica(
            want, self._nodes, sys.executable, self.staging.nearest, self._folder, name, self._changed
        )
        self._changed()

    def _stop(self, replica: Replica, why: str, failed: bool) -> None:
        self.cut(replica.want.id, why)
        task = asyncio.create_task(replica.stop(why, 0 if failed else STOP_GRACE_S, failed))
        self._stops.add(task)
        task.add_done_callback(self._stops.discard)
        task.add_done_callback(log_failure)

    async def stop_all(self, why: str, grace_s: float) -> None:
        await asyncio.gather(*(replica.stop(why, grace_s) for replica in self))
        if self._stops:
            await asyncio.wait(self._stops)
