"""A request's bytes → how many tokens it will cost, before an engine has counted. Pure.

Separate because fair order and limits must not differ on it, and because rows in the ledger, whose bodies were
parsed long ago, are estimated again.
"""

from __future__ import annotations

import re
from typing import Literal

Method = Literal["text", "size"]  # as the table of endpoints says
BYTES_PER_TOKEN = 4
UNSAID_TOKENS = 256  # of an answer whose length the request does not limit
LONGEST = 65_536  # bytes: a longer body is not looked into for the limit of its answer
_MOST_TOKENS = 131_072  # of an answer: what is asked for beyond this is not meant
# Inside a prompt the quotes would be escaped, so this finds only keys.
_LIMIT = re.compile(rb'"max_(?:completion_|output_)?tokens"\s*:\s*([0-9]{1,12})')


def tokens(body: bytes, method: Method = "text") -> int:
    """Return the estimated tokens of prompt and answer, at least 1. "size": the body is no text, and only its length
    counts."""
    if method == "size":
        return max(1, len(body) // BYTES_PER_TOKEN)
    found = _LIMIT.search(body) if len(body) <= LONGEST else None
    answer = min(int(found.group(1)), _MOST_TOKENS) if found else UNSAID_TOKENS
    return max(1, len(body) // BYTES_PER_TOKEN + answer)


def of_row(length: int | None, body: bytes | memoryview | None, method: Method = "text") -> int:
    """Return the estimated tokens of a row in the ledger. `body`: None where it is too long to be read, or lies in a
    batch's file."""
    if body is not None:
        return tokens(bytes(body), method)
    answer = UNSAID_TOKENS if method == "text" else 0
    return max(1, (length or 0) // BYTES_PER_TOKEN + answer)
