"""What an identity provider says of a person → whether they may come, their projects, and whether they operate.

`judge` is pure; `apply` brings memberships in line. Memberships that a rule gave are withdrawn when the claim no longer
carries its value; those that a person gave stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.db import transaction

from portal.accounts.models import ClaimRule, Membership, User
from portal.config.oidc import Provider
from portal.redis import hints

Claims = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Standing:
    """The rights that claims give. `refused`: the identity provider whose people may not log in, "" where none is
    refused. `roles`: by project's key. `operator`: None where the provider does not decide it."""

    refused: str = ""
    roles: Mapping[int, str] = field(default_factory=dict)
    operator: bool | None = None


def judge(provider: Provider, claims: Claims, rules: Iterable[ClaimRule]) -> Standing:
    idps = values(claims, provider.idp_claim)
    if provider.idps and not idps & set(provider.idps):
        return Standing(refused=", ".join(sorted(idps)) or "an unnamed one")
    said = values(claims, provider.projects_claim)
    roles: dict[int, str] = {}
    for rule in rules:
        if rule.value in said and rule.issuer in ("", provider.issuer):
            is_manager = Membership.Role.MANAGER in (rule.role, roles.get(rule.project_id))
            roles[rule.project_id] = Membership.Role.MANAGER if is_manager else rule.role
    operator = None
    if provider.operators is not None:
        claim, value = provider.operators
        operator = value in values(claims, claim)
    return Standing(roles=roles, operator=operator)


def values(claims: Claims, name: str) -> set[str]:
    """Return a claim's value or values. `a.b` is the claim of that name, or b inside of a."""
    if not name:
        return set()
    found: Any = claims.get(name)
    if found is None and "." in name:
        found = claims
        for part in name.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
    if isinstance(found, str):
        return {found}
    return {one for one in found if isinstance(one, str)} if isinstance(found, list) else set()


def apply(user: User, standing: Standing) -> None:
    """Bring the rights of a person who has a row in line. Who was pending and is given a project is let in; who was
    disabled is not."""
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)
        if _memberships(user, standing.roles):
            transaction.on_commit(hints.directory_changed)
        if user.is_pending and standing.roles:
            user.is_active = True
        if standing.operator is not None:
            user.is_operator = standing.operator
        user.save(update_fields=["is_active", "is_pending", "is_operator"])


def _memberships(user: User, roles: Mapping[int, str]) -> bool:
    """Bring the person's memberships in line, and return whether any changed."""
    held = {row.project_id: row for row in Membership.objects.filter(user=user)}
    changed = False
    for project, role in roles.items():
        row = held.get(project)
        if row is None:
            Membership.objects.create(user=user, project_id=project, role=role, by_claim=True)
            changed = True
        elif row.by_claim and row.role != role:
            row.role = role
            row.save(update_fields=["role"])
            changed = True
    gone = [row.pk for project, row in held.items() if row.by_claim and project not in roles]
    return bool(Membership.objects.filter(pk__in=gone).delete()[0]) or changed
