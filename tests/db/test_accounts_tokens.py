"""Tokens: what a text tells by itself, who may have one, and what ending one does."""

from __future__ import annotations

import string
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest
import redis as redis_library
from django.core.exceptions import ValidationError
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from portal.accounts import tokens
from portal.accounts.issue import issue_token, revoke
from portal.accounts.models import ApiToken, Membership, Project, User
from portal.redis import hints, keys


@pytest.fixture
def member(db: None) -> tuple[User, Project]:
    user = User.objects.create_user("ada")
    project = Project.objects.create(slug="waves", name="Waves")
    Membership.objects.create(user=user, project=project)
    return user, project


def test_a_minted_token_is_well_formed_and_its_parts_agree() -> None:
    minted = tokens.mint()
    assert tokens.well_formed(minted.text)
    assert tokens.prefix_of(minted.text) == minted.prefix and len(minted.prefix) == 12
    assert tokens.digest(minted.text) == minted.digest and len(minted.digest) == 64
    assert minted.text not in repr(minted)


@given(place=st.integers(0, 64), letter=st.sampled_from(string.ascii_letters + string.digits))
def test_one_mistyped_letter_is_found_out(place: int, letter: str) -> None:
    text = tokens.mint().text
    wrong = text[:place] + letter + text[place + 1 :]
    assert tokens.well_formed(wrong) == (wrong == text)


@pytest.mark.parametrize("text", ["", "berth_", "sk-1234", "berth_é_", "berth_" + "a" * 60, " "])
def test_other_texts_are_not_well_formed(text: str) -> None:
    assert not tokens.well_formed(text)
    assert tokens.prefix_of(text) is None


def test_a_cut_off_token_is_not_well_formed() -> None:
    text = tokens.mint().text
    assert not tokens.well_formed(text[:-1])
    assert not tokens.well_formed(text + "\n")


def test_the_database_keeps_a_hash_and_never_the_text(member: tuple[User, Project]) -> None:
    row, minted = issue_token(*member, "notebook", ["inference"])
    row.refresh_from_db()
    assert row.digest == tokens.digest(minted.text)
    assert not any(minted.text in str(value) for value in vars(row).values())
    assert timedelta(days=89) < row.expires_at - timezone.now() <= timedelta(days=90)


@pytest.mark.parametrize(
    "wish",
    [
        {"scopes": []},
        {"scopes": ["inference", "root"]},
        {"scopes": ["fleet"]},
        {"days": 0},
        {"days": 366},
        {"name": " "},
        {"name": "x" * 101},
    ],
)
def test_a_wish_outside_the_rules_makes_no_token(member: tuple[User, Project], wish: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        fields: dict[str, Any] = {"name": "n", "scopes": ["inference"], "days": 5} | wish
        issue_token(*member, **fields)
    assert not ApiToken.objects.exists()


def test_an_outsider_gets_no_token(member: tuple[User, Project]) -> None:
    with pytest.raises(ValidationError, match="not a member"):
        issue_token(User.objects.create_user("eve"), member[1], "n", ["inference"])


def test_an_operator_may_have_a_fleet_token(member: tuple[User, Project]) -> None:
    user, project = member
    user.is_operator = True
    user.save()
    row, _ = issue_token(user, project, "ops", ["fleet", "read", "read"])
    assert row.scopes == ["fleet", "read"]


def test_a_disabled_user_gets_no_token(member: tuple[User, Project]) -> None:
    user, project = member
    user.is_active = False
    with pytest.raises(ValidationError, match="disabled"):
        issue_token(user, project, "n", ["read"])


@pytest.mark.django_db(transaction=True)
def test_revoking_tells_gateways_once_and_keeps_the_first_time(redis: redis_library.Redis) -> None:
    user, project = User.objects.create_user("ada"), Project.objects.create(slug="w", name="W")
    Membership.objects.create(user=user, project=project)
    row, _ = issue_token(user, project, "n", ["read"])
    heard = redis.pubsub()  # type: ignore[no-untyped-call]
    heard.subscribe(keys.DIRECTORY.of())
    assert heard.get_message(timeout=5)["type"] == "subscribe"
    assert revoke(row)
    first = row.revoked_at
    assert heard.get_message(timeout=5)["type"] == "message"
    assert not revoke(row)
    assert row.revoked_at == first is not None
    heard.close()


@pytest.mark.django_db(transaction=True)
def test_revoking_holds_when_redis_is_down() -> None:
    user, project = User.objects.create_user("ada"), Project.objects.create(slug="w", name="W")
    Membership.objects.create(user=user, project=project)
    row, _ = issue_token(user, project, "n", ["read"])
    with patch.object(hints, "_publish", side_effect=redis_library.ConnectionError("down")):
        assert revoke(row)
    row.refresh_from_db()
    assert row.revoked_at is not None
