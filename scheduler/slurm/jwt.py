"""A file or a command that holds a token for slurmrestd → the token, renewed before it ends.

Separate from the transport, because who may see the token is decided here: it is in no message, no log and no command
line of ours. What the token says of itself (user, end) is read without checking its signature: slurmrestd does that.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portal.config.secret_files import SecretFileError, read_secret
from scheduler.slurm import shell
from scheduler.slurm.protocol import NoAnswer
from scheduler.slurm.way import Way

RENEW_BEFORE_S = 60.0
_TOKEN = re.compile(r"(?:SLURM_JWT=)?([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*)")


@dataclass(frozen=True, slots=True)
class Token:
    """A JWT with what it says of itself. `ends_at` and `begins_at` are UNIX seconds; None = it does not say."""

    text: str
    user: str
    begins_at: float | None
    ends_at: float | None

    def __repr__(self) -> str:
        return f"Token(user={self.user!r}, ends_at={self.ends_at})"

    def due(self, now: float) -> bool:
        """Return whether it is time to renew it: a minute before its end, or at nine tenths of a short life."""
        if self.ends_at is None:
            return False
        life_s = self.ends_at - self.begins_at if self.begins_at is not None else 10 * RENEW_BEFORE_S
        return now >= self.ends_at - min(RENEW_BEFORE_S, life_s / 10)


class TokenSource:
    """The source of a way's tokens. `limit_s` bounds the command that prints one."""

    def __init__(self, way: Way, limit_s: float) -> None:
        self._way = way
        self._limit_s = limit_s
        self._token: Token | None = None

    def get(self, now: float, limit_s: float | None = None) -> Token:
        """Return a token that has not ended, within `limit_s` where that is less than the own limit. Raises NoAnswer,
        with what to do, where there is none."""
        if self._token is None or self._token.due(now):
            self._token = self._read(now, self._limit_s if limit_s is None else min(limit_s, self._limit_s))
        return self._token

    def renewed(self, refused: Token, now: float, limit_s: float | None = None) -> Token | None:
        """Return another token than the one that slurmrestd refused, or None where there is no other one yet. Raises
        NoAnswer."""
        if self._token is None or self._token.text == refused.text:
            self._token = None
            fresh = self.get(now, limit_s)
            return fresh if fresh.text != refused.text else None
        return self._token

    def _read(self, now: float, limit_s: float) -> Token:
        way = self._way
        if way.token_command:
            found = self._from_command(limit_s)
            where = f"the command {way.token_command[0]}"
        elif way.token_file:
            found = _from_file(Path(way.token_file))
            where = way.token_file
        else:
            raise NoAnswer(f"{way.said}: it names neither a token file nor a token command")
        match = _TOKEN.fullmatch(found.strip())
        if match is None:
            raise NoAnswer(
                f"{way.said}: what {where} holds is no token (a JWT, as `scontrol token` prints it)"
            )
        token = read(match.group(1))
        if token.ends_at is not None and token.ends_at <= now:
            raise NoAnswer(f"{way.said}: the token of {where} has ended: put a new one there")
        return token

    def _from_command(self, limit_s: float) -> str:
        command = self._way.token_command
        what = f"token command {command[0]}"
        # Printed only by a command that ended well: what is said of any other one cannot hold a token.
        program = f"token=$({shlex.join(command)}) && printf '%s\\n' \"$token\""
        answer = shell.run((), program, limit_s=limit_s, what=what)
        if answer.code != 0:
            raise NoAnswer(f"{what}: it ended with code {answer.code}: {' '.join(answer.err.split())[:300]}")
        return next((line for line in reversed(answer.out.splitlines()) if line.strip()), "")


def read(text: str) -> Token:
    """Return a token's text with what its payload says; a payload that cannot be read says nothing."""
    payload = text.split(".")[1]
    try:
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, binascii.Error):
        claims = {}
    if not isinstance(claims, dict):
        claims = {}
    user = claims.get("sun") or claims.get("username") or ""
    return Token(text, str(user), _moment(claims.get("iat")), _moment(claims.get("exp")))


def _moment(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _from_file(path: Path) -> str:
    try:
        return read_secret(path)
    except SecretFileError as error:
        raise NoAnswer(f"token file {error}") from None
