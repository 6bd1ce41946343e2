"""The command-line client on a real private Slurm, and against commands that fail as commands do."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from devstack.slurm import Slurm
from devstack.slurmconf import SlurmSpec

from scheduler.slurm.cli import CliClient
from scheduler.slurm.clients import client_for
from scheduler.slurm.protocol import NoAnswer, NotOffered, Rejected
from scheduler.slurm.render import BadDirective, render
from scheduler.slurm.way import Way
from tests.slurm.contract import PARTITIONS, QUICK, Contract, make_spec, spec
from tests.slurm.late import LATE, before

__all__ = ["spec"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    spec = SlurmSpec(nodes=2, sched_interval_s=1, partitions=PARTITIONS, extra=(QUICK,))
    with Slurm(tmp_path_factory.mktemp("slurm"), spec) as slurm:
        yield slurm


@pytest.mark.slurm
class TestCliClient(Contract):
    kind = "cli"

    @pytest.fixture
    def client(self, cluster: Slurm, monkeypatch: pytest.MonkeyPatch) -> CliClient:
        # What a user's shell may hold; the listing must not care.
        monkeypatch.setenv("SQUEUE_STATES", "FAILED")
        monkeypatch.setenv("SQUEUE_FORMAT", "%i")
        monkeypatch.setenv("SQUEUE_PARTITION", "nowhere")
        monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        return CliClient(cluster.prefix, limit_s=8)

    @pytest.fixture
    def broken(self, cluster: Slurm, tmp_path: Path) -> Callable[[str], CliClient]:
        """Give a client whose commands print something else than Slurm's, and are content with it."""

        def one(situation: str) -> CliClient:
            if situation in LATE:
                delay_s, limit_s = LATE[situation]
                return CliClient((*cluster.prefix, *before(delay_s)), limit_s=limit_s)
            if situation == "forbidden":
                denied = "Kill job error on job id 60000000: Access/permission denied"
                fake(tmp_path, "scancel", f"echo 'scancel: error: {denied}' >&2; exit 1")
                return CliClient((*cluster.prefix, "env", f"PATH={tmp_path}:/usr/bin:/bin"), limit_s=15)
            for name in ("sbatch", "squeue", "scancel", "sinfo", "scontrol", "sacct", "sacctmgr"):
                fake(tmp_path, name, "echo 'Have a nice day'")
            return CliClient((*cluster.prefix, "env", f"PATH={tmp_path}:/usr/bin:/bin"), limit_s=15)

        return one

    def test_the_name_of_a_strangers_job_may_hold_anything(self, client: CliClient, cluster: Slurm) -> None:
        name = "odd | name,\nsecond line"
        cluster.run("sbatch", "--output=/dev/null", "--job-name", name, "--wrap", "true")
        assert name in client.jobs()


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder at the front of PATH for fake commands."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    fake(folder, "sbatch", '[ "$1" = --version ] && echo "slurm-wlm 22.05.8"')
    return folder


def fake(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("exit 1", id="fails"),
        pytest.param("echo 'squeue: error: Unable to contact slurm controller' >&2; exit 1", id="says why"),
        pytest.param("echo 'slurm_load_jobs error: Socket timed out' >&2", id="empty by error"),
        pytest.param("echo garbage", id="garbage"),
        pytest.param("printf '\\03612\\037RUNNING'", id="half a record"),
        pytest.param("kill -9 $PPID", id="killed"),
        pytest.param("kill -9 $$", id="kills itself"),
        pytest.param("exec /does/not/exist", id="cannot run"),
    ],
)
def test_a_listing_that_is_no_listing_is_no_answer(commands: Path, body: str) -> None:
    fake(commands, "squeue", body)
    with pytest.raises(NoAnswer):
        CliClient(limit_s=5).jobs()


def test_an_empty_listing_that_succeeded_is_no_jobs(commands: Path) -> None:
    fake(commands, "squeue", "exit 0")
    assert CliClient(limit_s=5).jobs() == {}


