"""What stands between a client and Slurm and lets everything wait: a shell before commands, a relay before slurmrestd."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

# Situation → how long each answer is held back, and how long the client waits, seconds.
LATE = {"late": (0.3, 15.0), "too_late": (120.0, 1.5)}


def before(delay_s: float) -> tuple[str, ...]:
    """Return a prefix by which a command starts late, as on a log-in node under load."""
    return ("sh", "-c", f'sleep {delay_s:g}; exec "$@"', "sh")


def behind(delay_s: float) -> tuple[str, ...]:
    """Return a prefix by which each line that a command prints comes late."""
    return (
        "sh",
        "-c",
        f'"$@" | while IFS= read -r line; do sleep {delay_s:g}; printf "%s\\n" "$line"; done',
        "sh",
    )


@contextmanager
def relay(url: str, delay_s: float) -> Iterator[str]:
    """Yield an address that passes connections on to `url`, each after a while; after the end it passes on none."""
    to = urlsplit(url)
    ended = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            if ended.wait(delay_s):
                return
            with closing(socket.create_connection((to.hostname, to.port), timeout=30)) as far:
                asking = threading.Thread(target=_pour, args=(self.request, far), daemon=True)
                asking.start()
                _pour(far, self.request)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            ended.set()
            server.shutdown()
            thread.join()


def _pour(one: socket.socket, other: socket.socket) -> None:
    try:
        while data := one.recv(65536):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # whoever asked waits no longer
