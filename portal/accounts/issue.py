"""A person's wish for a token → a row with its hash; a revocation → a row, and gateways that know at once.

Separate from `tokens`, which knows only text, and from the callers (API, admin, commands), which share these rules.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import F, QuerySet
from django.utils import timezone

from portal.accounts.models import ApiToken, Membership, Project, User
from portal.accounts.tokens import Minted, mint
from portal.redis import hints

DEFAULT_DAYS, MOST_DAYS = 90, 365
BRIEF = timedelta(hours=1)
MOST_BRIEF = 4  # live ones of a person: as many windows ask at once


def issue_token(
    user: User, project: Project, name: str, scopes: Iterable[str], days: int = DEFAULT_DAYS
) -> tuple[ApiToken, Minted]:
    """Create a token for `user` in `project`; its text is in the answer and nowhere else. Raise ValidationError."""
    wanted = sorted(set(scopes))
    _check(user, project, name, wanted, days)
    return _issue(user, project, name, wanted, timedelta(days=days))


def issue_brief_token(user: User, project: Project, name: str) -> tuple[ApiToken, Minted]:
    """Create a token for a page in the browser: it asks models, nothing else, for an hour. Raise ValidationError."""
    scopes = [ApiToken.Scope.INFERENCE.value]
    _check(user, project, name, scopes, 1)
    with transaction.atomic():
        for row in _brief(user).order_by("-created_at", "-pk")[MOST_BRIEF - 1 :]:
            revoke(row)
        return _issue(user, project, name, scopes, BRIEF)


def revoke_brief(user: User) -> None:
    """Revoke the tokens of this person's pages, e.g. at log-out."""
    for row in _brief(user):
        revoke(row)


def _brief(user: User) -> QuerySet[ApiToken]:
    """Return the live ones; they are told from a person's own by their life, which is never a day."""
    live = ApiToken.objects.filter(user=user, revoked_at=None, expires_at__gt=timezone.now())
    return live.filter(expires_at__lte=F("created_at") + BRIEF)


def _issue(
    user: User, project: Project, name: str, wanted: list[str], lives: timedelta
) -> tuple[ApiToken, Minted]:
    minted = mint()
    row = ApiToken.objects.create(
        user=user,
        project=project,
        name=name,
        prefix=minted.prefix,
        digest=minted.digest,
        scopes=wanted,
        expires_at=timezone.now() + lives,
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
    """Revoke a token. Return True if this call ended it; a second one keeps the first one's time."""
    with transaction.atomic():
        live = ApiToken.objects.select_for_update(of=("self",)).filter(pk=token.pk, revoked_at=None).first()
        if live is not None:
            live.revoked_at = timezone.now()
            live.save(update_fields=["revoked_at"])
            transaction.on_commit(hints.directory_changed)
    token.refresh_from_db(fields=["revoked_at"])
    return live is not None
