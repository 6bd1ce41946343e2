"""One way to one Slurm cluster: by which client, at which address, as whom.

Separate from the clients, because the loop groups jobs and silences by it without asking anybody: which listing may
judge a job, and which profiles wait while one way is silent, depends on nothing else. Holds where a token is kept,
never a token.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

Kind = Literal["cli", "rest", "native"]


@dataclass(frozen=True, slots=True, order=True)
class Way:
    """A way to Slurm, values only; two ways with equal fields are one way. "" or () means "not set"."""

    kind: Kind = "cli"
    cluster: str = "main"
    prefix: tuple[
        str, ...
    ] = ()  # what Slurm's commands or the native helper are run through, e.g. ssh login01
    address: str = ""  # slurmrestd's URL; rest only
    conf: str = ""  # SLURM_CONF where the commands or the helper run; "" = the environment's
    user: str = ""  # the account whose jobs these are; rest only
    token_file: str = ""  # file that holds a JWT; rest only
    token_command: tuple[str, ...] = ()  # prints a JWT; rest only
    python: str = ""  # interpreter of the native helper
    name: str = ""  # what the administrator calls it; "" = Slurm's commands on the portal's host

    @property
    def slurm(self) -> tuple[object, ...]:
        """Return what decides which Slurm answers. Two ways that agree in it lead to one; others may, too."""
        return self.kind, self.cluster, self.prefix, self.address, self.conf

    @property
    def said(self) -> str:
        """Return the way in words, for a person: "Slurm (main)", "Slurm (alps, by ssh login01)"."""
        found = {"cli": _by(self.prefix), "rest": _at(self.address), "native": _by(self.prefix)}[self.kind]
        return f"Slurm ({', '.join(filter(None, (self.name or self.cluster, found)))})"


def _by(prefix: tuple[str, ...]) -> str:
    """Return the program and where it leads; between them may stand a key, and before a host name a
    secret."""
    words = dict.fromkeys((prefix[0], prefix[-1])) if prefix else {}
    return f"by {' '.join(word[:60] for word in words)}" if words else ""


def _at(address: str) -> str:
    """Return the host and port of a URL: what stands before an @ may be a secret."""
    try:
        netloc = urlsplit(address).netloc
    except ValueError:  # e.g. http://[slurm]:6820, written before such addresses were refused
        netloc = ""
    host = netloc.rpartition("@")[2] or re.sub(r".*@", "", address)
    return f"at {host}" if host else ""
