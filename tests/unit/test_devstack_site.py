"""The site's processes start again when they die, and the demo reads its stream as a client does."""

from __future__ import annotations

import io
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from devstack import demo
from devstack.ask import content
from devstack.bench import Bench
from devstack.procs import Child, Command, wait_until
from devstack.say import Progress, StepFailed
from devstack.site import Site, Supervised


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, {}, Progress(out=lambda _line: None))
    with site:
        yield site


def supervise(site: Site, script: str) -> Supervised:
    command = Command("web", ["sh", "-c", script], {"PATH": "/usr/bin:/bin"})
    return Supervised(command, Child(command, site._home), started=0.0)


def test_a_process_that_keeps_dying_starts_again_with_growing_pauses(site: Site) -> None:
    web = supervise(site, "exit 1")
    starts = []
    now = 1.0
    for _ in range(4):
        assert wait_until(lambda: not web.child.alive, 30)
        died = now
        site._revive(web, now)
        dead = web.child
        while web.child is dead:
            now += 0.5
            site._revive(web, now)
        web.started = now
        starts.append(now - died)
    web.child.stop()
    assert starts == [1.0, 2.0, 4.0, 8.0]


def test_after_a_steady_run_the_pause_is_short_again(site: Site) -> None:
    web = supervise(site, "exit 1")
    web.failures = 5
    assert wait_until(lambda: not web.child.alive, 30)
    site._revive(web, now=100.0)
    assert web.again_at == 101.0


def test_a_living_process_is_left_alone(site: Site) -> None:
    web = supervise(site, "sleep 100")
    before = web.child
    site._revive(web, now=100.0)
    assert web.child is before
    assert web.again_at is None
    before.stop()


def test_the_callers_own_settings_do_not_leak_into_the_site(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SQUEUE_STATES", "FAILED")
    monkeypatch.setenv("BERTH_SERVE", "gateway")
    assert not {"SQUEUE_STATES", "BERTH_SERVE"} & set(site.env())


def test_nodes_find_the_portal_at_an_address_of_theirs_and_people_on_loopback(tmp_path: Path) -> None:
    addresses = ("127.0.0.2", "127.0.0.3")  # stand for the machine's addresses on a cluster's network
    with Site(tmp_path, {}, Progress(out=lambda _line: None), for_nodes=addresses) as site:
        assert site.url == f"http://127.0.0.1:{site.port}"
        assert site.urls_from_nodes == [f"http://{address}:{site.port}" for address in addresses]
        assert site.env()["BERTH_ALLOWED_HOSTS"] == "127.0.0.1,localhost,127.0.0.2,127.0.0.3"
        [web] = [command for command in site.commands() if command.name == "web"]
        stub = tmp_path / "portal"
        (stub / "workerapi").mkdir(parents=True)
        (stub / "asgi.py").write_text(STUB)
        (stub / "workerapi" / "link.py").write_text("Upgrade = None\n")
        child = Child(Command("web", web.argv, web.env, cwd=tmp_path), site._home)
        try:
            child.wait_ready(lambda: asked(site.url) == "127.0.0.1", 60)
            assert [asked(url) for url in site.urls_from_nodes] == list(addresses)
        finally:
            child.stop()
        assert "Application shutdown complete" in child.log.read_text()
    with Site(tmp_path, {}, Progress(out=lambda _line: None)) as alone:
        assert alone.urls_from_nodes == []


def test_an_ipv6_address_stands_in_brackets(tmp_path: Path) -> None:
    site = Site(tmp_path, {}, Progress(out=lambda _line: None), for_nodes=("10.231.7.1", "fd62::1"))
    assert site.urls_from_nodes[1] == f"http://[fd62::1]:{site.port}"
    assert site.env()["BERTH_ALLOWED_HOSTS"].endswith(",[fd62::1]")


STUB = """
async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": kind + ".complete"})
            if kind == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["server"][0].encode()})
"""


def asked(url: str) -> str:
    """Return the answer at that address; empty where there is none."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def stream(text: str) -> Any:
    return cast(Any, io.BytesIO(text.encode()))


def test_a_stream_is_its_text_and_its_heartbeats() -> None:
    heard: list[str] = []
    text = (
        ': position 1, about 40 s\n\ndata: {"choices":[{"delta":{"role":"assistant"}}]}\n\n'
        'data: {"choices":[{"delta":{"content":"A "}}]}\n\ndata: {"choices":[{"delta":{"content":"b"}}]}\n\n'
        "data: [DONE]\n\n"
    )
    assert list(content(stream(text), heard.append)) == ["A ", "b"]
    assert heard == ["position 1, about 40 s"]


def test_an_error_in_the_stream_is_a_failed_step_with_its_message() -> None:
    with pytest.raises(StepFailed, match="replica_lost"):
        list(content(stream('data: {"error": {"code": "replica_lost"}}\n\n'), lambda _text: None))


def test_a_stream_that_breaks_off_is_a_failed_step() -> None:
    with pytest.raises(StepFailed, match=r"without \[DONE\]"):
        list(content(stream('data: {"choices":[]}\n\n'), lambda _text: None))


def test_the_answer_is_right_only_word_for_word_and_with_a_job() -> None:
    times = {"accepted": "2026-01-01T00:00:00Z", "done": "2026-01-01T00:00:07.5Z", "job_running": None}
    detail: dict[str, Any] = {"timeline": {**times, "pilot": {"job_id": 12, "node": "gpu01"}, "queue_s": 1.5}}
    got = demo.outcome("A scheduler. ", "A scheduler.", detail)
    assert got.ok
    assert got.timeline == {"accepted": 0.0, "done": 7.5}
    assert not demo.outcome("A schedule.", "A scheduler.", detail).ok
    detail["timeline"]["pilot"] = None
    assert not demo.outcome("A scheduler.", "A scheduler.", detail).ok


def test_a_heartbeat_is_told_as_a_sentence() -> None:
    heartbeat = 'berth {"position": 2, "eta_s": 33.9, "reason": "The model is being loaded."}'
    assert demo.while_waiting(heartbeat) == "queue position 2, about 34 s more: The model is being loaded."
    last = 'berth {"queue_ms": 3178, "slurm_ms": 458, "load_ms": 163504}'
    assert demo.while_waiting(last) == (
        "started after 3.2 s in the queue, 0.5 s for Slurm, 163.5 s for the model to load"
    )
    assert demo.while_waiting("something else") == "something else"


def test_a_table_lines_up_and_a_median_is_one(tmp_path: Path) -> None:
    said: list[str] = []
    bench = Bench(tmp_path, Progress(out=said.append))
    bench.table(["what", "ms"], [["warm", 1.234], ["cold", 12345]])
    assert said == ["  what      ms", "  warm    1.23", "  cold  12,345"]
    values = iter([3.0, 100.0, 1.0])
    assert bench.median_of(3, lambda: next(values)) == 3.0
