"""Turns "I need a port" into a number on 127.0.0.1 that nobody listens on and nobody was given before.

Ports come from below the kernel's ephemeral range: a port found by binding to 0 lies inside that range, and
any outgoing connection of any program may take it before the server that it was meant for has started.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

LOWEST, HIGHEST = 20_000, 32_000
_given: set[int] = set()
_held: list[int] = []


def _ours(port: int) -> bool:
    """Keep everybody else of this user who asks here from the port, until this process ends.

    A port is chosen seconds before it is bound. One byte of a file stands for each; the kernel lets go of
    them.
    """
    if not _held:
        path = Path(tempfile.gettempdir()) / f"berth-ports-{os.getuid()}"
        _held.append(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    try:
        fcntl.lockf(_held[0], fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


def is_free(port: int) -> bool:
    """Tell whether both the loopback address and the wildcard address can still be bound."""
    for address in ("127.0.0.1", "0.0.0.0"):
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True


def free_port() -> int:
    """Return a free port, never the same one twice in this process."""
    choice = random.SystemRandom()
    for _ in range(1000):
        port = choice.randrange(LOWEST, HIGHEST)
        if port not in _given and _ours(port) and is_free(port):
            _given.add(port)
            return port
    raise OSError(f"no free port found between {LOWEST} and {HIGHEST}")


def accepts(port: int, timeout_s: float = 0.5, address: str = "127.0.0.1") -> bool:
    """Return whether something at this address accepts connections on this port."""
    try:
        with socket.create_connection((address, port), timeout=timeout_s):
            return True
    except OSError:
        return False
