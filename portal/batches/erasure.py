"""Files that nobody needs any more → rows that say so, and no content.

Separate from `expiry`, which finds those whose time is over: an owner may erase one before that. No Django.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from psycopg2.extensions import cursor as Cursor

from portal.batches import transitions
from portal.batches.contents import Contents


def erase(cur: Cursor, contents: Contents, files: Iterable[UUID], now: datetime) -> list[UUID]:
    """Erase those of the files that no live batch reads or writes, and return them. The caller commits: content that was
    deleted before a commit that failed is deleted again at the next try."""
    erased = transitions.erase_files(cur, files, now)
    for file in erased:
        contents.erase(file)
    return erased
