"""A person's wish for a token → a row with its hash; a revocation → a row, and gateways that know at once.

Separate from `tokens`, which knows only text, and from the callers (API, admin, commands), which share these rules.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import timedelta

import redis
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from portal.accounts.models import ApiToken, Membership, Project, User
from portal.accounts.tokens import Minted, mint
from portal.config import config

logger = logging.getLogger(__name__)

DIRECTORY_CHANNEL = "berth:directory"
DEFAULT_DAYS, MOST_DAYS = 90, 365


def issue_token(
    user: User, project: Project, name: str, scopes: Iterable[str], days: int = DEFAULT_DAYS
) -> tuple[ApiToken, Minted]:
    """A new token for `user` in `project`; its text is in the answer and nowhere else. Raises ValidationError."""
    wanted = sorted(set(scopes))
    _check(user, project, name, wanted, days)
    minted = mint()
    row = ApiToken.objects.create(
        user=user,
        project=project,
        name=name,
        prefix=minted.prefix,
        digest=minted.digest,
        scopes=wanted,
        expires_at=timezone.now() + timedelta(days=days),
    )
    return row, minted


def _check(user: User, project: Project, name: str, scopes: list[str], days: int) -> None:
    if not name.strip() or len(name) > 100:
        raise ValidationError({"name": "A token needs a name of 1 to 100 characters."})
    if not Membership.objects.filter(user=user, project=project).exists():
        raise ValidationError({"project": f"{user} is not a member of project {project}."})
    if not user.is_active or not project.is_active:
        raise ValidationError({"project": "The user or the project is disabled."})
    unknown = sorted(set(scopes) - set(ApiToken.Scope.values))
    if unknown or not scopes:
        known = ", ".join(ApiToken.Scope.values)
        raise ValidationError({"scopes": f"Scopes must be one or more of: {known}."})
    if ApiToken.Scope.FLEET in scopes and not user.operates:
        raise ValidationError({"scopes": "Only operators may have tokens for the fleet."})
    if not 1 <= days <= MOST_DAYS:
        raise ValidationError({"days": f"A token lives 1 to {MOST_DAYS} days."})


def revoke(token: ApiToken) -> bool:
    """Ends a token. True if this call ended it; a second one keeps the first one's time."""
    with transaction.atomic():
        moved = ApiToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=timezone.now())
        if moved:
            tell_gateways()
    token.refresh_from_db(fields=["revoked_at"])
    return bool(moved)


def tell_gateways() -> None:
    """Once the current transaction has committed: every gateway reads its directory anew."""
    transaction.on_commit(lambda: hint("gateways to read the directory", _publish_directory))


def _publish_directory() -> None:
    # A short patience: the caller may be a page that a person waits for.
    with redis.Redis.from_url(config().redis_url, socket_timeout=1, socket_connect_timeout=1) as link:
        link.publish(DIRECTORY_CHANNEL, "changed")


def hint(what: str, act: Callable[[], object]) -> None:
    """Runs a wake-up. It may fail: gateways look for themselves every 2 s, and a lost hint costs only that."""
    try:
        act()
    except redis.RedisError as error:
        logger.warning("could not tell %s: %s; it will be seen at the next look", what, error)
