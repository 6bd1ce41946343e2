"""What is still missing in an installation → the one next step, in words for whoever looks at a page.

Administrators are told what to do and where, on every page, operators what concerns the fleet; users are told
whom to ask. One query per page; once everything is there, nothing is shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connection
from django.urls import reverse

from portal.accounts.models import User
from portal.config import config

LOOP_LATE = timedelta(minutes=2)
FLEET = "fleet"
# What must be there, in this order: its name in `Found`, the step that brings it, and the page for that.
STEPS = (
    (
        "environment",
        "Add an environment",
        "It says where an engine such as vLLM is installed on the cluster.",
        "admin:catalog_environment_add",
    ),
    (
        "profile",
        "Add a profile",
        "It says how jobs are submitted: partition, account, GPUs, walltime.",
        "admin:catalog_profile_add",
    ),
    (
        "project",
        "Add a project",
        "Requests are counted by project, and models are registered from its folders (model roots).",
        "admin:accounts_project_add",
    ),
    (
        "member",
        "Add a member to a project",
        "Only members of a project can use models. Add yourself for a first test.",
        "admin:accounts_membership_add",
    ),
    (
        "ticked_at",
        "Start the control loop",
        "It has not run yet. It needs a Celery worker and beat (celery -A portal worker, celery -A portal beat).",
        FLEET,
    ),
    (
        "answered_at",
        "Connect to Slurm",
        "Slurm has not answered yet; the page Fleet shows the error.",
        FLEET,
    ),
    (
        "model",
        "Register a model",
        "From its folder on the cluster, which a job inspects, or in the admin, together with a pool.",
        "register",
    ),
    (
        "pool",
        "Give a pool a profile",
        "No pool has an enabled profile under which its jobs could be submitted.",
        "admin:catalog_pool_changelist",
    ),
)


@dataclass(frozen=True, slots=True)
class Found:
    """The parts of an installation that are there."""

    environment: bool
    profile: bool
    pool: bool
    model: bool
    project: bool
    member: bool
    ticked_at: datetime | None
    answered_at: datetime | None
    error: str


@dataclass(frozen=True, slots=True)
class Step:
    """One step that is missing. `where`: name of the page on which it is taken; empty: elsewhere. `number`: of `of`;
    0 once all were done."""

    title: str
    text: str
    where: str = ""
    number: int = 0
    of: int = 0

    @property
    def url(self) -> str:
        return reverse(self.where) if self.where else ""


def look(cluster: str) -> Found:
    with connection.cursor() as cur:
        cur.execute(
            """SELECT EXISTS (SELECT FROM catalog_environment),
                 EXISTS (SELECT FROM catalog_profile WHERE enabled),
                 EXISTS (SELECT FROM catalog_pool_profiles p JOIN catalog_profile f ON f.id = p.profile_id
                         WHERE f.enabled),
                 EXISTS (SELECT FROM catalog_model WHERE enabled),
                 EXISTS (SELECT FROM accounts_project WHERE is_active),
                 EXISTS (SELECT FROM accounts_membership),
                 c.ticked_at, (SELECT max(answered_at) FROM fleet_waystate),
                 coalesce((SELECT string_agg(said || ': ' || error, ' ' ORDER BY said) FROM fleet_waystate
                           HAVING bool_and(error <> '')), '')
               FROM (SELECT 1) one LEFT JOIN fleet_cluster c ON c.name = %s""",
            (cluster,),
        )
        return Found(*cur.fetchone())


def next_step(found: Found, now: datetime) -> Step | None:
    """Return the first step that is not done; once all are, what has stopped since; None when all is well. Pure."""
    for number, (name, title, text, where) in enumerate(STEPS, 1):
        if not getattr(found, name):
            return Step(title, text, where, number, len(STEPS))
    assert found.ticked_at is not None
    if now - found.ticked_at > LOOP_LATE:
        text = "No job is started or ended: check the Celery worker and beat."
        return Step("The control loop has stopped", text, FLEET)
    if found.error:
        return Step(
            "Slurm does not answer", f"Nothing is started or ended until it does. {found.error}", FLEET
        )
    return None


def hint(user: User, now: datetime) -> Step | None:
    """Return the next step as this person is to read it; None when there is nothing to say."""
    step = next_step(look(config().cluster), now)
    if step is None or user.is_superuser:
        return step
    if user.operates and step.where == FLEET:
        return step
    if step.number:
        return Step(
            "Berth is not set up yet",
            "No model can be used yet. Administrators see on this page what is missing.",
        )
    return Step(
        "Models cannot be started now",
        "Models that are loaded still answer. Ask an administrator if this persists.",
    )
