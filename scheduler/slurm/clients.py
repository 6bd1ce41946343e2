"""A way to Slurm → the client that speaks it.

Separate from the clients, so that none of them is imported before a way asks for it.
"""

from __future__ import annotations

from functools import cache

from scheduler.slurm.cli import CliClient
from scheduler.slurm.protocol import NoAnswer, SlurmClient
from scheduler.slurm.way import Way


@cache
def client_for(way: Way, limit_s: float) -> SlurmClient:
    """Return the client of this way, kept: a client remembers which release it talks to. `limit_s` bounds each
    question. Raises NoAnswer for a kind that this release does not have."""
    if way.kind == "cli":
        return CliClient(way.prefix, conf=way.conf, limit_s=limit_s)
    if way.kind == "rest":
        from scheduler.slurm.rest import RestClient

        return RestClient(way, limit_s=limit_s)
    if way.kind == "native":
        from scheduler.slurm.native import NativeClient

        return NativeClient(way, limit_s=limit_s)
    raise NoAnswer(f"{way.said}: there is no client of kind {way.kind!r}")
