"""Files whose time is over, and what crashes left in their folder → gone (invariant 14)."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from uuid import UUID

from portal.batches.contents import Contents
from portal.batches.erasure import erase
from portal.config import Config
from portal.db.transaction import moving
from portal.ledger.models import File

logger = logging.getLogger(__name__)

_STRAY_S = 24 * 3600.0  # an upload takes less


def retain(settings: Config, now: float) -> None:
    contents = Contents(settings.files_dir)
    at = datetime.fromtimestamp(now, UTC)
    due = list(File.objects.filter(erased_at=None, expires_at__lte=at).values_list("id", flat=True))
    with moving() as cur:
        erase(cur, contents, due, at)
    strays = dict(contents.strays(now - _STRAY_S))
    known = set(File.objects.filter(id__in=strays, erased_at=None).values_list("id", flat=True))
    for file, is_draft in strays.items():
        if is_draft or file not in known:
            logger.warning("file %s belongs to nobody: deleted", _name(file, is_draft))
            contents.erase(file)


def _name(file: UUID, is_draft: bool) -> str:
    return f"{file}.part" if is_draft else str(file)
