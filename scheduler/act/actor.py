"""What acting needs: the clusters and the ways to them, clients, settings, a clock, Redis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

import redis as redis_library

from portal.config import Config
from scheduler.observe.listing import ClientFor
from scheduler.observe.ways import Site


@dataclass(frozen=True, slots=True)
class Actor:
    """The values that acting in one tick needs. `clock` gives UNIX seconds."""

    site: Site
    client_for: ClientFor
    config: Config
    clock: Callable[[], float]
    redis: redis_library.Redis
    # Pilots that have ended, and whose logs and secrets are still to be looked after.
    ended: list[UUID] = field(default_factory=list)

    def now(self) -> datetime:
        """Return the moment of the clock, with its time zone."""
        return datetime.fromtimestamp(self.clock(), UTC)
