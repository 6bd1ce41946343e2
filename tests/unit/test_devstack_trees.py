"""Which mirror other Debian releases come from, and what a tree's folder depends on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from devstack import debootstrap, mirror, proctable, pyslurm, trees
from devstack.procs import wait_until
from devstack.say import SILENT, StepFailed

DEBIAN = 'ID=debian\nVERSION_CODENAME=bookworm\nNAME="Debian GNU/Linux"\n'


def machine(folder: Path, sources: dict[str, str], os_release: str = DEBIAN) -> tuple[Path, Path]:
    (folder / "sources.list.d").mkdir(exist_ok=True)
    (folder / "os-release").write_text(os_release)
    for name, text in sources.items():
        (folder / name).write_text(text)
    return folder, folder / "os-release"


STANZA = """Types: deb deb-src
# a comment
URIs: {uri}/
Suites: {suites}
Components: main contrib
Signed-By: /etc/keys.gpg
"""


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        (
            "sources.list",
            "deb http://one/debian bookworm main\n",
            mirror.Mirror("http://one/debian", mirror.KEYRING),
        ),
        (
            "sources.list",
            "# deb http://old/ bookworm main\ndeb-src http://src/ bookworm main\n"
            "deb [arch=amd64 signed-by=/k.gpg] http://two/debian/ bookworm main # ours\n",
            mirror.Mirror("http://two/debian", "/k.gpg"),
        ),
        (
            "sources.list.d/debian.sources",
            STANZA.format(uri="http://sec/x", suites="bookworm-security")
            + "\n"
            + STANZA.format(uri="https://three/debian", suites="bookworm bookworm-updates"),
            mirror.Mirror("https://three/debian", "/etc/keys.gpg"),
        ),
    ],
)
def test_the_mirror_is_the_one_that_apt_has_for_this_release(
    tmp_path: Path, name: str, text: str, found: mirror.Mirror
) -> None:
    assert mirror.find(*machine(tmp_path, {name: text})) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "deb http://elsewhere/apt cloud-sdk main\n",
        "deb http://one/debian bookworm contrib\n",
        "deb http://one/debian\n",
    ],
)
def test_sources_without_this_release_are_no_mirror(tmp_path: Path, text: str) -> None:
    with pytest.raises(StepFailed, match="name no mirror that has bookworm"):
        mirror.find(*machine(tmp_path, {"sources.list": text}))


def test_a_disabled_source_is_none(tmp_path: Path) -> None:
    text = "Enabled: no\n" + STANZA.format(uri="http://one", suites="bookworm")
    with pytest.raises(StepFailed):
        mirror.find(*machine(tmp_path, {"sources.list.d/x.sources": text}))


@pytest.mark.parametrize("text", ["", 'ID=ubuntu\nVERSION_CODENAME="noble"\n'])
def test_another_system_than_debian_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(StepFailed, match="no Debian"):
        mirror.find(*machine(tmp_path, {"sources.list": "deb http://u noble main\n"}, text))


def test_another_recipe_is_another_folder_and_our_own_programs_are_no_part_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert trees.TRIXIE.folder != trees.TESTING.folder
    before, programs = trees.TRIXIE.folder, trees.TRIXIE.programs
    monkeypatch.setattr(trees, "_SHARED", ("hosts",))
    assert trees.TRIXIE.folder == before
    assert trees.TRIXIE.programs != programs
    monkeypatch.setattr(debootstrap, "SCRIPT", "exit 1")
    assert trees.TRIXIE.folder != before


def test_an_ordinary_user_gets_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    with pytest.raises(StepFailed, match="only root can make"):
        trees.ensure(trees.TRIXIE, SILENT)


def test_a_tree_without_what_pyslurm_needs_or_of_another_release_has_none_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "24.11 has no pyslurm" in pyslurm.refusal(trees.TRIXIE)
    monkeypatch.setattr(trees.Tree, "release", lambda _: (26, 11))
    assert "has Slurm 26.11 by now" in pyslurm.refusal(trees.TESTING)


@pytest.mark.skipif(os.getuid() != 0, reason="only root builds trees")
def test_a_build_that_fails_says_where_it_ended_and_is_no_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BERTH_CACHE", str(tmp_path))
    monkeypatch.setattr(mirror, "find", lambda: mirror.Mirror("http://127.0.0.1:9/debian", "/k.gpg"))
    monkeypatch.setattr(debootstrap, "SCRIPT", "echo asked $3 for $2; exit 7")
    with pytest.raises(StepFailed, match="status 7") as failed:
        trees.ensure(trees.TRIXIE, SILENT)
    assert "asked http://127.0.0.1:9/debian for trixie" in failed.value.text()
    assert not trees.TRIXIE.ready()


BUILDER = """
import sys
from pathlib import Path
from devstack import debootstrap, mirror
mirror.find = lambda: mirror.Mirror("http://127.0.0.1:9/debian", "/k.gpg")
debootstrap.SCRIPT = 'echo begun; (sleep 600; touch "$1/late"); exit 0'
debootstrap.build(Path(sys.argv[1]), "trixie", [], lambda _: None)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root builds trees")
def test_a_build_whose_owner_is_killed_stops_writing(tmp_path: Path) -> None:
    bin_folder = str(Path(trees.__file__).parent.parent)
    folder = tmp_path / "trixie-x"
    owner = subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(folder)], env={**os.environ, "PYTHONPATH": bin_folder}
    )
    log = tmp_path / "trixie-x.log"
    assert wait_until(lambda: log.exists() and "begun" in log.read_text(), 60)
    below = proctable.descendants({owner.pid})
    assert {"unshare", "sleep"} <= {proctable.name(pid) for pid in below}
    owner.kill()
    owner.wait()
    assert wait_until(lambda: all(proctable.start_ticks(pid) is None for pid in below), 30)
    assert not (folder / ".complete").exists()
