"""The echo engine, started after a prologue and inside an image: what it serves, and that nothing of it is left.

No Debian package brings Apptainer, so a stand-in is put where the command is looked for. It takes the real one's
command line, runs the command as its child as that one does, and knows of the node only what was bound.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gpuworker.engines.echo import EchoEngine
from gpuworker.engines.protocol import EngineFailed, EngineSpec, Wrapping

APPTAINER = """#!{python} -IS
import os, signal, subprocess, sys
words = sys.argv[1:]
assert words.pop(0) == "exec", words
binds, flags, image = [], [], ""
while words and words[0].startswith("--"):
    option = words.pop(0)
    if option == "--bind":
        binds.append(words.pop(0).split(":")[0])
    elif option == "--pwd":
        os.chdir(words.pop(0))
    elif option in ("--nv", "--rocm"):
        flags.append(option)
    else:
        sys.exit(f"FATAL: unknown flag: {{option}}")
image = words.pop(0)
if not os.path.exists(image):
    sys.exit(f"FATAL: could not open image {{image}}: no such file or directory")
inside = {{n.removeprefix("APPTAINERENV_"): v for n, v in os.environ.items() if n.startswith("APPTAINERENV_")}}
passed = {{n: v for n, v in os.environ.items() if not n.startswith(("APPTAINERENV_", "SINGULARITYENV_"))}}
for path in [words[words.index("--uds") + 1], inside["PYTHONPATH"]]:
    if not any(path == bind or path.startswith(bind + "/") for bind in binds):
        sys.exit(f"FATAL: {{path}}: no such file or directory inside the image")
with open({seen!r}, "w") as seen:
    print(os.getpid(), *flags, *(f"{{n}}={{v}}" for n, v in sorted({{**passed, **inside}}.items())), sep="\\n", file=seen)
child = subprocess.Popen(words, env={{**passed, **inside, "PATH": "/usr/bin:/bin"}})
signal.signal(signal.SIGTERM, lambda number, _: child.send_signal(number))
sys.exit(child.wait())
"""


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file where the stand-in writes what it was given."""
    tools, seen = tmp_path / "tools", tmp_path / "seen"
    tools.mkdir()
    tool = tools / "apptainer"
    tool.write_text(APPTAINER.format(python=sys.executable, seen=str(seen)))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    return seen


def engine(folder: Path, wrapping: Wrapping, gpus: list[str] | None = None, **args: Any) -> EchoEngine:
    home = folder / "replica"
    home.mkdir(exist_ok=True)
    return EchoEngine(
        EngineSpec(
            "m", "", sys.executable, gpus or [], 1, 1, args, home / "s", home / "e.log", wrapping=wrapping
        )
    )


async def answer(made: EchoEngine) -> int:
    connector = aiohttp.UnixConnector(str(made.socket_path))
    async with aiohttp.ClientSession(connector=connector, base_url="http://engine") as session:
        body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
        async with session.post("/v1/chat/completions", json=body) as said:
            return said.status


def is_over(pid: str) -> bool:
    """Tell whether a process is gone, or a zombie that whoever inherited it has not reaped yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def test_an_engine_after_a_prologue_serves_and_ends(tmp_path: Path) -> None:
    made = engine(tmp_path, Wrapping("export FROM_PROLOGUE=1\necho loading modules"))
    await made.start()
    try:
        await made.ready()
        assert await answer(made) == 200
        assert "loading modules" in made.log_tail(4000)
    finally:
        await made.stop(5)
    assert (await made.ended()).code in (0, 128 + 15)


async def test_a_prologue_that_fails_stands_in_the_replicas_error(tmp_path: Path) -> None:
    made = engine(tmp_path, Wrapping("module load cuda/99\nexport A=1"))
    await made.start()
    with pytest.raises(
        EngineFailed, match="prologue of the engine's environment failed with exit code 127"
    ) as caught:
        await made.ready()
    assert "module: command not found" in str(caught.value)  # the shell's own words, too
    await made.stop(0)


async def test_an_engine_in_an_image_serves_with_its_gpus_and_ends_as_a_whole(
    tmp_path: Path, seen: Path
) -> None:
    image = tmp_path / "echo.sif"
    image.touch()
    wrapping = Wrapping("export NCCL_SOCKET_IFNAME=ib0 LD_LIBRARY_PATH=/host/cuda", str(image), "nv")
    made = engine(tmp_path, wrapping, gpus=["1", "3"])
    await made.start()
    try:
        await made.ready()
        assert await answer(made) == 200
        pid, *lines = seen.read_text().splitlines()
        assert "--nv" in lines
        assert {"CUDA_VISIBLE_DEVICES=1,3", "NCCL_SOCKET_IFNAME=ib0", "PYTHONUNBUFFERED=1"} <= set(lines)
        assert not [line for line in lines if line.startswith("LD_LIBRARY_PATH=")]
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        assert children
    finally:
        await made.stop(0)
    for one in (pid, *children):
        assert is_over(one)


async def test_an_image_that_is_not_there_fails_with_apptainers_words(tmp_path: Path, seen: Path) -> None:
    made = engine(tmp_path, Wrapping(image=str(tmp_path / "none.sif")))
    await made.start()
    with pytest.raises(EngineFailed, match="could not open image"):
        await asyncio.wait_for(made.ready(), 60)
    await made.stop(0)


async def test_a_gentle_end_reaches_the_engine_inside(tmp_path: Path, seen: Path) -> None:
    image = tmp_path / "echo.sif"
    image.touch()
    made = engine(tmp_path, Wrapping(image=str(image)))
    await made.start()
    try:
        await made.ready()
    finally:
        await asyncio.wait_for(made.stop(60), 50)  # long before it would be killed
