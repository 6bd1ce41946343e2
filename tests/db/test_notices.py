"""Notices: what is told whom, once, over real SMTP and HTTP; and what becomes of it when the other side misbehaves."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from datetime import timedelta
from email.message import Message
from http.server import BaseHTTPRequestHandler
from typing import Any
from uuid import uuid4

import psycopg2
import pytest
import redis as redis_library
from django.utils import timezone

from portal import hints
from portal.accounts.issue import issue_token
from portal.accounts.models import ApiToken, User
from portal.config import Config, config
from portal.fleet.models import Cluster, PoolState
from portal.ledger import lines
from portal.ledger.models import Batch, File
from portal.mail import Mail
from portal.notices import look as looking
from portal.notices import post
from portal.notices.look import LOCK, RETRY_S, look
from portal.notices.models import Delivery, OptOut, Webhook, Wish
from tests import sinks
from tests.api import world as make
from tests.api.world import CANARY_BODY, CANARY_RESULT, World
from tests.sinks import Mailbox, Receiver, says


@pytest.fixture
def world(db: None, redis: redis_library.Redis, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(hints, "_publish", lambda channel, text: None)
    monkeypatch.setattr(hints, "_send_tick", lambda: None)
    made = make.build()
    for name in ("owner", "mate", "operator", "outsider"):
        User.objects.filter(username=name).update(email=f"{name}@example.org")
    return made


@pytest.fixture
def box(settings: Any) -> Iterator[Mailbox]:
    with sinks.mailbox() as found:
        settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
        settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", found.port
        yield found


@pytest.fixture
def here(box: Mailbox) -> Config:
    """Settings of a site with mail, whose webhooks may go to loopback."""
    return dataclasses.replace(config(), mail=Mail(host="127.0.0.1", port=box.port), webhook_private=True)


@pytest.fixture
def sink() -> Iterator[Receiver]:
    with sinks.receiver() as found:
        yield found


@pytest.fixture
def hook(world: World, sink: Receiver) -> Webhook:
    return Webhook.objects.create(user=world.owner.user, url=sink.url)


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


def later(seconds: float) -> Any:
    return lambda: time.time() + seconds


def text(mail: Message) -> str:
    said = mail.get_payload(decode=True)
    assert isinstance(said, bytes)
    return said.decode()


def to(box: Mailbox) -> list[tuple[str, str]]:
    return sorted((str(mail["To"]), str(mail["Subject"])) for mail in box.mails)


def test_a_batch_that_ended_is_told_once_however_often_one_looks(
    world: World, here: Config, box: Mailbox, sink: Receiver, hook: Webhook
) -> None:
    batch = batch_row(world)
    for seconds in (0, 1, 4000):
        assert look(here, later(seconds))
    assert to(box) == [("owner@example.org", f"Batch batch_{batch.pk.hex} is finished")]
    (got,) = sink.got
    said = json.loads(got.body)
    assert (said["kind"], said["data"]) == (
        "batch_ended",
        {"batch": f"batch_{batch.pk.hex}", "state": "completed", "total": 3, "completed": 2, "failed": 1},
    )
    whole = got.body.decode() + box.mails[0].as_string()
    assert CANARY_BODY not in whole and CANARY_RESULT not in whole and hook.secret not in whole
    assert "/notices/" in box.mails[0].as_string()


def test_a_webhook_can_tell_that_it_is_us(world: World, here: Config, sink: Receiver, hook: Webhook) -> None:
    batch_row(world)
    look(here)
    (got,) = sink.got
    parts = dict(part.split("=") for part in got.headers["X-Berth-Signature"].split(","))
    expected = hmac.new(
        hook.secret.encode(), f"{parts['t']}.".encode() + got.body, hashlib.sha256
    ).hexdigest()
    assert parts["v1"] == expected and abs(time.time() - int(parts["t"])) < 60
    assert got.path == "/hook?a=b" and "Cookie" not in got.headers and "Authorization" not in got.headers
    other = Webhook.objects.create(user=world.mate.user, url=sink.url)
    assert other.secret != hook.secret


def test_while_one_process_sends_no_other_does(
    test_dsn: str, redis: redis_library.Redis, world: World, here: Config, box: Mailbox
) -> None:
    batch_row(world)
    link = psycopg2.connect(test_dsn)
    with link.cursor() as cur:
        cur.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        assert not look(here) and box.mails == []
        cur.execute("SELECT pg_advisory_unlock(%s)", [LOCK])
    link.close()
    assert look(here) and len(box.mails) == 1


def test_one_that_dies_while_it_sends_does_not_send_twice_at_once(
    world: World, here: Config, sink: Receiver, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_row(world, user_id=world.outsider.user.pk, project_id=world.other.pk)
    Webhook.objects.filter(pk=hook.pk).update(user=world.outsider.user)
    sent = post.post

    def and_dies(*args: Any) -> None:
        sent(*args)
        raise SystemExit

    OptOut.objects.create(user=world.outsider.user, kind="batch_ended")
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(looking, "post", and_dies)
        look(here)
    look(here)
    assert len(sink.got) == 1, "not before its time"
    look(here, later(RETRY_S[0] + 1))
    ids = {json.loads(got.body)["id"] for got in sink.got}
    assert len(sink.got) == 2 and len(ids) == 1, "told again, and the id says that it is the same"


def test_who_fails_is_asked_again_later_and_not_for_ever(
    world: World, here: Config, sink: Receiver, hook: Webhook
) -> None:
    batch_row(world)
    sink.next = [says(500) for _ in range(20)]
    passed = 0.0
    for wait_s in (*RETRY_S, RETRY_S[-1]):
        look(here, later(passed))
        number = len(sink.got)
        look(here, later(passed + wait_s - 5))
        assert len(sink.got) == number, "not before its time"
        passed += wait_s + 1
    look(here, later(passed))
    row = Delivery.objects.get(webhook=hook)
    assert (row.state, row.attempts, len(sink.got)) == ("failed", len(RETRY_S) + 1, len(RETRY_S) + 1)
    assert row.error == "It answered 500."


def test_who_comes_back_hears_of_it(world: World, here: Config, sink: Receiver, hook: Webhook) -> None:
    batch_row(world)
    Webhook.objects.filter(pk=hook.pk).update(url="http://127.0.0.1:1/")
    look(here)
    row = Delivery.objects.get(webhook=hook)
    assert row.state == "pending" and "does not answer" in row.error
    Webhook.objects.filter(pk=hook.pk).update(url=sink.url)
    look(here, later(RETRY_S[0] + 1))
    row.refresh_from_db()
    assert row.state == "sent" and len(sink.got) == 1


def test_who_is_slow_is_cut_off_and_holds_up_nobody(
    world: World, here: Config, sink: Receiver, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(post, "LIMIT_S", 0.3)

    def drips(handler: BaseHTTPRequestHandler) -> None:
        """A byte now and then: no single read ever takes long."""
        while not sink.released.wait(0.05):
            try:
                handler.wfile.write(b"H")
            except OSError:
                return

    batch_row(world)
    batch_row(world)
    sink.next = [drips]
    began = time.monotonic()
    look(here)
    assert time.monotonic() - began < 5
    states = sorted(Delivery.objects.filter(webhook=hook).values_list("attempts", flat=True))
    assert states == [0, 1], "whoever has just failed is not asked for the next one at once"
    look(here, later(1))
    assert Delivery.objects.filter(webhook=hook, state="sent").count() == 1


def test_redirects_lead_nowhere(world: World, here: Config, sink: Receiver, hook: Webhook) -> None:
    batch_row(world)
    with sinks.receiver() as inside:
        sink.next = [says(307, Location=inside.url)]
        look(here)
        assert len(sink.got) == 1 and inside.got == []
    assert "redirects are not followed" in Delivery.objects.get(webhook=hook).error


def test_mail_that_cannot_go_out_goes_out_later(
    world: World, here: Config, box: Mailbox, settings: Any
) -> None:
    batch_row(world)
    settings.EMAIL_PORT = 1
    look(here)
    assert Delivery.objects.get().state == "pending" and "mail server" in Delivery.objects.get().error
    settings.EMAIL_PORT = box.port
    look(here, later(RETRY_S[0] + 1))
    assert len(box.mails) == 1


def test_who_wants_none_of_a_kind_gets_none(world: World, here: Config, box: Mailbox) -> None:
    OptOut.objects.create(user=world.owner.user, kind="batch_ended")
    batch_row(world)
    look(here)
    assert box.mails == [] and not Delivery.objects.exists()


def test_nobody_is_told_what_is_not_theirs(world: World, here: Config, box: Mailbox, sink: Receiver) -> None:
    Webhook.objects.create(project=world.other, url=sink.url)
    Webhook.objects.create(user=world.mate.user, url=sink.url)
    batch_row(world)
    look(here)
    assert to(box)[0][0] == "owner@example.org" and len(box.mails) == 1 and sink.got == []
    Webhook.objects.create(project=world.project, url=sink.url)
    look(here)
    assert len(sink.got) == 1, "its project is told"
    User.objects.filter(pk=world.owner.user.pk).update(is_active=False)
    batch_row(world, ended_at=timezone.now())
    look(here)
    assert len(box.mails) == 1, "who was closed out is told nothing"


@pytest.mark.parametrize(("state", "words"), [("failed", "has failed"), ("expired", "ran out of time")])
def test_a_batch_that_went_wrong_is_told_too(
    world: World, here: Config, box: Mailbox, state: str, words: str
) -> None:
    batch_row(world, state, total=0, completed=0, failed=0)
    batch_row(world, "cancelled")
    batch_row(world, ended_at=timezone.now() - timedelta(days=3))
    look(here)
    assert [subject for _, subject in to(box)] == [subject for _, subject in to(box) if words in subject]
    assert len(box.mails) == 1


def test_tell_me_when_it_is_ready(world: World, here: Config, box: Mailbox) -> None:
    assert world.owner.api.send("POST", "models/surf/wake", {"notify": True}).status_code == 202
    world.mate.browser.post("/models/surf/wake", {"notify": "1"})
    world.outsider.browser.post("/models/surf/wake")
    look(here)
    assert box.mails == [] and Wish.objects.count() == 2
    make.replica_row(world, make.pilot_row(world))
    for _ in range(2):
        look(here)
    assert to(box) == [("mate@example.org", "surf is ready"), ("owner@example.org", "surf is ready")]
    assert not Wish.objects.exists()
    assert world.owner.api.send("POST", "models/surf/wake", {"notify": "maybe"}).status_code == 400


@pytest.mark.parametrize(
    ("lives", "left", "told"), [(90, 6, 1), (90, 8, 0), (90, 0.5, 1), (10, 6, 0), (10, 0.5, 1), (1, 0.5, 0)]
)
def test_a_token_that_expires_is_told_in_time(
    world: World, here: Config, box: Mailbox, lives: float, left: float, told: int
) -> None:
    token, minted = issue_token(world.owner.user, world.project, "night run", ["read"])
    ends = timezone.now() + timedelta(days=left)
    ApiToken.objects.filter(pk=token.pk).update(created_at=ends - timedelta(days=lives), expires_at=ends)
    look(here)
    look(here, later(3700))
    assert len(box.mails) == told
    assert all("night run" in text(mail) and minted.text not in text(mail) for mail in box.mails)


def test_a_revoked_token_is_no_news(world: World, here: Config, box: Mailbox) -> None:
    ApiToken.objects.update(created_at=timezone.now() - timedelta(days=90), expires_at=timezone.now() + timedelta(days=3),
                            revoked_at=timezone.now())  # fmt: skip
    look(here)
    assert box.mails == []


def test_results_that_go_are_told_once_a_day(world: World, here: Config, box: Mailbox) -> None:
    ends = timezone.now() - timedelta(days=config().result_keep_days) + timedelta(hours=12)
    for _ in range(3):
        make.request_row(world, "done", ended_at=ends, accepted_at=ends, granted_at=ends)
    make.request_row(world, "done")
    batch_row(world, "cancelled")
    File.objects.update(purpose="batch_output", expires_at=timezone.now() + timedelta(hours=5))
    look(here)
    look(here, later(3700))
    days = 1 if timezone.now().hour < 22 else len({subject for _, subject in to(box)})
    assert days == 1 and [subject for _, subject in to(box)][:2] == [
        "1 files with batches' answers are deleted within a day",
        "3 results of requests are deleted within a day",
    ]
    assert all(CANARY_RESULT not in mail.as_string() for mail in box.mails)


def test_operators_hear_of_what_waits_for_them(world: World, here: Config, box: Mailbox) -> None:
    now = timezone.now()
    long_ago = now - timedelta(hours=2)
    PoolState.objects.create(pool=world.pool, latched_at=now, reason="no module named canary")
    Cluster.objects.create(name="main", error="timed out", answered_at=now - timedelta(minutes=9))
    make.request_row(world, "queued", accepted_at=long_ago)
    for _ in range(2):
        look(here)
    subjects = [subject for whom, subject in to(box)]
    assert {whom for whom, _ in to(box)} == {"operator@example.org"}
    assert sorted(subjects) == [
        "Requests for surf wait for 2 h 0 min", "Slurm of main does not answer", "surf does not start",
    ]  # fmt: skip


def test_what_is_young_or_batches_is_no_news_for_operators(world: World, here: Config, box: Mailbox) -> None:
    now = timezone.now()
    Cluster.objects.create(name="main", error="timed out", answered_at=now - timedelta(minutes=2))
    make.request_row(world, "queued")
    make.request_row(
        world, "queued", lane="batch", batch_id=uuid4(), batch_line=1, accepted_at=now - timedelta(hours=9)
    )
    make.request_row(world, "parked", accepted_at=now - timedelta(hours=9))
    look(here)
    assert box.mails == []


def test_old_news_go(world: World, here: Config) -> None:
    batch_row(world)
    look(here)
    Delivery.objects.update(ended_at=timezone.now() - timedelta(days=31))
    Batch.objects.update(ended_at=timezone.now() - timedelta(days=31))
    look(here, later(3700))
    assert not Delivery.objects.exists()


def test_the_oldest_is_looked_for_at_the_head_of_each_line(
    world: World, here: Config, box: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "NEXT_FEW", 2)
    now = timezone.now()
    for place, hours in enumerate((1, 3, 9)):
        make.request_row(world, order_key=place, accepted_at=now - timedelta(hours=hours))
    make.request_row(world, pool="tide", accepted_at=now - timedelta(minutes=5))
    look(here)
    assert to(box) == [("operator@example.org", "Requests for surf wait for 3 h 0 min")]
