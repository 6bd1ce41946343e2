"""What a batch costs: 2,000 lines through Berth on a real vLLM beside vLLM's own `run_batch`; 200,000 lines imported.

Both get the same file and the same engine, with the arguments and the environment that the pilot gave its own.
Neither's load counts: ours from the batch's creation, with the model hot, until it is `completed` and its output
can be fetched; theirs from reading the file until the output is written.

run_batch_ratio  lines a second, ours over theirs
import_s         one `import_batch` of 200,000 lines, in a process of its own, after an upload over HTTP
import_rss_mb    that process's highest resident memory
"""

from __future__ import annotations

import http.client
import json
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from devstack import ask, berth, demomodel, envs, proctable
from devstack.bench import Bench
from devstack.berth import Berth
from devstack.checkout import ROOT
from devstack.procs import Child, Command
from devstack.rundir import RunDir
from devstack.say import StepFailed
from devstack.site import Site

from tests.bench.gateway import processes

TITLE = "2,000 lines through a batch against vLLM's run_batch; 200,000 lines imported"
LINES, IMPORTED = 2_000, 200_000
TOKENS = 32
ROUNDS = 2
LIMIT_S = 200
# Of the pool. The engine has two more, which are kept for held work; the demo's 16 would make that a ninth of it.
SEATS = 32
LOOK_S = 0.2
CHAT = "/v1/chat/completions"
# What run_batch, which serves nobody, does not know: name → values that follow it.
_SERVING = {"--uds": 1, "--shutdown-timeout": 1, "--disable-uvicorn-access-log": 0}
_SERVER, _RUN_BATCH = "vllm.entrypoints.openai.api_server", "vllm.entrypoints.openai.run_batch"
_READING = b"Reading batch from"
_IMPORT = """
import json, os, sys, time, uuid
os.environ["DJANGO_SETTINGS_MODULE"] = "portal.settings"
import django
django.setup()
from portal.config import config
from portal.batches.ingestion import import_batch
began = time.monotonic()
if not import_batch(uuid.UUID(sys.argv[1]), config(), time.time()):
    sys.exit("the batch was not imported")
took_s = time.monotonic() - began
lines = open("/proc/self/status").read().splitlines()
peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
print(json.dumps({"s": took_s, "mb": peak / 1024}))
"""


def run(ctx: Bench) -> dict[str, float]:
    with ctx.berth() as started:
        seat(started.site, SEATS)
        file = write_lines(ctx.folder / "lines.jsonl", LINES, started.model)
        with ctx.progress.step("Bring the model up"):
            ask.ask(started.site.url, started.token, started.model, "What is Slurm?", lambda _text: None)
        argv, env = engine(started)
        with ctx.progress.step(f"{LINES:,} lines through Berth, {ROUNDS} rounds"):
            ours = [through_berth(started, file) for _ in range(ROUNDS)]
        content = file.read_bytes()
    with processes(ctx) as home:
        file.write_bytes(content)
        with ctx.progress.step(f"{LINES:,} lines through run_batch, {ROUNDS} rounds"):
            theirs = [through_run_batch(home, argv, env, file) for _ in range(ROUNDS)]
    import_s, import_rss_mb = imported(ctx)
    ctx.table(
        ["", "lines/s", "of each round"],
        [
            (name, LINES / statistics.median(took), " ".join(f"{LINES / one:.1f}" for one in took))
            for name, took in (("Berth", ours), ("run_batch", theirs))
        ],
    )
    ctx.say(f"  {IMPORTED:,} lines imported in {import_s:.1f} s with at most {import_rss_mb:.0f} MB")
    return {
        "run_batch_ratio": round(statistics.median(theirs) / statistics.median(ours), 3),
        "import_s": round(import_s, 1),
        "import_rss_mb": round(import_rss_mb),
    }


def seat(site: Site, seats: int) -> None:
    """Give every pool so many seats."""
    code = f"from portal.catalog.models import Pool; Pool.objects.update(cap={seats})"
    site.manage(["shell", "-v", "0", "-c", code])


def write_lines(path: Path, count: int, model: str) -> Path:
    """Write short prompts, no two alike, each answered with as many tokens."""
    with path.open("w") as out:
        for number in range(count):
            question = f"What is {number % 97} plus {number % 89}? This is question {number}."
            body = {
                "model": model,
                "messages": [{"role": "user", "content": question}],
                "max_tokens": TOKENS,
                "ignore_eos": True,
            }
            line = {"custom_id": f"line-{number}", "method": "POST", "url": CHAT, "body": body}
            out.write(json.dumps(line) + "\n")
    return path


def check(lines: Iterator[bytes] | list[bytes]) -> None:
    """Check that every custom_id is there once, each with an answer of its length. Raise StepFailed."""
    seen: set[str] = set()
    for line in lines:
        said = json.loads(line)
        answer = said["response"]
        if answer is None or answer["status_code"] != 200:
            raise StepFailed(f"a line of the output is an error: {line[:300]!r}")
        if answer["body"]["usage"]["completion_tokens"] != TOKENS or said["custom_id"] in seen:
            raise StepFailed(f"a line is short, or there twice: {line[:300]!r}")
        seen.add(said["custom_id"])
    if len(seen) != LINES:
        raise StepFailed(f"{len(seen):,} lines of {LINES:,} are in the output")


# Ours


