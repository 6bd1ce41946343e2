"""How notices go out: signed, one process at a time, each again when it was not taken; and that nobody waits for those
who are slow.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any

import psycopg2
import pytest
from devstack.procs import wait_until
from django.utils import timezone

from portal.config import Config
from portal.db.transaction import NOTICES_LOCK
from portal.notices import addresses, post, send
from portal.notices.look import look
from portal.notices.models import Delivery, OptOut, Webhook
from portal.notices.send import RETRY_S
from scheduler import tasks
from tests import sinks
from tests.api.world import World
from tests.db.notices.happenings import batch_row, later
from tests.sinks import Mailbox, Receiver, is_ours, says


def test_a_webhook_can_tell_that_it_is_us(world: World, here: Config, sink: Receiver, hook: Webhook) -> None:
    batch_row(world)
    look(here)
    (got,) = sink.got
    assert is_ours(got, hook.secret)
    assert got.path == "/hook?a=b" and "Cookie" not in got.headers and "Authorization" not in got.headers
    other = Webhook.objects.create(user=world.mate.user, url=sink.url)
    assert other.secret != hook.secret and not is_ours(got, other.secret)


def test_while_one_process_sends_no_other_does(
    test_dsn: str, world: World, here: Config, box: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "config", lambda: here)
    batch_row(world)
    link = psycopg2.connect(test_dsn)
    with link.cursor() as cur:
        cur.execute("SELECT pg_advisory_lock(%s)", [NOTICES_LOCK])
        tasks.notices()
        assert box.mails == [] and not Delivery.objects.exists()
        cur.execute("SELECT pg_advisory_unlock(%s)", [NOTICES_LOCK])
    link.close()
    tasks.notices()
    assert len(box.mails) == 1


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
        patch.setattr(post, "post", and_dies)
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


def drips(sink: Receiver) -> Callable[[BaseHTTPRequestHandler], None]:
    """Send a byte now and then: no single read ever takes long."""

    def act(handler: BaseHTTPRequestHandler) -> None:
        while not sink.released.wait(0.05):
            try:
                handler.wfile.write(b"H")
            except OSError:
                return

    return act


def test_who_is_slow_is_cut_off_and_not_asked_for_each(
    world: World, here: Config, sink: Receiver, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_row(world)
    batch_row(world)
    sink.next = [drips(sink)]
    with monkeypatch.context() as patch:  # whoever answers at once has the usual time for it
        patch.setattr(post, "LIMIT_S", 1.0)
        look(here)
    rows = Delivery.objects.filter(webhook=hook)
    assert len(sink.got) == 1 and [row.attempts for row in rows] == [1, 1], (
        "what is behind it waits as it does"
    )
    assert all("does not answer" in row.error for row in rows)
    look(here, later(1))
    assert len(sink.got) == 1
    look(here, later(RETRY_S[0] + 1))
    assert rows.filter(state="sent").count() == 2


def waiting(hook: Webhook, number: int) -> None:
    """Make deliveries that have been due for longer than any other."""
    before = timezone.now() - timedelta(minutes=1)
    for n in range(number):
        Delivery.objects.create(
            key=f"test:{n}",
            kind="batch_ended",
            webhook=hook,
            subject="A",
            text="A",
            next_at=before,
            created_at=before,
        )


def test_nobody_waits_for_who_is_slow(
    world: World, here: Config, box: Mailbox, sink: Receiver, hook: Webhook
) -> None:
    """A receiver that only answers once everybody else has heard: it must be asked beside them, not before them."""
    waiting(hook, 1)
    with sinks.receiver() as other:
        Webhook.objects.create(user=world.mate.user, url=other.url)
        batch_row(world, user_id=world.mate.user.pk)

        def last(handler: BaseHTTPRequestHandler) -> None:
            if wait_until(lambda: bool(other.got and box.mails), 9):
                says(200)(handler)

        sink.next = [last]
        look(here)
    row = Delivery.objects.get(webhook=hook)
    assert (row.state, row.attempts, row.error) == ("sent", 1, "")
    assert len(sink.got) == len(other.got) == len(box.mails) == 1


def test_who_has_much_to_hear_leaves_room_for_others(
    world: World, here: Config, sink: Receiver, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send, "MOST_AT_ONCE", 3)
    waiting(hook, 5)
    with sinks.receiver() as other:
        Webhook.objects.create(user=world.mate.user, url=other.url)
        batch_row(world, user_id=world.mate.user.pk, project_id=world.other.pk)
        look(here)
        assert len(other.got) == 1 and len(sink.got) < 5


def test_a_look_ends_though_a_name_server_hangs(
    world: World, here: Config, box: Mailbox, sink: Receiver, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()

    def hangs(*args: Any) -> tuple[str, int]:
        answered.wait(60)
        return addresses.resolved(*args)

    monkeypatch.setattr(post, "resolved", hangs)
    # Together long enough for the mail beside it, also on a busy machine.
    monkeypatch.setattr(post, "LIMIT_S", 0.5)
    monkeypatch.setattr(send, "BUDGET_S", 2.0)
    monkeypatch.setattr(send, "GRACE_S", 0.5)
    batch_row(world)
    look(here)
    assert not answered.is_set()
    row = Delivery.objects.get(webhook=hook)
    assert (row.state, row.attempts, row.error) == ("pending", 1, "There was no answer in time.")
    assert len(box.mails) == 1
    answered.set()
    assert wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("notices")], 30)
    assert sink.got == [], "too late is not at all: it is told in its next attempt"


@pytest.mark.parametrize("url", ["https://{}.example.org/".format("a" * 70), "http://[::1/"])
def test_an_address_that_is_none_is_given_up_at_once(
    world: World, here: Config, box: Mailbox, hook: Webhook, url: str
) -> None:
    Webhook.objects.filter(pk=hook.pk).update(url=url)
    batch_row(world)
    look(here)
    assert Delivery.objects.get(webhook=hook).state == "failed" and len(box.mails) == 1


def test_a_fault_of_ours_holds_up_nobody(
    world: World, here: Config, box: Mailbox, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*args: Any) -> None:
        raise KeyError("x")

    monkeypatch.setattr(post, "call", breaks)
    batch_row(world)
    look(here)
    row = Delivery.objects.get(webhook=hook)
    assert (row.state, row.error) == ("pending", "Berth could not send it; its log says why.")
    assert len(box.mails) == 1


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
