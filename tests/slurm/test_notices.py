"""What nobody asked to be told, told by the worker and the beat of a whole Berth: an operator hears of a model that does
not start, whoever owns a token that it soon ends. What people ask for is in tests/browser/test_notices.py.
"""

from __future__ import annotations

import pytest

from tests.sinks import Mailbox
from tests.slurm.whole import POOL, Whole

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(180)]
ADDRESS = "otto@example.org"
# The hour's look at tokens and files has been: without its mark the next look is the hour's again.
_MAKE = f"""
from datetime import timedelta
from django.core.cache import cache
from django.utils import timezone
from portal.accounts.issue import issue_token
from portal.accounts.models import ApiToken, Membership, Project, User
now = timezone.now()
otto = User.objects.create(username="otto", email={ADDRESS!r}, is_operator=True)
demo = Project.objects.get(slug="demo")
Membership.objects.create(user=otto, project=demo, role="member")
token, _ = issue_token(otto, demo, "night run", ["read"])
ApiToken.objects.filter(pk=token.pk).update(created_at=now - timedelta(days=84), expires_at=now + timedelta(days=6))
cache.delete_many([f"notices:hour:{{at:%Y%m%d%H}}" for at in (now, now + timedelta(hours=1))])
"""


def test_an_operator_hears_of_a_model_that_does_not_start_and_of_a_token_that_ends(
    whole: Whole, letters: Mailbox
) -> None:
    whole.empty()
    whole.site.manage(["shell", "-v", "0", "-c", _MAKE])
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
