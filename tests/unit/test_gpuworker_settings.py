"""Environment variables and the secret file: what is read, and what is refused with a reason."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from gpuworker import settings

GOOD = {"BERTH_PILOT_DIR": "/tmp/x"}


def test_defaults() -> None:
    found = settings.read(GOOD | {"SLURM_JOB_ID": "12", "SLURMD_NODENAME": "n1"})
    assert (found.door_address, found.door_ports, found.portal_silence_s) == ("", None, 1800.0)
    assert (found.job_id, found.node, found.asked_gpus, found.started_at) == (12, "n1", None, None)


def test_empty_values_are_defaults() -> None:
    found = settings.read(GOOD | {"BERTH_DOOR_ADDRESS": "", "BERTH_DOOR_PORTS": "", "BERTH_JOB_LOG": ""})
    assert (found.door_address, found.door_ports, found.job_log) == ("", None, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BERTH_DOOR_PORTS", "20100-20000"),
        ("BERTH_DOOR_PORTS", "0-10"),
        ("BERTH_DOOR_PORTS", "a-b"),
        ("BERTH_DOOR_PORTS", "65000-70000"),
        ("BERTH_GPUS", "two"),
        ("BERTH_PORTAL_SILENCE_S", "long"),
        ("BERTH_PORTAL_SILENCE_S", "-1"),
        ("BERTH_PILOT_DIR", ""),
    ],
)
def test_a_value_that_cannot_be_used_is_named(name: str, value: str) -> None:
    with pytest.raises(settings.SettingsError, match=name):
        settings.read(GOOD | {name: value})


def test_a_range_and_a_single_port() -> None:
    assert settings.read(GOOD | {"BERTH_DOOR_PORTS": "20000-20100"}).door_ports == (20000, 20100)
    assert settings.read(GOOD | {"BERTH_DOOR_PORTS": "20000"}).door_ports == (20000, 20000)


@pytest.mark.parametrize(
    ("env", "node"),
    [
        ({"SLURMD_NODENAME": "n1", "SLURM_JOB_NODELIST": "n1"}, "n1"),
        ({"SLURM_JOB_NODELIST": "gpu-07"}, "gpu-07"),
        ({"SLURM_JOB_NODELIST": "gpu[07-08]"}, "box"),
        ({}, "box"),
    ],
)
def test_the_node_is_what_slurm_calls_it(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str], node: str
) -> None:
    monkeypatch.setattr("gpuworker.settings.socket.gethostname", lambda: "box.cluster.example.org")
    assert settings.read(GOOD | env).node == node


def test_misspelt_names_are_noticed() -> None:
    assert settings.unknown({"BERTH_DOOR_PORT": "1", "BERTH_SCRATCH": "/tmp", "HOME": "/"}) == [
        "BERTH_DOOR_PORT"
    ]


def _secret(folder: Path, mode: int = 0o600, changes: dict[str, object] | None = None) -> Path:
    values = {"pilot": "p", "portal_url": "http://x", "portal_token": "hush", "ingress_key": "hush"}
    path = folder / "secret"
    path.write_text(json.dumps(values | (changes or {})))
    path.chmod(mode)
    return path


def test_the_secret_file(tmp_path: Path) -> None:
    assert settings.read_secret(_secret(tmp_path)).portal_token == "hush"


def test_a_secret_file_that_a_shared_file_system_shows_late_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    whole = _secret(tmp_path / "elsewhere")
    written = threading.Timer(0.3, whole.rename, (tmp_path / "secret",))
    written.start()
    try:
        assert settings.await_secret(tmp_path / "secret", 30.0).pilot == "p"
    finally:
        written.join()
    with pytest.raises(settings.SettingsError, match="No such file"):
        settings.await_secret(tmp_path / "none", 0.1)


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o620])
def test_a_secret_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(settings.SettingsError, match="0600"):
        settings.read_secret(_secret(tmp_path, mode))


@pytest.mark.parametrize("changes", [{"portal_token": 5}, {"portal_url": "ftp://x"}])
def test_a_broken_secret_file_is_refused_without_its_contents(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    with pytest.raises(settings.SettingsError) as error:
        settings.read_secret(_secret(tmp_path, changes=changes))
    assert "hush" not in str(error.value)


def test_a_missing_secret_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(settings.SettingsError, match="No such file"):
        settings.read_secret(tmp_path / "none")
