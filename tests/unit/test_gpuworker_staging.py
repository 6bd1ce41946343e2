"""Copies of model folders on scratch: complete or not there, one at a time, never at the cost of the disk or a start."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from gpuworker import staging as module
from gpuworker.staging import Staging, copy_files, files_of, filesystem_of
from gpuworker.wire import StageWish


def model(folder: Path, name: str = "m", size: int = 1000) -> StageWish:
    path = folder / name
    (path / "sub").mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "sub" / "weights").write_bytes(name.encode() * size)
    return StageWish(name, str(path))


async def until(look: Callable[[], object], within_s: float = 60.0) -> None:
    async with asyncio.timeout(within_s):
        while not look():
            await asyncio.sleep(0.005)


@pytest.fixture
def used() -> set[str]:
    return set()


@pytest.fixture
async def scratch(tmp_path: Path, used: set[str], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Staging]:
    monkeypatch.setattr(module, "filesystem_of", lambda folder: "ext4")
    made = Staging(tmp_path / "pilot", lambda: None, lambda: used)
    (tmp_path / "pilot").mkdir()
    yield made
    await made.stop()


def disk(monkeypatch: pytest.MonkeyPatch, scratch: Path, total: int) -> None:
    """Make a disk of so many bytes on which only the copies lie."""

    def usage(_: object) -> SimpleNamespace:
        held = sum(f.stat().st_size for f in scratch.rglob("*") if f.is_file())
        return SimpleNamespace(total=total, free=total - held)

    monkeypatch.setattr(shutil, "disk_usage", usage)


async def test_a_folder_is_copied_whole_and_used(tmp_path: Path, scratch: Staging) -> None:
    wish = model(tmp_path)
    assert await scratch.nearest(wish.path) == wish.path
    scratch.want([wish])
    await until(lambda: scratch.staged == ["m"])
    near = Path(await scratch.nearest(wish.path))
    assert near != Path(wish.path)
    assert files_of(near).keys() == files_of(Path(wish.path)).keys()
    assert (near / "sub" / "weights").read_bytes() == b"m" * 1000
    assert near.parent.stat().st_mode & 0o077 == 0, "nobody else may read it"
    scratch.want([])
    assert scratch.staged == ["m"], "it stays for the next one"


async def test_a_link_to_a_file_is_copied_as_the_file(tmp_path: Path, scratch: Staging) -> None:
    wish = model(tmp_path)
    blob = tmp_path / "blob"
    blob.write_text("weights")
    (Path(wish.path) / "linked").symlink_to(blob)
    scratch.want([wish])
    await until(lambda: scratch.staged)
    copied = Path(await scratch.nearest(wish.path)) / "linked"
    assert (copied.is_symlink(), copied.read_text()) == (False, "weights")


async def test_weights_that_changed_since_are_not_served_from_the_copy(
    tmp_path: Path, scratch: Staging
) -> None:
    wish = model(tmp_path)
    scratch.want([wish])
    await until(lambda: scratch.staged)
    (Path(wish.path) / "sub" / "weights").write_bytes(b"newer")
    assert await scratch.nearest(wish.path) == wish.path
    assert scratch.staged == []


async def test_a_source_that_may_not_be_read_any_more_is_not_served_from_the_copy(
    tmp_path: Path, scratch: Staging
) -> None:
    wish = model(tmp_path)
    scratch.want([wish])
    await until(lambda: scratch.staged)
    shutil.rmtree(wish.path)
    assert await scratch.nearest(wish.path) == wish.path


def _missing(wish: StageWish) -> None:
    shutil.rmtree(wish.path)


def _empty(wish: StageWish) -> None:
    _missing(wish)
    Path(wish.path).mkdir()


def _pipe(wish: StageWish) -> None:
    os.mkfifo(Path(wish.path) / "pipe")


def _linked_folder(wish: StageWish) -> None:
    (Path(wish.path) / "loop").symlink_to(wish.path, target_is_directory=True)


@pytest.mark.parametrize("spoil", [_missing, _empty, _pipe, _linked_folder])
async def test_what_cannot_be_copied_is_refused_once_and_leaves_nothing(
    tmp_path: Path, scratch: Staging, spoil: Callable[[StageWish], None], caplog: pytest.LogCaptureFixture
) -> None:
    wish = model(tmp_path)
    spoil(wish)
    for _ in range(3):
        scratch.want([wish])
        await until(lambda: not scratch.busy)
    assert (scratch.staged, await scratch.nearest(wish.path)) == ([], wish.path)
    assert caplog.text.count("are not staged") == 1
    assert [p for p in (tmp_path / "pilot").rglob("*") if p.is_file()] == []


async def test_files_that_change_while_they_are_copied_are_no_copy(
    tmp_path: Path, scratch: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    wish = model(tmp_path)

    def copied(source: Path, *rest: object) -> None:
        copy_files(source, *rest)  # type: ignore[arg-type]
        (source / "late").write_text("x")

    monkeypatch.setattr(module, "copy_files", copied)
    scratch.want([wish])
    await until(lambda: not scratch.busy)
    assert scratch.staged == []
    assert [p for p in (tmp_path / "pilot").rglob("*") if p.is_file()] == []


async def test_the_least_recently_used_makes_room_and_a_tenth_stays_free(
    tmp_path: Path, scratch: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, c = (model(tmp_path, name, 3000) for name in "abc")
    disk(monkeypatch, tmp_path / "pilot", 6600)  # two of 3,000 bytes each would leave less than 660
    for wish in (a, b):
        scratch.want([wish])
        await until(lambda: not scratch.busy)
    assert scratch.staged == ["b"]
    disk(monkeypatch, tmp_path / "pilot", 10_000)
    scratch.want([a])
    await until(lambda: not scratch.busy)
    assert scratch.staged == ["a", "b"]
    await scratch.nearest(b.path)
    scratch.want([c])
    await until(lambda: not scratch.busy)
    assert scratch.staged == ["b", "c"]


async def test_what_a_replica_came_from_stays_and_nothing_is_dropped_in_vain(
    tmp_path: Path, scratch: Staging, used: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, big = model(tmp_path, "a", 3000), model(tmp_path, "b", 9500)
    disk(monkeypatch, tmp_path / "pilot", 10_000)
    scratch.want([a])
    await until(lambda: not scratch.busy)
    scratch.want([big])
    await until(lambda: not scratch.busy)
    assert scratch.staged == ["a"], "dropping it would not have helped"
    used.add(a.path)
    c = model(tmp_path, "c", 7000)
    scratch.want([c])
    await until(lambda: not scratch.busy)
    assert scratch.staged == ["a"], "its engine may read it yet"


async def test_a_copy_that_nobody_wants_any_more_is_broken_off(
    tmp_path: Path, scratch: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    wish, other = model(tmp_path), model(tmp_path, "other")
    begun = threading.Event()

    def slowly(source: Path, target: Path, files: module.Files, stop: threading.Event) -> None:
        begun.set()
        if source == Path(wish.path):
            assert stop.wait(60)
        copy_files(source, target, files, stop)

    monkeypatch.setattr(module, "copy_files", slowly)
    scratch.want([wish])
    await until(begun.is_set)
    scratch.want([other])
    await until(lambda: not scratch.busy)
    assert scratch.staged == []
    scratch.want([other])
    await until(lambda: not scratch.busy)
    assert scratch.staged == ["other"]


async def test_memory_is_no_disk(tmp_path: Path, scratch: Staging, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "filesystem_of", lambda folder: "tmpfs")
    scratch.want([model(tmp_path)])
    await until(lambda: not scratch.busy)
    assert scratch.staged == []


async def test_only_the_copying_thread_steps_back(
    tmp_path: Path, scratch: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    nice: list[int] = []

    def copied(*given: object) -> None:
        nice.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        copy_files(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "copy_files", copied)
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    scratch.want([model(tmp_path)])
    await until(lambda: scratch.staged)
    assert nice == [19]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


def test_an_earlier_agents_copies_are_swept_away(tmp_path: Path) -> None:
    (tmp_path / "staged" / "1.part").mkdir(parents=True)
    Staging(tmp_path, lambda: None, set)
    assert not (tmp_path / "staged").exists()


def test_the_file_system_of_a_folder_is_that_of_the_nearest_mount() -> None:
    assert filesystem_of(Path("/proc/self")) == "proc"
    assert filesystem_of(Path("/")) not in ("", "proc")


def test_a_folder_is_told_apart_by_names_sizes_and_times(tmp_path: Path) -> None:
    wish = model(tmp_path)
    before = files_of(Path(wish.path))
    os.utime(Path(wish.path) / "config.json", ns=(1, 1))
    assert files_of(Path(wish.path)) != before
