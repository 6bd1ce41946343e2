"""Who belongs to a project, changed by its managers and administrators: add, change a role, remove.

Apart from the pages, so that the rules are in one place: a project that has a manager keeps one, and who leaves loses
the tokens that act in it, whether a manager, an administrator or a claim that is gone took them out.
"""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models.signals import pre_delete, pre_save
from django.dispatch import receiver

from portal.accounts.issue import revoke
from portal.accounts.models import ApiToken, Membership, Project, User
from portal.redis import hints

LAST_MANAGER = "The project would have no manager: make somebody else one first."


def may_manage(user: User, project: Project) -> bool:
    if user.is_superuser:
        return True
    return Membership.objects.filter(user=user, project=project, role=Membership.Role.MANAGER).exists()


def add(project: Project, username: str, role: str) -> Membership:
    """Add a member to the project. Raise ValidationError."""
    user = User.objects.filter(username=username).first()
    if user is None:
        raise ValidationError({"username": f"There is nobody called “{username}” here."})
    row, new = Membership.objects.get_or_create(user=user, project=project, defaults={"role": _role(role)})
    if not new:
        raise ValidationError({"username": f"{username} belongs to the project already."})
    transaction.on_commit(hints.directory_changed)
    return row


def set_role(row: Membership, role: str) -> None:
    """Set a member's role by hand, so that no claim rule decides it any more. Raise ValidationError."""
    with transaction.atomic():
        _lock(row.project)
        if _role(role) != Membership.Role.MANAGER:
            _keep_a_manager(row)
        row.role, row.by_claim = role, False
        row.save(update_fields=["role", "by_claim"])
    transaction.on_commit(hints.directory_changed)


def remove(row: Membership) -> None:
    """Remove a member from the project. Raise ValidationError."""
    with transaction.atomic():
        _lock(row.project)
        _keep_a_manager(row)
        row.delete()
    transaction.on_commit(hints.directory_changed)


@receiver(pre_delete, sender=Membership)
def _end_tokens(instance: Membership, **_: Any) -> None:
    """Revoke the person's tokens in the project. It is a signal, because there are many ways out. Without it old
    tokens would live again when the person comes back."""
    for token in ApiToken.objects.filter(user=instance.user_id, project=instance.project_id, revoked_at=None):
        revoke(token)


@receiver(pre_save, sender=Membership)
def _end_tokens_before(instance: Membership, **_: Any) -> None:
    """Revoke the tokens of a row that the admin makes another person's or project's."""
    row = Membership.objects.filter(pk=instance.pk).first()
    if row is not None and (row.user_id, row.project_id) != (instance.user_id, instance.project_id):
        _end_tokens(row)


def _lock(project: Project) -> None:
    """Lock the project while managers are counted: of two who leave at once one is told to stay."""
    Project.objects.select_for_update().get(pk=project.pk)


def _keep_a_manager(row: Membership) -> None:
    managers = Membership.objects.filter(project=row.project, role=Membership.Role.MANAGER)
    if managers.filter(pk=row.pk).exists() and not managers.exclude(pk=row.pk).exists():
        raise ValidationError(LAST_MANAGER)


def _role(role: str) -> str:
    if role not in Membership.Role.values:
        raise ValidationError({"role": f"A role is one of: {', '.join(Membership.Role.values)}."})
    return role
