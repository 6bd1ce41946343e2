"""Turns "I need a port" into a number on 127.0.0.1 that nobody listens on and nobody was given before.

Ports come from below the kernel's ephemeral range: a port found by binding to 0 lies inside that range, and
any outgoing connection of any program may take it before the server that it was meant for has started.
"""

from __future__ import annotations

import random
import socket

LOWEST, HIGHEST = 20_000, 32_000
_mine = range(LOWEST, HIGHEST)
_given: set[int] = set()


def share(number: int, of: int) -> None:
    """From here on ports come from one of so many equal parts: a port is chosen seconds before it is bound, and who runs
    beside us, in another part, cannot choose it meanwhile."""
    global _mine
    each = (HIGHEST - LOWEST) // of
    _mine = range(LOWEST + number * each, LOWEST + (number + 1) * each)


def is_free(port: int) -> bool:
    """Whether both the loopback address and the wildcard address can still be bound."""
    for address in ("127.0.0.1", "0.0.0.0"):
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True


def free_port() -> int:
    """A free port, never the same one twice in this process."""
    choice = random.SystemRandom()
    for _ in range(1000):
        port = choice.choice(_mine)
        if port not in _given and is_free(port):
            _given.add(port)
            return port
    raise OSError(f"no free port found between {_mine.start} and {_mine.stop}")


def accepts(port: int, timeout_s: float = 0.5) -> bool:
    """Whether something on 127.0.0.1 accepts connections on this port."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=timeout_s):
            return True
    except OSError:
        return False
