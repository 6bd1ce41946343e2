"""The examples of the models' page work as pasted, with the token in a file of one's own."""

from __future__ import annotations

import asyncio
import html
import json
import os
import re
import sys
from pathlib import Path

from tests.flow.dataplane import Plane


async def _run(argv: list[str], home: Path, typed: str = "") -> tuple[int, str]:
    env = {"HOME": str(home), "PATH": os.environ["PATH"]}
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(*argv, env=env, stdin=pipe, stdout=pipe, stderr=pipe)
    out, wrong = await child.communicate(typed.encode())
    return child.returncode or 0, out.decode() or wrong.decode()


async def test_the_examples_work_as_pasted(with_pages: Plane, session: str, tmp_path: Path) -> None:
    plane = with_pages
    plane.route()
    async with plane.client.get(plane.url + "/?use=demo", cookies={"sessionid": session}) as answer:
        page = await answer.text()
    key, curl, sdk = (
        html.unescape(text)
        for text in re.findall(r'<code id="use-(?:key|curl|openai)">(.*?)</code>', page, re.S)
    )
    assert await _run(["bash", "-c", key], tmp_path, plane.seeded.token + "\n") == (0, "")
    kept = tmp_path / ".berth" / "key"
    assert kept.read_text().strip() == plane.seeded.token and kept.stat().st_mode & 0o777 == 0o600
    status, said = await _run(["bash", "-c", curl.replace("curl -K", "curl -s -K")], tmp_path)
    assert status == 0 and json.loads(said)["choices"][0]["message"]["content"] == "hello world"
    assert await _run([sys.executable, "-c", sdk], tmp_path) == (0, "hello world\n")
