"""A large site in the tables, and every page of it asked for: `python -m tests.bench._pages_world fill|ask|door …`.

Processes of their own, because the settings are read once and the bench starts several databases. Rows are made by
PostgreSQL itself; pages are asked through Django's test client, which runs the middleware and renders whole
answers, so that only the network is missing.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import django

django.setup()

from django.apps import apps  # noqa: E402
from django.contrib import admin  # noqa: E402
from django.db import connection  # noqa: E402
from django.db.models import Model as Row  # noqa: E402
from django.test import Client  # noqa: E402
from django.test.utils import CaptureQueriesContext  # noqa: E402
from django.urls import reverse  # noqa: E402

from portal.accounts.models import ApiToken, Project, User  # noqa: E402
from portal.fleet.models import Candidate, Pilot  # noqa: E402
from portal.ledger.models import Batch, Request  # noqa: E402
from tests.authorisation import SITE, rows  # noqa: E402
from tests.bench import _pages_rows  # noqa: E402

OURS = ("accounts", "catalog", "ledger", "fleet", "audit")
ROUNDS = 5
CALLERS = tuple(_pages_rows.PEOPLE)
# Not pages: files to take away.
FILES = ("/input", "/output", "/errors", "/csv")
# What a list is asked for beside its first page: addresses of the table, with a query.
QUERIES = (
    "requests/?state=failed",
    "requests/?whose=everybody",
    "requests/?whose=everybody&state=failed&model=model-0007",
    "requests/?whose=everybody&until=2d",
    "usage/?whose=everybody&span=30d&by=user",
    "fleet/decisions/?model=model-0007",
    "fleet/decisions/?kind=launch&since=2h",
    "now/?window=7d",
)


@dataclass(frozen=True, slots=True)
class Page:
    caller: str
    path: str


def pages() -> Iterator[Page]:
    """Yield every address that answers GET with a page, as whoever may open it, and every list of the
    admin."""
    named = {
        address: gets
        for (method, address), gets in rows(SITE).items()
        if method == "GET" and not address.startswith(("api/", "login/")) and not address.endswith(FILES)
    }
    for address, gets in named.items():
        caller = next((caller for caller in CALLERS if gets[caller] == "200"), None)
        if caller is not None:
            yield Page(caller, path(address))
    for query in QUERIES:
        yield Page("operator", f"/{query}")
    for row in tables():
        name = f"admin:{row._meta.app_label}_{row._meta.model_name}"
        for query in ("", *_admin_queries(row)):
            yield Page("administrator", reverse(f"{name}_changelist") + query)
        first = row._default_manager.order_by("pk").first()
        if first is not None:
            yield Page("administrator", reverse(f"{name}_change", args=[first.pk]))
    yield Page("administrator", "/admin/")


def _admin_queries(row: type[Row]) -> Iterator[str]:
    """Yield the queries that the list offers beside its first page."""
    shown = admin.site._registry[row]
    yield "?p=2"
    if shown.search_fields:
        yield "?q=model-0007"
    for number, column in enumerate(shown.list_display, 1):
        if shown.sortable_by is None or column in shown.sortable_by:
            yield f"?o={number}"
            break


def tables() -> list[type[Row]]:
    return [
        row
        for label in OURS
        for row in apps.get_app_config(label).get_models()
        if admin.site.is_registered(row)
    ]


def path(address: str) -> str:
    """Return the address with what it names filled in, of the user who has much."""
    user = User.objects.get(username=_pages_rows.PEOPLE["user"])
    if "<" not in address:
        return f"/{address}"
    of: dict[str, Any] = {
        "requests": lambda: (
            Request.objects.filter(user_id=user.pk, state="done").order_by("-accepted_at").first()
        ),
        "batches": lambda: Batch.objects.filter(user_id=user.pk).order_by("-created_at").first(),
        "tokens": lambda: ApiToken.objects.filter(user=user).first(),
        "fleet": lambda: Pilot.objects.filter(state="up").first(),
        "models": lambda: Candidate.objects.filter(project=_pages_rows.MANAGED).first(),
        "projects": lambda: Project.objects.get(pk=_pages_rows.MANAGED),
    }
    named = of[address.split("/")[0]]()
    filled = re.sub(r"<(?:uuid|int):\w+>", str(named.pk), address).replace(
        "<slug:slug>", f"project-{named.pk}"
    )
    return "/" + filled.replace("<path:name>", "model-0007")


def ask() -> list[dict[str, Any]]:
    """Ask for each page, and return its queries and the median of its milliseconds."""
    clients = {caller: _client(caller) for caller in CALLERS}
    found = []
    for page in pages():
        client = clients[page.caller]
        # That a session is in use is written down once a minute, by whichever page: twice in a row it is not.
        answer, queries = min((_counted(client, page) for _ in range(2)), key=lambda one: len(one[1]))
        took, ours = [], []
        for _ in range(ROUNDS):
            began, began_cpu = time.perf_counter(), time.process_time()
            _got(client, page)
            took.append(1000 * (time.perf_counter() - began))
            ours.append(1000 * (time.process_time() - began_cpu))
        slow = max(queries, key=lambda one: float(one["time"]), default={"sql": "", "time": "0"})
        found.append(
            {
                "page": _general(page.path),
                "caller": page.caller,
                "queries": len(queries),
                "ms": round(statistics.median(took), 1),
                "python_ms": round(statistics.median(ours), 1),
                "kb": round(len(answer.content) / 1024),
                "slowest": f"{slow['time']} s {slow['sql'][:300]}",
            }
        )
    return found


def _counted(client: Client, page: Page) -> tuple[Any, list[dict[str, str]]]:
    with CaptureQueriesContext(connection) as seen:
        answer = _got(client, page)
    return answer, list(seen.captured_queries)


def door() -> dict[str, str]:
    """Return the cookies with which a browser comes in as each kind of caller."""
    return {caller: _client(caller).cookies["sessionid"].value for caller in CALLERS}


def paths() -> list[tuple[str, str]]:
    """List caller and path of what a person looks at: whole pages, no fragments, nothing twice."""
    return [
        (page.caller, page.path) for page in pages() if "fragments" not in page.path and "?" not in page.path
    ]


def _client(caller: str) -> Client:
    client = Client(SERVER_NAME="127.0.0.1")
    client.force_login(User.objects.get(username=_pages_rows.PEOPLE[caller]))
    return client


def _got(client: Client, page: Page) -> Any:
    answer: Any = client.get(page.path)
    if answer.status_code not in (200, 286):
        raise SystemExit(f"{page.path} answered {answer.status_code}")
    return answer


def _general(path: str) -> str:
    """Return the same name on a small and on a large site."""
    return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|(?<=/)\d+(?=/)", "ID", path)


if __name__ == "__main__":
    verb, *words = sys.argv[1:]
    if verb == "fill":
        _pages_rows.fill(_pages_rows.SIZES[words[0]])
    print(json.dumps({"ask": ask, "door": door, "paths": paths}.get(verb, dict)()))