def test_a_listing_asks_for_everything_in_a_scrubbed_environment(
    commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(commands, "squeue", f'env > {tmp_path}/env; printf "%s\\n" "$@" > {tmp_path}/args')
    monkeypatch.setenv("SQUEUE_STATES", "FAILED")
    monkeypatch.setenv("SLURM_CLUSTERS", "elsewhere")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/x.conf")
    CliClient(limit_s=5).jobs()
    env = dict(line.partition("=")[::2] for line in (tmp_path / "env").read_text().splitlines())
    assert env["SLURM_CONF"] == "/etc/slurm/x.conf"
    assert env["TZ"] == "UTC"
    assert not [
        name for name in env if name.startswith(("SQUEUE_", "SBATCH_", "SLURM_")) and name != "SLURM_CONF"
    ]
    args = (tmp_path / "args").read_text().splitlines()
    assert args[:6] == ["--me", "-a", "-h", "-t", "all", "-o"]


def test_a_hanging_command_ends_with_all_it_started(commands: Path, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    fake(commands, "squeue", f"sleep 1000 & echo $! $$ > {pids}; wait")
    before = time.monotonic()
    with pytest.raises(NoAnswer, match="no answer within 3 s"):
        CliClient(limit_s=3).jobs()
    assert time.monotonic() - before < 60
    for pid in pids.read_text().split():
        status = Path(f"/proc/{pid}/stat")
        assert not status.exists() or status.read_text().split()[2] == "Z"


@pytest.mark.parametrize(
    ("said", "code", "error"),
    [
        ("sbatch: error: Batch job submission failed: Invalid partition name specified", 1, Rejected),
        (
            "sbatch: error: Batch job submission failed: Requested node configuration is not available",
            1,
            Rejected,
        ),
        ("sbatch: error: Invalid --gres specification", 1, Rejected),
        ("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", 1, NoAnswer),
        ("sbatch: error: Batch job submission failed: Unable to contact slurm controller", 1, NoAnswer),
        ("sbatch: error: Batch job submission failed: Protocol authentication error", 1, NoAnswer),
        ("", 1, NoAnswer),
        ("ssh: connect to host login01 port 22: No route to host", 255, NoAnswer),
        ("", 0, NoAnswer),
    ],
)
def test_only_what_slurm_refused_is_a_refusal(
    commands: Path, tmp_path: Path, said: str, code: int, error: type[Exception]
) -> None:
    version = '[ "$1" = --version ] && echo "slurm 23.02.1" && exit 0'
    fake(commands, "sbatch", f"{version}\necho '{said}' >&2\nexit {code}")
    job = make_spec(tmp_path)
    with pytest.raises(error):
        CliClient(limit_s=5).submit(render(job), job)


DENIED = "scancel: error: Kill job error on job id 7: Access/permission denied"
FORGOTTEN = "scancel: error: Kill job error on job id 8: Invalid job id specified"


@pytest.mark.parametrize(
    ("said", "code", "error"),
    [
        (DENIED, 1, Rejected),
        (f"Welcome to login01\n{DENIED}\n{FORGOTTEN}", 1, Rejected),
        ("scancel: error: Kill job error on job id 7: Invalid user id", 1, Rejected),
        ("scancel: error: Access/permission denied", 1, Rejected),
        (f"{DENIED}\nscancel: error: Kill job error on job id 8: Socket timed out on send/recv operation", 1, NoAnswer),
        ("scancel: error: Kill job error on job id 7: Job can not be altered now, try again later", 1, NoAnswer),
        ("scancel: error: Unable to contact slurm controller (connect failure)", 1, NoAnswer),
        ("scancel: fatal: Could not establish a configuration source", 1, NoAnswer),
        ("berth@login01: Permission denied (publickey).", 255, NoAnswer),
        ("", 1, NoAnswer),
        ("scancel: error: Kill job error on job id 7: Job/step already completing or completed", 1, None),
        ("scancel: error: Invalid job id 7", 1, None),
    ],
)  # fmt: skip
def test_a_cancellation_that_slurm_refuses_is_no_silence(
    commands: Path, said: str, code: int, error: type[Exception] | None
) -> None:
    fake(commands, "scancel", f"cat >&2 <<'END'\n{said}\nEND\nexit {code}")
    if error is None:
        CliClient(limit_s=5).cancel([7, 8])
        return
    with pytest.raises(error) as caught:
        CliClient(limit_s=5).cancel([7, 8])
    assert error is NoAnswer or "job id 8" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("allocation failure: Invalid partition name specified", Rejected),
        ("sbatch: error: Batch job submission failed: Invalid qos specification", Rejected),
        ("allocation failure: Unable to contact slurm controller (connect failure)", NoAnswer),
        ("allocation failure: Socket timed out on send/recv operation", NoAnswer),
        ("ssh: connect to host login01 port 22: No route to host", NoAnswer),
        ("", NoAnswer),
    ],
)
def test_a_refused_estimate_is_slurms_no(
    commands: Path, tmp_path: Path, said: str, error: type[Exception]
) -> None:
    version = '[ "$1" = --version ] && echo "slurm 23.02.1" && exit 0'
    fake(commands, "sbatch", f"{version}\necho '{said}' >&2\nexit 1")
    with pytest.raises(error) as caught:
        CliClient(limit_s=5).estimate_start(make_spec(tmp_path))
    assert "allocation failure" not in str(caught.value) or error is NoAnswer


