"""A request's bytes → how many tokens it will cost, before an engine has counted. Pure.

Separate because fair order and limits must not differ on it, and because rows in the ledger, whose bodies were
parsed long ago, are estimated again.
"""

from __future__ import annotations

import re

BYTES_PER_TOKEN = 4
UNSAID_TOKENS = 256  # of an answer whose length the request does not limit
_MOST_TOKENS = 131_072  # of an answer: what is asked for beyond this is not meant
# Inside a prompt the quotes would be escaped, so this finds only keys.
_LIMIT = re.compile(rb'"max_(?:completion_|output_)?tokens"\s*:\s*([0-9]{1,12})')


def tokens(body: bytes) -> int:
    """Estimated tokens of prompt and answer; at least 1."""
    found = _LIMIT.search(body)
    answer = min(int(found.group(1)), _MOST_TOKENS) if found else UNSAID_TOKENS
    return max(1, len(body) // BYTES_PER_TOKEN + answer)
