"""docs/api.md against the running portal: its examples run as they stand, and its table of errors is the code's."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

from portal.errors import KINDS
from tests.flow import batch_world
from tests.flow.dataplane import Plane
from tests.flow.running_portal import ROOT, Portal

PAGE = (ROOT / "docs" / "api.md").read_text()
WITHIN_S = 60.0


def _blocks(language: str) -> str:
    """Return all blocks of a language, one after another: as a reader types them into one shell."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(found) >= 3
    return "\n".join(found)


async def _run(portal: Portal, folder: Path, *argv: str) -> str:
    env = {"PATH": os.environ["PATH"], "BERTH": portal.url, "TOKEN": portal.token, "MODEL": "demo"}
    child = await asyncio.create_subprocess_exec(
        *argv, cwd=folder, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(WITHIN_S):
            out, err = await child.communicate()
    finally:
        if child.returncode is None:
            child.kill()
    assert child.returncode == 0, err.decode()[-2000:]
    return out.decode()


async def test_what_is_typed_into_a_shell_works(portal: Portal, tmp_path: Path) -> None:
    said = await _run(portal, tmp_path, "bash", "-euo", "pipefail", "-c", _blocks("sh"))
    assert "data: [DONE]" in said and '"state":"done"' in said
    assert said.count("idempotent-replayed: true") == 1
    assert '"kind":"wake"' in said and '"residency":"ready"' in said


async def test_what_is_typed_into_python_works(portal: Portal, plane: Plane, tmp_path: Path) -> None:
    running = asyncio.create_task(_run(portal, tmp_path, sys.executable, "-c", _blocks("python")))
    while not running.done():  # what the Celery tasks do, of which there are none here
        await batch_world.look(plane)
        await asyncio.wait({running}, timeout=0.5)
    said = running.result()
    assert said.count("What is Slurm?") >= 3 and "completed Hello" in said
    assert all(f'"custom_id": "q{i}"' in said for i in range(3))


def test_every_error_stands_in_its_table() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\w+) \|", PAGE, re.MULTILINE)
    assert rows == [(kind.code, str(kind.status), kind.side) for kind in KINDS.values()]
