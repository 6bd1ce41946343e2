"""The request that an engine answers before its replica is hot, and what follows when it does not."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from gpuworker.engines.echo import EchoEngine
from gpuworker.engines.protocol import EngineFailed, EngineSpec
from tests.flow.gpuworker_job import serving, worker
from tests.flow.gpuworker_portal import echo, fake_portal, until

ENGINE = "gpuworker.engines.echo_server"


@contextlib.asynccontextmanager
async def engine(folder: Path, statuses: dict[str, int]) -> AsyncIterator[tuple[EchoEngine, list[str]]]:
    """Start an engine whose server answers each path with a status; give the paths that were asked, too."""
    made = EchoEngine(EngineSpec("m", "", "python", [], 1, 1, {}, folder / "s.sock", folder / "e.log"))
    made.spec.log_path.write_text("the last line of its log\n")
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        body = await request.json()
        assert body["model"] == "m"
        asked.append(request.path)
        return web.json_response({}, status=statuses.get(request.path, 404))

    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(folder / "s.sock")).start()
    try:
        yield made, asked
    finally:
        await runner.cleanup()


async def test_a_language_model_is_asked_for_one_token(tmp_path: Path) -> None:
    async with engine(tmp_path, {"/v1/completions": 200}) as (made, asked):
        await made.warm_up()
        assert asked == ["/v1/completions"]
        assert made.phase == "answering a first request"


@pytest.mark.parametrize("refused", [400, 404, 501])
async def test_a_model_that_completes_nothing_is_asked_for_a_vector(tmp_path: Path, refused: int) -> None:
    async with engine(tmp_path, {"/v1/completions": refused, "/v1/embeddings": 200}) as (made, asked):
        await made.warm_up()
        assert asked == ["/v1/completions", "/v1/embeddings"]


async def test_what_refuses_both_serves_something_else_and_is_no_failure(tmp_path: Path) -> None:
    async with engine(tmp_path, {}) as (made, asked):
        await made.warm_up()
        assert asked == ["/v1/completions", "/v1/embeddings"]


async def test_an_engine_that_cannot_answer_has_not_started(tmp_path: Path) -> None:
    async with engine(tmp_path, {"/v1/completions": 500}) as (made, _):
        with pytest.raises(EngineFailed, match=r"with status 500\nthe last line of its log"):
            await made.warm_up()


async def test_it_is_hot_only_once_it_has_answered(tmp_path: Path) -> None:
    async with fake_portal() as portal:
        portal.set(desired=[echo(args={"hang_on_text": "Hello"})])
        with worker(portal, tmp_path) as job:
            await until(lambda: (s := portal.seen()) and s.phase == "answering a first request", "its phase")
            seen = portal.seen()
            assert seen is not None and (seen.state, seen.hot_at) == ("starting", None)
            portal.set(desired=[])
            await until(lambda: not job.pids(ENGINE), "no engine left: it starts, so it is stopped at once")


async def test_one_that_dies_under_it_has_failed_to_start_and_says_so(tmp_path: Path) -> None:
    async with fake_portal() as portal:
        portal.set(desired=[echo(args={"crash_on_text": "Hello"})])
        with worker(portal, tmp_path):
            failed = await portal.state("failed")
            assert "the echo engine broke off a first request" in failed.error
            assert failed.hot_at is None


async def test_one_that_never_answers_is_given_up_after_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = {"hang_on_text": "Hello"}
    made = EchoEngine(EngineSpec("m", "", sys.executable, [], 1, 1, args, tmp_path / "s", tmp_path / "e.log"))
    monkeypatch.setattr(made, "warm_up_limit_s", 0.2)
    await made.start()
    try:
        await made.ready()
        with pytest.raises(EngineFailed, match="did not answer a first request within 0 s"):
            await made.warm_up()
    finally:
        await made.stop(0)


async def test_it_is_not_one_of_the_requests_that_an_engine_counts(tmp_path: Path) -> None:
    async with serving(tmp_path, echo(args={"crash_after_requests": 1})) as (_, job, _):
        assert (await job.engine_stats())["seen"] == 0
