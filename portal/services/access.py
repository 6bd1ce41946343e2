"""Who may do what in the API: a token's scopes, the projects a caller acts for, and which requests it may see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db.models import Q
from django.http import HttpRequest

from portal.accounts.models import ApiToken, Membership, Project, User
from portal.catalog.models import Model
from portal.errors import ApiError
from portal.ledger.models import Request as Row

if TYPE_CHECKING:
    from rest_framework.request import Request

INFERENCE, READ, FLEET = (scope.value for scope in ApiToken.Scope)


def caller(request: Request | HttpRequest) -> User:
    """Return the person behind a call or at a page. Views are only reached by authenticated ones."""
    assert isinstance(request.user, User)
    return request.user


def projects(request: Request) -> list[Project]:
    """List the projects the caller acts for: a token's one, or all active ones of the person at the
    browser."""
    if isinstance(request.auth, ApiToken):
        return [request.auth.project]
    return list(Project.objects.filter(membership__user=caller(request), is_active=True).order_by("slug"))


def project_to_charge(request: Request, slug: str) -> Project:
    """Return the project a new request belongs to. Raise ApiError when that is not clear."""
    mine = projects(request)
    if slug:
        mine = [project for project in mine if project.slug == slug]
        if not mine:
            raise ApiError("invalid_parameter", detail=f"You cannot use a project '{slug}'.", param="project")
    if len(mine) == 1:
        return mine[0]
    if not mine:
        raise ApiError("forbidden", detail="You belong to no project.")
    names = ", ".join(project.slug for project in mine)
    raise ApiError("invalid_parameter", detail=f"Choose a project: {names}.", param="project")


def usable_models(mine: list[Project]) -> Q:
    """Filter: models that at least one of these projects may use."""
    open_to = Q(is_public=True) | Q(projects__in=mine)
    return Q(enabled=True) & open_to


def model_for(name: str, mine: list[Project]) -> Model:
    """Return the model of this name if one of the projects may use it. Raise ApiError."""
    # projects__in joins: a model of two of my projects comes twice.
    found = Model.objects.filter(usable_models(mine), name=name).select_related("pool").distinct().first()
    if found is None:
        raise ApiError("model_not_found", detail=name[:128])
    return found


def is_owner(request: Request, row: Row) -> bool:
    """Tell whether the caller owns a row. A token sees what its user asked in its own project only."""
    token = request.auth
    if isinstance(token, ApiToken) and token.project_id != row.project_id:
        return False
    return row.user_id == caller(request).pk


def sees_metadata(request: Request, row: Row) -> bool:
    """Tell whether the caller sees a row: its owner, managers of its project, and operators.

    Nobody but the owner sees payload or result.
    """
    token = request.auth
    if not isinstance(token, ApiToken):
        return sees(caller(request), row)
    if is_owner(request, row):
        return True
    if caller(request).operates and FLEET in token.scopes:
        return True
    return token.project_id == row.project_id and row.project_id in managed(caller(request))


def sees(user: User, row: Row) -> bool:
    """Tell the same of a person at the browser, who carries every scope."""
    return row.user_id == user.pk or user.operates or row.project_id in managed(user)


def managed(user: User) -> list[int]:
    """List the ids of projects of which this person is a manager."""
    rows = Membership.objects.filter(user=user, role=Membership.Role.MANAGER)
    return list(rows.values_list("project_id", flat=True))
