"""The Help page: what it tells a person to paste works as pasted, against the portal that showed it."""

from __future__ import annotations

import asyncio
import html
import os
import re
import sys
from pathlib import Path

import pytest
from django.test import Client

from portal.accounts.models import User
from portal.catalog.models import Model
from tests.flow.dataplane import Plane, Seeded
from tests.flow.running_portal import Portal

WITHIN_S = 60.0


@pytest.fixture
def session(seeded: Seeded) -> str:
    """Return the cookie of a browser that is logged in. It is made with Django, before the event loop
    runs."""
    client = Client()
    client.force_login(User.objects.get(pk=seeded.user))
    return client.cookies["sessionid"].value


def _paste(page: str, id_: str) -> str:
    """Return an example as a browser copies it."""
    (found,) = re.findall(rf'<code id="{id_}">(.*?)</code>', page, re.DOTALL)
    return html.unescape(found)


async def _run(home: Path, argv: tuple[str, ...], typed: str = "") -> str:
    env = {"PATH": os.environ["PATH"], "HOME": str(home)}
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(*argv, env=env, stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        async with asyncio.timeout(WITHIN_S):
            out, err = await child.communicate(typed.encode())
    finally:
        if child.returncode is None:
            child.kill()
    assert child.returncode == 0, err.decode()[-2000:]
    return out.decode()


async def test_the_examples_work_as_pasted(
    session: str, portal: Portal, plane: Plane, tmp_path: Path
) -> None:
    cookies = {"Cookie": f"sessionid={session}"}
    async with plane.client.get(f"{portal.url}/help/", headers=cookies) as answer:
        assert answer.status == 200
        page = await answer.text()
    key = tmp_path / ".berth" / "key"
    key.parent.mkdir(mode=0o755)
    key.touch(mode=0o644)  # one from before, readable by all
    await _run(tmp_path, ("bash", "-euc", _paste(page, "example-key")), portal.token + "\n")
    assert key.stat().st_mode & 0o777 == 0o600
    by_curl = await _run(tmp_path, ("bash", "-euo", "pipefail", "-c", _paste(page, "example-curl")))
    assert '"choices"' in by_curl and "What is Slurm?" in by_curl
    by_python = await _run(tmp_path, (sys.executable, "-c", _paste(page, "example-python")))
    assert "What is Slurm?" in by_python
    assert portal.token not in page


@pytest.mark.django_db
def test_the_reader_sees_a_model_that_is_open_and_else_what_to_do() -> None:
    client = Client(HTTP_HOST="localhost:8443")
    client.force_login(User.objects.create_user("new"))
    page = client.get("/help/").content.decode()
    assert "You belong to no project yet" in page and "http://localhost:8443/v1/chat/completions" in page
    assert not Model.objects.exists() and '"model": "MODEL"' in page
    assert Client().get("/help/")["Location"] == "/login/?next=/help/"
