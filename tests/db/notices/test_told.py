"""What is told whom, once: every kind of notice, by real mail and to a real receiver, and what is no news."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone

from portal.accounts.models import ApiToken, User
from portal.config import Config
from portal.ledger import lines
from portal.ledger.models import Batch, File
from portal.notices.look import look
from portal.notices.models import FOR_OPERATORS, Delivery, Kind, OptOut, Webhook, Wish
from tests import sinks
from tests.api import world as make
from tests.api.world import CANARY_BODY, CANARY_RESULT, World
from tests.db.notices.happenings import (
    DAY_S,
    HOUR_S,
    back_s,
    batch_row,
    ending_token,
    going_results,
    later,
    text,
    to,
    trouble,
)
from tests.sinks import Mailbox, Receiver, is_ours
from tests.ways import way_row


def test_every_kind_is_told_once_by_mail_and_by_webhook(
    world: World, here: Config, box: Mailbox, sink: Receiver, hook: Webhook
) -> None:
    world.owner.api.send("POST", "models/surf/wake", {"notify": True})
    make.replica_row(world, make.pilot_row(world))
    batch_row(world)
    batch_row(world, "failed", total=0, completed=0, failed=0)
    secret = ending_token(world, 90, 6)
    going_results(world, 2)
    trouble(world)
    with sinks.receiver() as operators:
        theirs = Webhook.objects.create(user=world.operator.user, url=operators.url)
        begun = back_s(60, HOUR_S)  # a line that waits is told once an hour
        for seconds in (0, 1, 60):
            look(here, later(begun + seconds))
    told = [
        (receiver, json.loads(got.body)["kind"]) for receiver in (sink, operators) for got in receiver.got
    ]
    own = [kind for kind in Kind if kind not in FOR_OPERATORS] + [Kind.BATCH_ENDED]
    assert sorted(kind for whom, kind in told if whom is sink) == sorted(own)
    assert sorted(kind for whom, kind in told if whom is operators) == sorted(FOR_OPERATORS)
    assert all(is_ours(got, hook.secret) for got in sink.got)
    assert all(is_ours(got, theirs.secret) for got in operators.got)
    assert not any(is_ours(got, theirs.secret) for got in sink.got)
    whom = [address for address, _ in to(box)]
    assert whom.count("owner@example.org") == len(own) and whom.count("operator@example.org") == len(
        FOR_OPERATORS
    )
    assert len(whom) == len(told), "and nobody else"
    for person, got in [(world.owner, got) for got in sink.got] + [
        (world.operator, got) for got in operators.got
    ]:
        page = json.loads(got.body)["data"]["page"]
        assert page in "".join(map(text, box.mails)), "the mail names it, too"
        assert person.browser.get(page.removeprefix(here.site).partition("#")[0]).status_code == 200, page
    whole = "".join(mail.as_string() for mail in box.mails) + "".join(
        got.body.decode() for got in sink.got + operators.got
    )
    for hidden in (secret, hook.secret, theirs.secret, CANARY_BODY, CANARY_RESULT):
        assert hidden not in whole


def test_a_batch_that_ended_is_told_once_however_often_one_looks(
    world: World, here: Config, box: Mailbox, sink: Receiver, hook: Webhook
) -> None:
    batch = batch_row(world)
    for seconds in (0, 1, 4000):
        look(here, later(seconds))
    assert to(box) == [("owner@example.org", f"Batch batch_{batch.pk} is finished")]
    (got,) = sink.got
    said = json.loads(got.body)
    assert (said["kind"], said["data"]) == (
        "batch_ended",
        {"batch": f"batch_{batch.pk}", "state": "completed", "total": 3, "completed": 2, "failed": 1,
         "page": f"{here.site}/batches/{batch.pk}/"},
    )  # fmt: skip
    whole = got.body.decode() + box.mails[0].as_string()
    assert CANARY_BODY not in whole and CANARY_RESULT not in whole and hook.secret not in whole
    assert "/notices/" in box.mails[0].as_string()


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


@pytest.mark.parametrize(("state", "words"), [("failed", "has failed"), ("expired", "has expired")])
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
    minted = ending_token(world, lives, left)
    look(here)
    look(here, later(3700))
    assert len(box.mails) == told
    assert all("night run" in text(mail) and minted not in text(mail) for mail in box.mails)


def test_a_revoked_token_is_no_news(world: World, here: Config, box: Mailbox) -> None:
    ApiToken.objects.update(created_at=timezone.now() - timedelta(days=90), expires_at=timezone.now() + timedelta(days=3),
                            revoked_at=timezone.now())  # fmt: skip
    look(here)
    assert box.mails == []


def test_results_that_go_are_told_once_a_day(world: World, here: Config, box: Mailbox) -> None:
    going_results(world, 3)
    make.request_row(world, "done")
    batch_row(world, "cancelled")
    File.objects.update(purpose="batch_output", expires_at=timezone.now() + timedelta(hours=5))
    begun = back_s(3700, DAY_S)
    look(here, later(begun))
    look(here, later(begun + 3700))
    assert [subject for _, subject in to(box)] == [
        "1 file with a batch's answers is deleted within a day",
        "3 results of requests are deleted within a day",
    ]
    assert all(CANARY_RESULT not in mail.as_string() for mail in box.mails)


def test_operators_hear_of_what_waits_for_them(world: World, here: Config, box: Mailbox) -> None:
    trouble(world)
    at = time.time()
    for _ in range(2):
        look(here, lambda: at)
    subjects = [subject for whom, subject in to(box)]
    assert {whom for whom, _ in to(box)} == {"operator@example.org"}
    assert sorted(subjects) == [
        "Requests for surf have waited for 2 h 0 min", "Slurm of main does not answer", "surf does not start",
    ]  # fmt: skip


def test_what_is_young_or_batches_is_no_news_for_operators(world: World, here: Config, box: Mailbox) -> None:
    now = timezone.now()
    way_row(error="timed out", answered_at=now - timedelta(minutes=2))
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
    assert to(box) == [("operator@example.org", "Requests for surf have waited for 3 h 0 min")]
