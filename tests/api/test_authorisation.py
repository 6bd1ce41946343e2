"""Every address that Django serves, as every kind of caller, against the declared answers of `tests.authorisation`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import transaction
from django.urls import URLPattern, URLResolver, get_resolver

from gpuworker import wire
from portal.accounts.models import ApiToken, Membership, User
from portal.config import config
from portal.fleet.models import Command
from tests.api import world as make
from tests.api.batch_world import batch_row, file_row, form
from tests.api.world import BODY, CHAT, ApiClient, Person, World, pilot_row, request_row
from tests.authorisation import ADMIN_OPEN, CALLERS, SITE, rows

TABLE = rows(SITE)
PAGES_SEND: dict[str, Any] = {
    "login/": {"username": "nobody", "password": "wrong"},
    "tokens/": {"name": "mine", "project": "waves", "scopes": ["read"], "days": "90"},
    "fleet/commands/": {"kind": "pause"},
    "playground/token": {"project": "waves"},
    "models/register/": {"name": "new", "path": "/models/waves/new", "project": "waves", "profile": "gpu"},
    "models/register/<int:id>/": {
        "environment": "echo",
        "gpus": 1,
        "mem_mb": 4000,
        "cap": 4,
        "keep_alive_s": 60,
        "load_estimate_s": 5,
    },
    "batches/": form,
    "projects/<slug:slug>/": {"username": "outsider", "role": "member"},
    "projects/<slug:slug>/members/<int:id>": {"role": "manager"},
}
API_SENDS = {
    "api/v1/requests": {"model": "surf", "api": CHAT, "body": BODY},
    "api/v1/commands": {"kind": "pause"},
}


def addresses(of: Any = None, before: str = "") -> Iterator[tuple[str, URLPattern]]:
    for pattern in (of or get_resolver()).url_patterns:
        whole = before + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from addresses(pattern, whole)
        else:
            yield whole, pattern


PATTERNS = dict(addresses())
ADMIN = sorted(address for address in PATTERNS if address.startswith("admin/"))


class Scene:
    """One row of everything that an address can name, and the callers."""

    def __init__(self, world: World) -> None:
        world.model.is_public = False
        world.model.save()
        world.model.projects.add(world.project)
        self.world = world
        self.request = request_row(world, "queued")
        self.pilot = pilot_row(world)
        file = file_row(world)
        self.batch = batch_row(world, input_file=file, output_file=file, error_file=file)
        self.token = ApiToken.objects.get(user=world.owner.user)
        self.candidate = make.candidate_row(world)
        self.admin = User.objects.create_superuser("root", password=None)

    def client(self, caller: str, is_program: bool) -> ApiClient:
        if caller == "anonymous":
            return ApiClient()
        if caller == "pilot":
            return ApiClient(wire.derive_key(config().site_key, "portal", str(self.pilot.id)))
        if caller == "administrator":  # belongs to no project, so has no token
            browser = ApiClient()
            browser.force_login(self.admin)
            return browser
        person: Person = getattr(self.world, "owner" if caller == "user" else caller)
        return person.api if is_program else person.browser

    def path(self, address: str) -> str:
        """Return the address with what it names filled in."""
        id_: object = self.token.pk
        if "register" in address:
            id_ = self.candidate.pk
        if "uuid" in address:
            id_ = next(
                (
                    row.pk
                    for word, row in (("pilots", self.pilot), ("batches", self.batch))
                    if word in address
                ),
                self.request.pk,
            )
        if "members" in address:
            id_ = Membership.objects.get(user=self.world.owner.user).pk
        filled = re.sub(r"<(?:uuid|int):id>", str(id_), address)
        return "/" + filled.replace("<path:name>", "surf").replace("<slug:slug>", "waves")


@pytest.fixture
def scene(world: World, settings: Any) -> Scene:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # seven wrong passwords,
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}  # not counted
    return Scene(world)


def test_every_address_has_an_entry() -> None:
    site = {address for address in PATTERNS if not address.startswith("admin/")}
    assert site == {address for _, address in TABLE}


def test_every_method_of_the_api_has_an_entry() -> None:
    for address, pattern in PATTERNS.items():
        view = getattr(pattern.callback, "view_class", None)
        if address.startswith("api/v1/") and address != "api/v1/" and view is not None:
            methods = {name.upper() for name in view.http_method_names if hasattr(view, name)} - {"OPTIONS"}
            assert methods - {"HEAD"} == {method for method, named in TABLE if named == address}, address


@pytest.mark.parametrize(("method", "address"), TABLE)
def test_the_declared_answer(scene: Scene, method: str, address: str) -> None:
    sent: Any = PAGES_SEND.get(address)
    path, is_program = scene.path(address), address.startswith("api/")
    got = {}
    for caller in CALLERS:
        with transaction.atomic():  # each caller finds the same scene
            client = scene.client(caller, is_program)
            if is_program:
                answer = client.send(method, path.removeprefix("/api/v1/"), API_SENDS.get(address))
            else:
                answer = (
                    client.generic(method, path)
                    if method == "GET"
                    else client.post(path, sent() if callable(sent) else sent)
                )
            got[caller] = said(answer, path)
            refused = answer.status_code in (401, 403, 404) or got[caller] == "login"
            assert not (refused and Command.objects.exists()), caller
            transaction.set_rollback(True)
    assert got == TABLE[method, address]


def said(answer: Any, path: str) -> str:
    to = answer.headers.get("Location", "")
    return "login" if to.startswith("/login/?next=") else str(answer.status_code)


def test_the_admin_is_for_administrators(scene: Scene) -> None:
    clients = {caller: scene.client(caller, is_program=False) for caller in CALLERS}
    for address in ADMIN:
        for caller, client in clients.items():
            if (address, caller) in ADMIN_OPEN:
                continue
            for method in ("GET", "POST"):
                with transaction.atomic():
                    answer = client.generic(method, admin_path(address))
                    transaction.set_rollback(True)
                away = answer.headers.get("Location", "").startswith(("/login/?next=", "/admin/login/?next="))
                where = (method, address, caller, answer.status_code)
                assert away == (caller != "administrator") and answer.status_code < 500, where


def admin_path(address: str) -> str:
    """Return an admin page's path. Number 1 stands for all rows: whether it exists must not matter to who
    may look."""
    named = re.sub(r"<path:object_id>|<int:\w+>", "1", address).replace("(?P<url>.*)$", "no")
    return "/" + re.sub(r"\^\(\?P<app_label>[a-z_|]+\)/\$", "fleet/", named)
