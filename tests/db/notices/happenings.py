"""What there is to tell, as rows; and how one reads what was told."""

from __future__ import annotations

import time
from datetime import timedelta
from email.message import Message
from typing import Any

from django.utils import timezone

from portal.accounts.issue import issue_token
from portal.accounts.models import ApiToken
from portal.config import config
from portal.fleet.models import PoolState
from portal.ledger.models import Batch, File
from tests.api import world as make
from tests.api.world import CANARY_BODY, CANARY_RESULT, World
from tests.sinks import Mailbox
from tests.ways import way_row


def batch_row(world: World, state: str = "completed", **fields: Any) -> Batch:
    now = timezone.now()
    file = File.objects.create(
        project_id=world.project.pk, user_id=world.owner.user.pk, purpose="batch", name=CANARY_BODY, bytes=3,
        created_at=now, expires_at=now + timedelta(days=30),
    )  # fmt: skip
    facts: dict[str, Any] = {
        "project_id": world.project.pk, "user_id": world.owner.user.pk, "state": state, "endpoint": make.CHAT,
        "input_file": file, "created_at": now, "expires_at": now, "ended_at": now, "total": 3, "completed": 2,
        "failed": 1, "metadata": {"note": CANARY_RESULT},
    }  # fmt: skip
    return Batch.objects.create(**(facts | fields))


def ending_token(world: World, lives_days: float, left_days: float) -> str:
    """Make a token of the owner's that ends soon; return its text."""
    token, minted = issue_token(world.owner.user, world.project, "night run", ["read"])
    ends = timezone.now() + timedelta(days=left_days)
    ApiToken.objects.filter(pk=token.pk).update(created_at=ends - timedelta(days=lives_days), expires_at=ends)
    return minted.text


def going_results(world: World, number: int) -> None:
    """Make answers of the owner's that are deleted within a day."""
    ends = timezone.now() - timedelta(days=config().result_keep_days) + timedelta(hours=12)
    for _ in range(number):
        make.request_row(world, "done", ended_at=ends, accepted_at=ends, granted_at=ends)


def trouble(world: World) -> None:
    """Make all that operators are told of."""
    now = timezone.now()
    PoolState.objects.create(
        pool_id="surf", failures=3, latched_at=now, reason=f"no file named {CANARY_BODY}"
    )
    way_row(error="timed out", answered_at=now - timedelta(minutes=9))
    make.request_row(world, "queued", accepted_at=now - timedelta(hours=2))


def later(seconds: float) -> Any:
    return lambda: time.time() + seconds


HOUR_S, DAY_S = 3600.0, 24 * 3600.0


def back_s(lasts_s: float, within_s: float) -> float:
    """Return how long before now a time must lie of which so many seconds fall into one hour, or one day, of
    UTC.

    There is a minute to spare: what is told once in each is told once in them, whenever a test runs.
    """
    left_s = within_s - time.time() % within_s
    return 0.0 if left_s > lasts_s + 60 else -(lasts_s + 60)


def text(mail: Message) -> str:
    said = mail.get_payload(decode=True)
    assert isinstance(said, bytes)
    return said.decode()


def to(box: Mailbox) -> list[tuple[str, str]]:
    return sorted((str(mail["To"]), str(mail["Subject"])) for mail in box.mails)
