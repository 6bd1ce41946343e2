"""A token comes from a file or a command, is renewed before its end and once after a refusal, and is never shown."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.slurm.jwt import TokenSource
from scheduler.slurm.protocol import NoAnswer
from scheduler.slurm.rest import RestClient
from scheduler.slurm.way import Way
from tests.secret_file import put_secret
from tests.unit.restd import Restd, fine, jwt, number, restd


@pytest.fixture
def server() -> Iterator[Restd]:
    with restd() as found:
        found.serve()
        found.answers["GET /slurm/v0.0.42/jobs/"] = fine(jobs=[], last_update=number(5))
        yield found


def command(folder: Path, body: str) -> tuple[str, ...]:
    path = folder / "token command"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return (str(path), "it's")


def source(path: Path) -> TokenSource:
    return TokenSource(Way(kind="rest", token_file=str(path)), 5)


def test_a_token_is_read_again_a_minute_before_its_end(tmp_path: Path) -> None:
    path = tmp_path / "token"
    first, second = jwt(sun="a", iat=0, exp=3600), jwt(sun="a", iat=3000, exp=7000)
    put_secret(path, first)
    tokens = source(path)
    assert tokens.get(100).text == first
    put_secret(path, f"SLURM_JWT={second}\n")
    assert tokens.get(3539).text == first
    assert tokens.get(3541).text == second


def test_a_short_life_is_used_to_nine_tenths(tmp_path: Path) -> None:
    path = tmp_path / "token"
    put_secret(path, jwt(sun="a", iat=0, exp=100))
    token = source(path).get(50)
    assert not token.due(89)
    assert token.due(90)


def test_a_token_that_has_ended_is_not_sent(tmp_path: Path) -> None:
    path = tmp_path / "token"
    put_secret(path, jwt(sun="a", exp=1000))
    with pytest.raises(NoAnswer, match="has ended: put a new one there"):
        source(path).get(1001)


def test_after_a_refusal_the_file_is_read_once_more(server: Restd, tmp_path: Path) -> None:
    path = tmp_path / "token"
    old, new = (jwt(sun="a", exp=time.time() + 3600, n=n) for n in (1, 2))
    put_secret(path, old)
    server.tokens = {old}
    client = RestClient(Way(kind="rest", address=server.url, token_file=str(path)), limit_s=5)
    assert client.jobs() == {}
    server.tokens = {new}
    with pytest.raises(NoAnswer, match="the token is not accepted: HTTP 401"):
        client.jobs()
    asked = len(server.asked)
    put_secret(path, new)
    assert client.jobs() == {}
    assert len(server.asked) == asked + 2
    server.tokens = {"other"}
    with pytest.raises(NoAnswer):
        client.jobs()


def test_a_command_is_run_once_and_again_when_its_token_is_refused(server: Restd, tmp_path: Path) -> None:
    one, two = (jwt(sun="a", exp=time.time() + 3600, n=n) for n in (1, 2))
    (tmp_path / "next").write_text(one)
    argv = command(
        tmp_path,
        f'[ "$1" = "it\'s" ] || exit 9; echo x >> {tmp_path}/runs; echo "SLURM_JWT=$(cat {tmp_path}/next)"',
    )
    client = RestClient(Way(kind="rest", address=server.url, token_command=argv), limit_s=5)
    server.tokens = {one}
    client.jobs()
    client.jobs()
    assert (tmp_path / "runs").read_text() == "x\n"
    server.tokens = {two}
    (tmp_path / "next").write_text(two)
    client.jobs()
    assert (tmp_path / "runs").read_text() == "x\nx\n"


def test_a_command_may_greet_before_it_prints_the_token(tmp_path: Path) -> None:
    token = jwt(sun="a")
    argv = command(tmp_path, f"echo 'Welcome to login01'; echo 'SLURM_JWT={token}'; echo")
    assert TokenSource(Way(kind="rest", token_command=argv), 5).get(0).text == token


@pytest.mark.parametrize(
    "body",
    [
        "echo SECRET-WORD; exit 1",
        "echo SECRET-WORD",
        "echo SECRET-WORD; kill -9 $$",
        "echo SECRET-WORD; kill -9 $PPID",
        "true",
        "echo 'no such user' >&2; exit 2",
    ],
)
def test_a_command_that_fails_is_no_answer_and_its_output_is_not_shown(tmp_path: Path, body: str) -> None:
    tokens = TokenSource(Way(kind="rest", token_command=command(tmp_path, body)), 5)
    with pytest.raises(NoAnswer) as caught:
        tokens.get(0)
    assert "SECRET-WORD" not in str(caught.value)
    assert "no such user" not in body or "no such user" in str(caught.value)


def test_a_command_that_hangs_is_no_answer(tmp_path: Path) -> None:
    tokens = TokenSource(Way(kind="rest", token_command=command(tmp_path, "sleep 1000")), 0.5)
    with pytest.raises(NoAnswer, match=r"within 0\.5 s"):
        tokens.get(0)


@pytest.mark.parametrize("text", ["", "garbage", "a b.c.d", "\x00\xff"])
def test_a_file_that_holds_no_token_is_no_answer(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    put_secret(path, text)
    with pytest.raises(NoAnswer, match=r"no token|is empty"):
        source(path).get(0)
    with pytest.raises(NoAnswer, match="No such file"):
        source(tmp_path / "missing").get(0)
    with pytest.raises(NoAnswer, match="neither a token file nor a token command"):
        TokenSource(Way(kind="rest"), 5).get(0)


def test_a_token_never_shows_in_what_is_printed_of_it(tmp_path: Path) -> None:
    path = tmp_path / "token"
    put_secret(path, jwt(sun="a"))
    token = source(path).get(0)
    assert token.user == "a"
    assert token.text not in repr(token)
