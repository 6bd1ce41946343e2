"""What nobody asked to be told, told by the worker and the beat of a whole Berth: an operator hears of a model that does
not start, of a Slurm that does not answer and of requests that wait for long; whoever owns a token that it soon ends, and
whoever has results that they soon go. What people ask for is in tests/browser/test_notices.py.
"""

from __future__ import annotations

import pytest

from tests.sinks import Mailbox
from tests.slurm.whole import POOL, Whole

pytestmark = pytest.mark.slurm
ADDRESS = "otto@example.org"
# The hour's look at tokens and files has been: without its mark the next look is the hour's again.
_LOOK = """
from datetime import timedelta
from django.core.cache import cache
from django.utils import timezone
now = timezone.now()
cache.delete_many([f"notices:hour:{at:%Y%m%d%H}" for at in (now, now + timedelta(hours=1))])
"""
_MAKE = f"""
from datetime import timedelta
from django.utils import timezone
from portal.accounts.issue import issue_token
from portal.accounts.models import ApiToken, Membership, Project, User
now = timezone.now()
otto = User.objects.create(username="otto", email={ADDRESS!r}, is_operator=True)
demo = Project.objects.get(slug="demo")
Membership.objects.create(user=otto, project=demo, role="member")
token, _ = issue_token(otto, demo, "night run", ["read"])
ApiToken.objects.filter(pk=token.pk).update(created_at=now - timedelta(days=84), expires_at=now + timedelta(days=6))
"""
OLGA = "olga@example.org"
_OLGA = f"""
from portal.accounts.models import User
User.objects.create(username="olga", email={OLGA!r}, is_operator=True)
"""


def test_an_operator_hears_of_a_model_that_does_not_start_and_of_a_token_that_ends(
    whole: Whole, letters: Mailbox
) -> None:
    whole.empty()
    whole.site.manage(["shell", "-v", "0", "-c", _MAKE + _LOOK])
    whole.tune(fail_on_start=True)
    try:
        whole.ask().result()
        whole.until(lambda: len(letters.subjects(ADDRESS)) >= 2, 60, "both mails")
        whole.ticks(3)
    finally:
        whole.tune()
        whole.relaunch()
    assert sorted(letters.subjects(ADDRESS)) == [
        "Your token “night run” expires soon",
        f"{POOL} does not start",
    ], "once each"


@pytest.mark.nightly
def test_people_hear_of_a_silent_slurm_of_a_long_wait_and_of_results_that_go(
    whole: Whole, letters: Mailbox
) -> None:
    """What takes minutes and days is put back in the tables by as much; all else happens."""
    whole.empty()
    whole.site.manage(["shell", "-v", "0", "-c", _OLGA])

    def told(subject: str) -> None:
        whole.until(lambda: any(s.startswith(subject) for s in letters.subjects(OLGA)), 60, subject)

    answered = whole.post()
    whole.until(lambda: whole.detail(answered)["state"] == "done", what="an answer")
    whole.rows(
        """UPDATE ledger_request SET ended_at = now() - interval '6 days 12 hours',
             user_id = (SELECT id FROM accounts_user WHERE username = 'olga') WHERE id = %s""",
        answered,
    )
    whole.site.manage(["shell", "-v", "0", "-c", _LOOK])
    told("1 result of a request is deleted within a day")

    whole.empty()
    whole.hold_nodes(held=True)
    try:
        waiting = whole.post()
        whole.rows(
            "UPDATE ledger_request SET accepted_at = now() - interval '31 minutes' WHERE id = %s", waiting
        )
        told(f"Requests for {POOL} have waited for ")
    finally:
        whole.hold_nodes(held=False)
    whole.until(lambda: whole.detail(waiting)["state"] == "done", what="an answer")

    whole.slurm.stop_controller()
    try:
        whole.until(lambda: whole.one("SELECT error FROM fleet_waystate"), what="silence")
        whole.rows("UPDATE fleet_waystate SET answered_at = now() - interval '6 minutes'")
        told("Slurm of main does not answer")
    finally:
        whole.slurm.start_controller()
    whole.until(lambda: not whole.one("SELECT error FROM fleet_waystate"), what="an answer of Slurm's")
    assert len(letters.subjects(OLGA)) == 3, "once each"
