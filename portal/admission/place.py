"""What one request asks of a pool's replicas, as one value: it goes from the call through keeper and slots into the
scripts, so that whatever else decides which replica a request may have is one more field here, and no parameter there.
"""

from __future__ import annotations

from typing import NamedTuple


class Place(NamedTuple):
    """A request's place in its pool: in line, or in a slot of a replica.

    No rule looks at the adapter yet: an adapter's model is a pool of its own until replicas load adapters. The scripts
    find it in their `place`. A tuple with names, because each request makes some."""

    pool: str
    request: str
    adapter: str = ""  # its own model name; "": the base model
    alone: bool = False  # an engine died under it: it gets a replica to itself

    def arguments(self) -> tuple[str, str, int]:
        """Return it as the scripts read it (`place_at` in common.lua). The pool is their key."""
        return self.request, self.adapter, int(self.alone)