@pytest.mark.parametrize(
    "said",
    ["Slurm accounting storage is disabled", "You are not running a supported accounting_storage plugin"],
)
def test_accounting_that_the_site_has_not_is_not_offered(commands: Path, said: str) -> None:
    for command in ("sacct", "sacctmgr"):
        fake(commands, command, f"echo '{said}' >&2; exit 1")
    with pytest.raises(NotOffered):
        CliClient(limit_s=5).usage([7])
    with pytest.raises(NotOffered):
        CliClient(limit_s=5).accounts()
    fake(
        commands,
        "sacct",
        "echo 'sacct: error: slurm_persist_conn_open_without_init: Connection refused' >&2; exit 1",
    )
    with pytest.raises(NoAnswer):
        CliClient(limit_s=5).usage([7])


@pytest.mark.parametrize(("version", "word"), [("22.05.8", "ALL"), ("23.02.0", "NIL"), ("25.11.7", "NIL")])
def test_what_a_submission_says_and_what_it_never_says(
    commands: Path, tmp_path: Path, version: str, word: str
) -> None:
    fake(
        commands,
        "sbatch",
        f'[ "$1" = --version ] && echo "slurm-wlm {version}" && exit 0\n'
        f'printf "%s\\n" "$@" > {tmp_path}/args; cat > {tmp_path}/script\n'
        f'env > {tmp_path}/env; echo "77;main"',
    )
    job = make_spec(tmp_path)
    assert CliClient(limit_s=5).submit(render(job), job) == 77
    args = (tmp_path / "args").read_text().splitlines()
    assert args == ["--parsable", "--no-requeue", f"--export={word}", f"--job-name={job.name}"]
    assert (tmp_path / "script").read_text() == render(job)
    for leaked in ("args", "script", "env"):
        assert "s3cret-key" not in (tmp_path / leaked).read_text()
    # With ALL the job would get whatever sbatch has: it must have next to nothing.
    names = {line.partition("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
    assert names <= {"PATH", "HOME", "TZ", "LC_ALL", "SLURM_CONF", "PWD", "OLDPWD", "SHLVL", "_"}
    assert Path(job.secret.path).read_text() == job.secret.text + "\n"
    assert Path(job.secret.path).stat().st_mode & 0o777 == 0o600


def test_a_prefix_runs_everything_elsewhere(commands: Path, tmp_path: Path) -> None:
    fake(commands, "ssh", f'echo "$@" >> {tmp_path}/ssh; shift; exec "$@"')
    fake(commands, "squeue", "exit 0")
    assert CliClient(("ssh", "login01"), limit_s=5).jobs() == {}
    assert (tmp_path / "ssh").read_text() == "login01 sh\n"


@pytest.mark.parametrize(
    "shell",
    [
        pytest.param('echo "Welcome to login01"; exec "$@"', id="greets"),
        pytest.param("printf 'no newline at its end: '; exec \"$@\"", id="half a line"),
        pytest.param("printf '\\036a record?\\037\\036\\n'; exec \"$@\"", id="in our own marks"),
        pytest.param('"$@"; code=$?; echo "Good bye"; exit $code', id="takes its leave"),
        pytest.param('echo hello; "$@"; printf bye', id="both"),
    ],
)
def test_what_a_shell_says_before_and_after_is_no_part_of_the_answer(
    commands: Path, tmp_path: Path, shell: str
) -> None:
    fake(commands, "ssh", f"shift; {shell}")
    fake(commands, "squeue", "exit 0")
    fake(commands, "sbatch", '[ "$1" = --version ] && echo "slurm-wlm 22.05.8" || echo 78')
    fake(commands, "scancel", "exit 0")
    job = make_spec(tmp_path)
    client = CliClient(("ssh", "login01"), limit_s=5)
    assert client.jobs() == {}
    assert client.submit(render(job), job) == 78
    client.cancel([78])
    (tmp_path / "job.out").write_text("last words\n")
    assert client.log_tail(str(tmp_path / "job.out"), 100) == "last words\n"


def test_a_greeting_and_then_nothing_is_no_answer(commands: Path) -> None:
    fake(commands, "ssh", 'echo "Welcome to login01"; exit 0')
    with pytest.raises(NoAnswer, match="Welcome to login01"):
        CliClient(("ssh", "login01"), limit_s=5).jobs()


def test_the_configuration_of_a_way_outdoes_the_environments(
    commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(commands, "squeue", f'echo "$SLURM_CONF" > {tmp_path}/conf')
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/x.conf")
    client_for(Way(conf="/etc/slurm/it's.conf"), 5).jobs()
    assert (tmp_path / "conf").read_text() == "/etc/slurm/it's.conf\n"


def test_a_prefix_that_does_not_exist_is_no_answer() -> None:
    with pytest.raises(NoAnswer):
        CliClient(("/does/not/exist",), limit_s=5).jobs()


def test_a_name_that_could_be_a_shell_word_is_refused_before_anything_runs(
    commands: Path, tmp_path: Path
) -> None:
    job = dataclasses.replace(make_spec(tmp_path), name="berth-x-$(touch /tmp/never)")
    with pytest.raises(BadDirective):
        CliClient(limit_s=5).submit("", job)
