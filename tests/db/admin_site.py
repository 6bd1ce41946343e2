"""One row at least in every table, an administrator's browser, and how to use the admin's pages and forms."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import Model as Row
from django.forms import JSONField
from django.urls import reverse
from django.utils import timezone

from portal.accounts.models import ClaimRule, Quota, User
from portal.catalog.models import Access
from portal.fleet.models import (
    BadNode,
    Candidate,
    Command,
    Decision,
    Fit,
    FleetEvent,
    GpuClaim,
    PilotLog,
    PoolState,
    ProfileState,
    Sample,
)
from portal.ledger.models import (
    Batch,
    BatchEnd,
    File,
    Holder,
    IdempotencyKey,
    RequestEvent,
    Ticket,
    Usage,
    UsageTotal,
)
from portal.notices.models import Delivery, OptOut, Webhook, Wish
from tests.api import world as make
from tests.api.world import ApiClient, Person, World
from tests.ways import way_row


@pytest.fixture
def world(db: None) -> World:
    """Make one row at least in every table."""
    made = make.build()
    now = timezone.now()
    Quota.objects.create(level="project", project=made.project, requests_per_min=600)
    ClaimRule.objects.create(value="surfers", project=made.project)
    hook = Webhook.objects.create(user=made.owner.user, url="https://hooks.example/")
    Wish.objects.create(user=made.owner.user, model="surf")
    OptOut.objects.create(user=made.owner.user, kind="queue_old")
    Delivery.objects.create(key="k", kind="queue_old", webhook=hook, subject="s", next_at=now, created_at=now)
    pilot = make.pilot_row(made)
    replica = make.replica_row(made, pilot)
    GpuClaim.objects.create(pilot=pilot, gpu=0, replica=replica)
    PoolState.objects.create(pool=made.pool, reason="waits")
    Fit.objects.create(pool=made.pool, gpu_type="a100", load_s=40)
    ProfileState.objects.create(profile=pilot.profile, wait_p50_s=60)
    BadNode.objects.create(cluster="main", node="gpu01", failures=1, reason="no GPU")
    PilotLog.objects.create(pilot=pilot, text="loading weights", at=now)
    Access.objects.create(name="login", submit_prefix=["ssh", "login01"])
    way_row(name="login", tried_at=now, answered_at=now)
    Sample.objects.create(
        cluster="main", at=now, busy=1, ready=0, loading=0, empty=0, asked=0, running=1, queued_held=0,
        queued_async=0, queued_batch=0, parked=0,
    )  # fmt: skip
    Decision.objects.create(
        at=now, kind="launch", pool="surf", pilot=pilot.id, reason="3 wait", inputs={"n": 3}
    )
    FleetEvent.objects.create(at=now, pilot=pilot.id, replica=replica.id, old="starting", new="hot")
    Command.objects.create(kind="drain", pilot=pilot, state="done", done_at=now)
    Candidate.objects.create(name="tide", path="/models/tide", project=made.project, profile=made.profile)
    row = make.request_row(made, "done", replica=replica.id)
    make.request_row(made, "running")
    Usage.objects.create(
        at=now.replace(minute=0, second=0, microsecond=0), step="hour", user_id=1, project_id=1, model="surf", requests=1,
        failed=0, prompt_tokens=1, completion_tokens=1, gpu_s=1,
    )  # fmt: skip
    UsageTotal.objects.create(
        at=now, step="day", kind="model", name="surf", requests=1, failed=0, prompt_tokens=1, completion_tokens=1,
        gpu_s=1,
    )  # fmt: skip
    Ticket.objects.create(request=row, token_id=1, digest="0" * 64, expires_at=now)
    IdempotencyKey.objects.create(token_id=1, key="k", digest="0" * 64, request=row.id, expires_at=now)
    RequestEvent.objects.create(
        request_id=row.id, at=now, kind="requeue", attempt=1, detail="its pilot ended"
    )
    Holder.objects.create(id="gw-1", kind="gateway", seen_at=now)
    file = File.objects.create(
        project_id=1,
        user_id=1,
        purpose="batch",
        name="in.jsonl",
        bytes=3,
        created_at=now,
        expires_at=now,
    )
    batch = Batch.objects.create(
        project_id=1, user_id=1, state="validating", endpoint="/v1/completions", input_file=file,
        created_at=now, expires_at=now,
    )  # fmt: skip
    BatchEnd.objects.create(batch_id=batch.id, request_id=row.id, result=b"secret")
    return made


@pytest.fixture
def root(world: World) -> ApiClient:
    user = User.objects.create_superuser("root", password=None)
    return Person(user, "").browser


def admin_url(model: type[Row], page: str, *args: Any) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=args)


def act(client: ApiClient, model: type[Row], action: str, pk: Any) -> Any:
    return client.post(admin_url(model, "changelist"), {"action": action, ACTION_CHECKBOX_NAME: [pk]})


def save(client: ApiClient, row: Row, **change: Any) -> Any:
    """Post the row's own form, with changes."""
    path = admin_url(type(row), "change", row.pk)
    form = client.get(path).context["adminform"].form
    data: dict[str, Any] = {}
    for name, field in form.fields.items():
        value = form.get_initial_for_field(field, name)
        if isinstance(field, JSONField):
            data[name] = json.dumps(value)
        elif isinstance(value, bool):
            data |= {name: "on"} if value else {}
        elif isinstance(value, list):
            data[name] = [item.pk for item in value]
        elif value is not None:
            data[name] = value
    return client.post(path, data | change)


def management(prefix: str) -> dict[str, int]:
    return {f"{prefix}-TOTAL_FORMS": 0, f"{prefix}-INITIAL_FORMS": 0}
