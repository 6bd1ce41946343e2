"""A small site for the tests: people around one project, a model, and rows in any state."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.test import Client
from django.utils import timezone

from portal.accounts.issue import issue_token
from portal.accounts.models import Membership, Project, User
from portal.catalog.models import Environment, Model, Pool, Profile
from portal.fleet.models import Candidate, Cluster, Pilot, Replica
from portal.ledger.models import Payload, Request

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "What is a wave?"}]}
PASSWORD = "correct horse battery"
# Must never be seen by anyone but the owner, and in the admin by nobody.
CANARY_BODY, CANARY_RESULT = "canary-in-the-prompt", "canary-in-the-answer"


class ApiClient(Client):
    """A client that speaks JSON. With a token it is a program, after `login` a browser."""

    def __init__(self, token: str = "") -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        super().__init__(headers=headers)

    def send(self, method: str, path: str, body: Any = None) -> Any:
        text = "" if body is None else json.dumps(body)
        return self.generic(method, f"/api/v1/{path}", text, content_type="application/json")


@dataclass(frozen=True, slots=True)
class Person:
    user: User
    token: str

    @property
    def api(self) -> ApiClient:
        return ApiClient(self.token)

    @property
    def browser(self) -> ApiClient:
        client = ApiClient()
        client.force_login(self.user)
        return client


@dataclass(frozen=True, slots=True)
class World:
    project: Project
    other: Project
    owner: Person
    mate: Person
    manager: Person
    outsider: Person
    operator: Person
    model: Model
    pool: Pool
    profile: Profile

    def everyone(self) -> dict[str, ApiClient]:
        people = {
            name: getattr(self, name).api for name in ("owner", "mate", "manager", "outsider", "operator")
        }
        return people | {"anonymous": ApiClient()}


def build() -> World:
    project = Project.objects.create(slug="waves", name="Waves")
    other = Project.objects.create(slug="storms", name="Storms")
    environment = Environment.objects.create(name="echo", engine="echo")
    profile = Profile.objects.create(name="gpu", partition="gpu", gpu_type="a100")
    pool = Pool.objects.create(name="surf", environment=environment)
    pool.profiles.add(profile)
    model = Model.objects.create(name="surf", pool=pool)
    return World(
        project=project,
        other=other,
        owner=person("owner", project),
        mate=person("mate", project),
        manager=person("manager", project, role=Membership.Role.MANAGER),
        outsider=person("outsider", other),
        operator=person("operator", other, is_operator=True),
        model=model,
        pool=pool,
        profile=profile,
    )


def another_model(world: World, name: str, **fields: Any) -> Model:
    """Make a model in a pool of its own, which has the environment and the profiles of the first one's."""
    pool = Pool.objects.create(name=name, environment=world.pool.environment)
    pool.profiles.set(world.pool.profiles.all())
    return Model.objects.create(name=name, pool=pool, **fields)


def person(
    name: str, project: Project, role: str = Membership.Role.MEMBER, is_operator: bool = False
) -> Person:
    user = User.objects.create_user(name, password=None, is_operator=is_operator)
    Membership.objects.create(user=user, project=project, role=role)
    scopes = ["inference", "read", *(["fleet"] if is_operator else [])]
    return Person(user, issue_token(user, project, "test", scopes)[1].text)


def request_row(world: World, state: str = "queued", **fields: Any) -> Request:
    """Make a request of the owner's, with body and, once ended, a result."""
    now = timezone.now()
    facts: dict[str, Any] = {
        "pool": world.pool.name,
        "model": world.model.name,
        "project_id": world.project.pk,
        "user_id": world.owner.user.pk,
        "api": CHAT,
        "lane": "async",
        "order_key": now.timestamp(),
        "accepted_at": now,
        "state": state,
    }
    if state in ("running", "done"):
        facts |= {"attempt": 1, "holder": str(uuid.uuid4()), "replica": uuid.uuid4(), "granted_at": now}
    if state in ("done", "failed", "cancelled", "expired"):
        facts |= {"ended_at": now, "error_code": "engine_error" if state == "failed" else None}
    row = Request.objects.create(**(facts | fields))
    result = f'{{"choices": [{{"text": "{CANARY_RESULT}"}}]}}'.encode() if state == "done" else None
    Payload.objects.create(request=row, body=CANARY_BODY.encode(), result=result)
    return row


def pilot_row(world: World, now: datetime | None = None, **fields: Any) -> Pilot:
    now = now or timezone.now()
    Cluster.objects.get_or_create(name="main")
    facts: dict[str, Any] = {
        "cluster": "main",
        "profile": world.profile,
        "state": "up",
        "job_name": f"berth-test-{uuid.uuid4()}",
        "job_id": 4711,
        "gpus": 1,
        "mem_mb": 8000,
        "walltime_min": 60,
        "planned_at": now - timedelta(seconds=50),
        "submitted_at": now - timedelta(seconds=49),
        "up_at": now - timedelta(seconds=38),
        "slurm_state": "RUNNING",
        "slurm_end_at": now + timedelta(hours=1),
        "registered_at": now - timedelta(seconds=39),
        "job_started_at": now - timedelta(seconds=40),
        "node": "gpu03",
        "address": "http://10.1.2.3:40123",
    }
    return Pilot.objects.create(**(facts | fields))


def replica_row(world: World, pilot: Pilot, now: datetime | None = None, **fields: Any) -> Replica:
    now = now or timezone.now()
    facts: dict[str, Any] = {
        "pilot": pilot,
        "pool": world.pool,
        "model": world.model.name,
        "engine": "echo",
        "state": "hot",
        "gpu_indices": [0],
        "mem_mb": 500,
        "cap": 4,
        "wanted_at": now - timedelta(seconds=50),
        "started_at": now - timedelta(seconds=38),
        "hot_at": now - timedelta(seconds=8),
    }
    return Replica.objects.create(**(facts | fields))


FOUND = {
    "folder": "/models/waves/tide",
    "architecture": "LlamaForCausalLM",
    "dtype": "bfloat16",
    "quantisation": "",
    "context_tokens": 8192,
    "layers": 16,
    "heads": 32,
    "kv_heads": 8,
    "head_dim": 64,
    "parameters": 1_000_000_000,
    "weights_bytes": 2_000_000_000,
    "files": 5,
    "other_weights": [],
    "needs_code": False,
    "has_chat_template": True,
    "is_embedding": False,
    "revision": "",
    "gpu_mem_mb": 40_000,
}


def candidate_row(world: World, **fields: Any) -> Candidate:
    """Make a candidate that was looked at and waits to be saved, for the project of the manager."""
    Project.objects.filter(pk=world.project.pk).update(model_roots=["/models/waves"])
    facts: dict[str, Any] = {
        "name": "tide",
        "path": "/models/waves/tide",
        "project": world.project,
        "profile": world.profile,
        "created_by": world.manager.user,
        "found": FOUND,
        "found_at": timezone.now(),
    }
    return Candidate.objects.create(**(facts | fields))
