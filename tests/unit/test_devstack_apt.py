"""Installing packages: nothing where nothing is missing, and no trace of the precautions afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from devstack import apt
from devstack.apt import Need
from devstack.say import Progress, StepFailed

APT_GET = """#!/bin/sh
# Stands for apt-get: shows what an install would meet, and what policy-rc.d would answer.
echo "apt-get $*" >> {root}/calls
{root}/policy-rc.d; echo "policy $?" >> {root}/calls
cat {root}/createcluster.d/* >> {root}/calls 2>/dev/null
exit {status}
"""


@pytest.fixture
def machine(tmp_path: Path) -> Callable[[int], subprocess.CompletedProcess[bytes]]:
    """Run the install script with its paths below tmp_path and an apt-get that ends with a given status."""
    script = (
        apt.INSTALL_SCRIPT.replace("/usr/sbin/policy-rc.d", f"{tmp_path}/policy-rc.d")
        .replace("/etc/postgresql-common/createcluster.d", f"{tmp_path}/createcluster.d")
        .replace("/usr/lib/postgresql", f"{tmp_path}/postgresql")
        .replace("/var/lib/apt/lists", f"{tmp_path}/lists")
    )
    programs = tmp_path / "programs"
    programs.mkdir()

    def run(status: int) -> subprocess.CompletedProcess[bytes]:
        fake = programs / "apt-get"
        fake.write_text(APT_GET.format(root=tmp_path, status=status))
        fake.chmod(0o755)
        (programs / "systemctl").write_text("#!/bin/sh\nexit 0\n")
        (programs / "systemctl").chmod(0o755)
        env = {"PATH": f"{programs}:{os.environ['PATH']}"}
        return subprocess.run(
            ["sh", "-c", script, "install", "munge"], env=env, capture_output=True, check=False
        )

    return run


Machine = Callable[[int], subprocess.CompletedProcess[bytes]]


def test_services_are_denied_a_start_during_the_install_only(machine: Machine, tmp_path: Path) -> None:
    assert machine(0).returncode == 0
    calls = (tmp_path / "calls").read_text()
    assert "install -y --no-install-recommends munge" in calls
    assert "policy 101" in calls
    assert "create_main_cluster = false" in calls
    assert not (tmp_path / "policy-rc.d").exists()
    assert list((tmp_path / "createcluster.d").iterdir()) == []


def test_a_failed_install_is_tried_again_after_an_update_and_then_undone(
    machine: Machine, tmp_path: Path
) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "debian_Packages").touch()
    assert machine(100).returncode == 100
    calls = [line.split()[-1] for line in (tmp_path / "calls").read_text().splitlines() if "apt-get" in line]
    assert calls == ["munge", "update"]
    assert not (tmp_path / "policy-rc.d").exists()


def test_a_policy_that_the_machine_already_has_stays(machine: Machine, tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 104\n")
    policy.chmod(0o755)
    machine(0)
    assert "policy 104" in (tmp_path / "calls").read_text()
    assert policy.read_text() == "#!/bin/sh\nexit 104\n"


def test_a_machine_with_postgresql_keeps_its_way_of_making_clusters(machine: Machine, tmp_path: Path) -> None:
    initdb = tmp_path / "postgresql" / "15" / "bin" / "initdb"
    initdb.parent.mkdir(parents=True)
    initdb.touch()
    machine(0)
    assert "create_main_cluster" not in (tmp_path / "calls").read_text()


def test_nothing_is_done_where_nothing_is_missing(tmp_path: Path) -> None:
    said: list[str] = []
    apt.install((Need("munge", lambda: True),), Progress(out=said.append), tmp_path / "apt.log")
    assert said == []


def test_without_root_or_sudo_the_command_to_type_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/apt-get" if name == "apt-get" else None)
    need = Need("munge", lambda: False)
    with pytest.raises(StepFailed) as failed:
        apt.install((need,), Progress(out=lambda _line: None), tmp_path / "apt.log")
    assert "apt-get install munge" in failed.value.text()
