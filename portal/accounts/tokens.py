"""Randomness → the text of an API token; text → whether it can be one, and its digest.

`berth_<12: prefix>_<40: secret><6: CRC-32 of all before it>`, letters and digits only. The prefix is what people
and logs call a token by. The checksum tells a truncated or mistyped token from a revoked one without a query;
it proves nothing. Standard library only: the gateway, which knows no Django, imports this.

A plain SHA-256 is kept: the secret carries 238 random bits, so there is nothing to guess and no need for salt.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import zlib
from dataclasses import dataclass

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_PREFIX_CHARS, _SECRET_CHARS, _CHECK_CHARS = 12, 40, 6
_SHAPE = re.compile(r"berth_([0-9A-Za-z]{12})_[0-9A-Za-z]{46}")


@dataclass(frozen=True, slots=True, repr=False)
class Minted:
    """A new token. `text` is shown once and kept nowhere, so it has no repr either."""

    text: str
    prefix: str
    digest: str


def mint() -> Minted:
    prefix = _random(_PREFIX_CHARS)
    head = f"berth_{prefix}_{_random(_SECRET_CHARS)}"
    text = head + _checksum(head)
    return Minted(text, prefix, digest(text))


def well_formed(text: str) -> bool:
    """Say whether this was ever minted by a Berth, as far as shape and checksum tell."""
    return _SHAPE.fullmatch(text) is not None and _checksum(text[:-_CHECK_CHARS]) == text[-_CHECK_CHARS:]


def prefix_of(text: str) -> str | None:
    """Return the part that may be logged and shown, or None where the shape is not a token's."""
    found = _SHAPE.fullmatch(text)
    return found.group(1) if found else None


def digest(text: str) -> str:
    """Return the SHA-256 in hex, which the database keeps."""
    return hashlib.sha256(text.encode()).hexdigest()


def _random(chars: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(chars))


def _checksum(head: str) -> str:
    left = zlib.crc32(head.encode())
    out = ""
    for _ in range(_CHECK_CHARS):  # 62 ** 6 > 2 ** 32
        left, place = divmod(left, 62)
        out = _ALPHABET[place] + out
    return out