def through_berth(started: Berth, file: Path) -> float:
    """Return the seconds from the batch's creation to the last byte of a checked output."""
    url, token = started.site.url, started.token
    uploaded = upload(url, token, file)
    began = time.monotonic()
    batch = create(url, token, uploaded)
    while batch["status"] in ("validating", "in_progress", "finalizing"):
        if time.monotonic() - began > LIMIT_S:
            raise StepFailed(f"the batch is not over: {batch['status']}, {batch['request_counts']}")
        time.sleep(LOOK_S)
        batch = ask.get_json(url, token, f"/v1/batches/{batch['id']}")
    took_s = time.monotonic() - began
    if batch["status"] != "completed" or batch["error_file_id"]:
        raise StepFailed(f"the batch ended as {batch['status']}: {batch['request_counts']}")
    answer = call(url, token, "GET", f"/v1/files/{batch['output_file_id']}/content")
    check(answer.splitlines())
    return took_s


def upload(url: str, token: str, file: Path) -> str:
    """Upload a file as a form, in pieces; return its id."""
    boundary = "a-line-that-no-file-of-ours-holds"
    part = f"--{boundary}\r\nContent-Disposition: form-data; name="
    head = f'{part}"purpose"\r\n\r\nbatch\r\n{part}"file"; filename="{file.name}"\r\n\r\n'.encode()
    tail = f"\r\n--{boundary}--\r\n".encode()

    def pieces(source: IO[bytes]) -> Iterator[bytes]:
        yield head
        while piece := source.read(1 << 16):
            yield piece
        yield tail

    headers = {
        "Content-Type": f"multipart/form-data; boundary={boundary}",
        "Content-Length": str(len(head) + file.stat().st_size + len(tail)),
    }
    with file.open("rb") as source:
        return str(json.loads(call(url, token, "POST", "/v1/files", pieces(source), headers))["id"])


def create(url: str, token: str, file: str) -> dict[str, Any]:
    asked = json.dumps({"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"})
    headers = {"Content-Type": "application/json"}
    batch: dict[str, Any] = json.loads(call(url, token, "POST", "/v1/batches", asked, headers))
    return batch


def call(
    url: str, token: str, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> bytes:
    link = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        link.request(method, path, body, {"Authorization": f"Bearer {token}", **(headers or {})})
        answer = link.getresponse()
        said = answer.read()
    finally:
        link.close()
    if answer.status != 200:
        raise StepFailed(f"{method} {path}: {answer.status}: {said[:300].decode(errors='replace')}")
    return said


# Theirs


def engine(started: Berth) -> tuple[list[str], dict[str, str]]:
    """Return the command and environment of the vLLM in our job, as the pilot started it."""
    assert started.stack.slurm is not None
    jobs = proctable.of_jobs(started.stack.slurm.env()["SLURM_CONF"])
    for pid in jobs | proctable.descendants(jobs):
        try:
            argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]
            pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")[:-1]
        except OSError:
            continue
        if "--uds" in argv and _SERVER in argv:
            return argv, dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    raise StepFailed("no vLLM with a socket among the processes of our jobs")


def run_batch_command(argv: list[str], file: Path, out: Path) -> list[str]:
    """Return the command with the same interpreter and engine arguments, without those of a server."""
    at = argv.index(_SERVER)  # behind `python -m`; before that may stand what watches over the engine
    kept = [argv[at - 2], "-m", _RUN_BATCH, "-i", str(file), "-o", str(out)]
    rest = iter(argv[at + 1 :])
    for word in rest:
        if word in _SERVING:
            for _ in range(_SERVING[word]):
                next(rest)
        else:
            kept.append(word)
    return kept


def through_run_batch(home: RunDir, argv: list[str], env: dict[str, str], file: Path) -> float:
    """Return the seconds from reading the file, with the engine ready, to the written, checked output."""
    out = home.path / "out.jsonl"
    out.unlink(missing_ok=True)
    own = env | {"VLLM_RPC_BASE_PATH": str(home.short()), "HOME": str(home.path)}
    child = Child(Command("run_batch", run_batch_command(argv, file, out), own, cwd=home.path), home)
    try:
        child.log.write_bytes(b"")
        child.wait_ready(lambda: _READING in child.log.read_bytes(), LIMIT_S)
        began = time.monotonic()
        child.wait_ready(lambda: out.exists() and out.read_bytes().count(b"\n") == LINES, LIMIT_S)
        took_s = time.monotonic() - began
    finally:
        child.stop()
    check(out.read_bytes().splitlines())
    return took_s


# The import


def imported(ctx: Bench) -> tuple[float, float]:
    """Return (seconds, highest MB) of an import. Only a web process runs, so that nobody else imports it
    first."""
    with ctx.stack() as stack, Site(ctx.folder, stack.env(), ctx.progress) as site:
        with ctx.progress.step("Migrate the database; a token, the model"):
            seeded = berth.set_up(stack, site, demomodel.folder())
        with ctx.progress.step(f"Upload {IMPORTED:,} lines"):
            site.start(["web"])
            file = write_lines(ctx.folder / "many.jsonl", IMPORTED, seeded.model)
            batch = create(site.url, seeded.token, upload(site.url, seeded.token, file))
        with ctx.progress.step("Import them"):
            id_ = batch["id"].removeprefix("batch_")
            argv = [str(envs.PORTAL.python), "-c", _IMPORT, id_]
            done = subprocess.run(
                argv, cwd=ROOT, env=site.env(), capture_output=True, text=True, check=False, timeout=LIMIT_S
            )
        if done.returncode != 0:
            raise StepFailed(f"the import failed: {done.stderr.strip()[-500:]}")
        batch = ask.get_json(site.url, seeded.token, f"/v1/batches/{batch['id']}")
        if batch["status"] != "in_progress" or batch["request_counts"]["total"] != IMPORTED:
            raise StepFailed(f"the import left {batch['status']}, {batch['request_counts']}")
        said = json.loads(done.stdout.strip().splitlines()[-1])
        return float(said["s"]), float(said["mb"])
