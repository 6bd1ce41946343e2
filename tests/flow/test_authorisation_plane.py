"""Every address that stands beside Django, as every kind of caller, against the declared answers of
`tests.authorisation`: the data plane, the worker API, health."""

from __future__ import annotations

import json
import time
from typing import Any

import aiohttp
import pytest
from django.test import Client

from gpuworker import wire
from portal.accounts.issue import issue_token
from portal.accounts.models import Membership, Project, User
from portal.api.document import files, inference
from portal.catalog.models import Model
from tests.authorisation import CALLERS, PLANE, rows
from tests.flow.batch_world import create, jsonl, line
from tests.flow.dataplane import Plane, Seeded, chat
from tests.flow.pilot_client import Pilot

TABLE = {(method, f"/{address}"): gets for (method, address), gets in rows(PLANE).items()}
METHODS = {"get", "post", "put", "patch", "delete"}
BODIES: dict[str, Any] = {
    "/v1/chat/completions": chat(),
    "/v1/completions": {"model": "demo", "prompt": "hi"},
    "/v1/embeddings": {"model": "demo", "input": "hi"},
    "/v1/responses": {"model": "demo", "input": "hi"},
}


@pytest.fixture
def keys(seeded: Seeded) -> dict[str, str]:
    """Return what each caller shows; "" is nothing. The model is the seeded project's alone."""
    science, other = Project.objects.get(), Project.objects.create(slug="other", name="Other")
    model = Model.objects.get(name="demo")
    model.is_public = False
    model.save()
    model.projects.add(science)
    found = {"anonymous": "", "administrator": "", "user": seeded.token}
    for name, project, role in (
        ("outsider", other, "member"),
        ("manager", science, "manager"),
        ("operator", other, "member"),
    ):
        user = User.objects.create_user(name, password=None, is_operator=name == "operator")
        Membership.objects.create(user=user, project=project, role=role)
        scopes = ["inference", "read", *(["fleet"] if name == "operator" else [])]
        found[name] = issue_token(user, project, "test", scopes)[1].text
    root = Client()
    root.force_login(User.objects.create_superuser("root", password=None))
    found["session"] = root.cookies["sessionid"].value
    return found


def test_every_address_has_an_entry(plane: Plane) -> None:
    documented = {
        (method.upper(), path)
        for paths in (inference.PATHS, files.PATHS)
        for path, said in paths.items()
        for method in METHODS & set(said)
    }
    assert plane.app.gateway is not None
    assert {(one.method, one.path) for one in plane.app.gateway.operations} == documented
    verbs = {("POST", f"/worker/v1/{verb}") for verb in plane.app.worker_api._verbs}  # type: ignore[union-attr]
    health = {("GET", "/healthz"), ("GET", "/readyz")}
    assert set(TABLE) == documented | verbs | health


async def test_the_declared_answer(keys: dict[str, str], plane: Plane) -> None:
    plane.route()
    pilot = Pilot(plane, plane.new_pilot(job_id=77))
    keys["pilot"] = pilot.token
    wrong = {}
    for (method, path), expected in TABLE.items():
        named = await _named(plane, path)
        got = {}
        for caller in sorted(
            CALLERS, key=lambda one: one == "user"
        ):  # whose own it is comes last, and may end it
            got[caller] = await _ask(plane, method, path, named, pilot, caller, keys)
        if got != expected:
            wrong[method, path] = got
    assert wrong == {}


async def _named(plane: Plane, path: str) -> dict[str, str]:
    """Make fresh ones of the user's under the ids that a path or body names."""
    named = {"model": "demo"}
    if "{id}" in path:
        body = {"model": "demo", "input": "kept", "background": True}
        async with plane.post(body, path="/v1/responses") as answer:
            named["id"] = (await answer.json())["id"]
    if "{file}" in path or "batches" in path:
        batch = await create(plane, jsonl(line("a")))
        assert batch.input_file_id is not None
        named |= {"file": batch.input_file_id, "batch": batch.id}
    if path.startswith("/v1/files/{file}"):
        data = aiohttp.FormData({"purpose": "batch"})
        data.add_field("file", jsonl(line("a")), filename="in.jsonl")
        async with plane.client.post(f"{plane.url}/v1/files", data=data, headers=plane.headers()) as answer:
            named["file"] = (await answer.json())["id"]
    return named


async def _ask(
    plane: Plane,
    method: str,
    path: str,
    named: dict[str, str],
    pilot: Pilot,
    caller: str,
    keys: dict[str, str],
) -> str:
    headers = {"Authorization": f"Bearer {keys[caller]}"} if keys[caller] else {}
    if caller == "administrator":
        headers["Cookie"] = f"sessionid={keys['session']}"
    data: Any = None
    if path.startswith("/worker/"):
        data = _said(path.rpartition("/")[2], pilot)
    elif (method, path) == ("POST", "/v1/files"):
        data = aiohttp.FormData({"purpose": "batch"})
        data.add_field("file", jsonl(line("a")), filename="in.jsonl")
    elif (method, path) == ("POST", "/v1/batches"):
        wish = {
            "input_file_id": named["file"],
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        data = json.dumps(wish).encode()
    elif path in BODIES:
        data = json.dumps(BODIES[path]).encode()
    async with plane.client.request(
        method, plane.url + path.format(**named), data=data, headers=headers
    ) as answer:
        await answer.read()
        return str(answer.status)


def _said(verb: str, pilot: Pilot) -> bytes:
    """Return what the pilot itself would send, whoever sends it."""
    if verb == "register":
        pilot.plane.ingress.key = wire.derive_key(pilot.plane.settings.site_key, "ingress", pilot.id)
        said: Any = wire.Register(
            pilot=pilot.id, job_id=77, restart_count=0, node="gpu01", address=pilot.plane.ingress.url,
            started_at=time.time() - 2, agent_at=time.time(), agent_version="0.1.0", gpus=["0"], host_mem_mb=16000,
        )  # fmt: skip
    elif verb == "sync":
        said = pilot.sync_of()
    elif verb == "lease":
        said = wire.LeaseAsk(pilot=pilot.id, room={}, wait_s=0.0)
    else:
        said = wire.Results(pilot.id, [])
    return wire.dumps(said)
