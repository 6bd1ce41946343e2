"""Wishes to have a model's weights near → copies of its folder on the job's node-local scratch, ahead of need.

Separate from everything that serves: staging is a favour. It copies one folder at a time, at the lowest priority, never
fills the disk, and whatever goes wrong is a line in the log: a replica then reads its weights from where they lie.
The copies are inside the pilot's own folder, which goes when the job ends, however the agent ended.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from gpuworker.wire import StageWish

log = logging.getLogger("berth.staging")

T = TypeVar("T")
KEPT_FREE = 0.1  # of the disk: it is not ours alone
CHUNK_BYTES = 8 * 2**20
_IN_MEMORY = ("tmpfs", "ramfs")

# Relative path → size and time of change: what tells two states of a folder apart without reading it.
Files = dict[str, tuple[int, int]]


class NotStaged(Exception):
    """The reason why there is no copy, in words."""


@dataclass(slots=True)
class Copy:
    folder: Path
    files: Files
    used_at: float


class Staging:
    """The copies of weights on this node's scratch.

    `changed` is called when a copy is complete or gone; `in_use` names the folders that live replicas came
    from.
    """

    def __init__(
        self, folder: Path, changed: Callable[[], None], in_use: Callable[[], Collection[str]]
    ) -> None:
        self._folder = folder / "staged"
        self._changed = changed
        self._in_use = in_use
        self._copies: dict[StageWish, Copy] = {}
        self._refused: dict[StageWish, str] = {}
        self._now: tuple[StageWish, asyncio.Task[None], threading.Event] | None = None
        self._thread = ThreadPoolExecutor(1, "staging", initializer=_step_back)
        self._count = 0
        # Of an agent before this one: nobody knows how complete that is.
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def staged(self) -> list[str]:
        return sorted({wish.pool for wish in self._copies})

    @property
    def busy(self) -> bool:
        return self._now is not None

    def want(self, wishes: Collection[StageWish]) -> None:
        """Start what is missing, one at a time, and break off what nobody wants any more."""
        self._refused = {wish: why for wish, why in self._refused.items() if wish in wishes}
        if self._now is not None:
            wish, _, stop = self._now
            if wish not in wishes:
                stop.set()
            return
        for wish in wishes:
            if wish not in self._copies and wish not in self._refused:
                stop = threading.Event()
                task = asyncio.create_task(self._stage(wish, stop), name=f"staging {wish.pool}")
                self._now = wish, task, stop
                return

    async def nearest(self, source: str) -> str:
        """Return the copy of a folder, if there is one that is what the folder is now; else the folder."""
        wish, copy = next(((w, c) for w, c in self._copies.items() if w.path == source), (None, None))
        if wish is None or copy is None:
            return source
        try:
            same = await asyncio.to_thread(files_of, Path(source)) == copy.files
        except (OSError, NotStaged):
            return source  # not ours to serve any more, or not there: its engine says so
        if not same:
            log.info("the weights of %s have changed since they were staged", wish.pool)
            await self._drop(wish)
            return source
        copy.used_at = time.monotonic()
        return str(copy.folder)

    async def stop(self) -> None:
        if self._now is not None:
            _, task, stop = self._now
            stop.set()
            await asyncio.wait([task])
        self._thread.shutdown(wait=False)

    async def _stage(self, wish: StageWish, stop: threading.Event) -> None:
        source = Path(wish.path)
        self._count += 1
        target, part = self._folder / str(self._count), self._folder / f"{self._count}.part"
        began = time.monotonic()
        try:
            files = await self._quietly(lambda: files_of(source))
            await self._make_room(sum(size for size, _ in files.values()))
            await self._quietly(lambda: copy_files(source, part, files, stop))
            if await self._quietly(lambda: files_of(source)) != files:
                raise NotStaged("its files changed meanwhile")
            part.rename(target)
        except Exception as error:  # noqa: BLE001 - a favour: whatever it is, not again at once
            log.warning("the weights of %s are not staged: %s", wish.pool, error or type(error).__name__)
            self._refused[wish] = str(error)
            await self._quietly(lambda: shutil.rmtree(part, ignore_errors=True))
        else:
            log.info("the weights of %s are staged, %.0f s", wish.pool, time.monotonic() - began)
            self._copies[wish] = Copy(target, files, time.monotonic())
        finally:
            self._now = None
            self._changed()

    async def _make_room(self, need: int) -> None:
        """Drop the least recently used copies until `need` bytes fit, if they would; else none. Raise
        NotStaged."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        if (kind := filesystem_of(self._folder)) in _IN_MEMORY:
            raise NotStaged(f"the scratch folder is memory ({kind}), not a disk")
        disk = shutil.disk_usage(self._folder)
        missing = need + KEPT_FREE * disk.total - disk.free
        idle = sorted(
            ((w, c) for w, c in self._copies.items() if w.path not in self._in_use()),
            key=lambda pair: pair[1].used_at,
        )
        sizes = [sum(size for size, _ in copy.files.values()) for _, copy in idle]
        if missing > sum(sizes):
            raise NotStaged(f"it needs {need // 2**20} MiB, and the disk has {disk.free // 2**20} MiB free")
        for (wish, _), size in zip(idle, sizes, strict=True):
            if missing <= 0:
                return
            await self._drop(wish)
            missing -= size

    async def _drop(self, wish: StageWish) -> None:
        if (copy := self._copies.pop(wish, None)) is not None:
            self._changed()
            await self._quietly(lambda: shutil.rmtree(copy.folder, ignore_errors=True))

    async def _quietly(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def files_of(folder: Path) -> Files:
    """List all files below, links to files as what they point to. Raise OSError, NotStaged."""
    found: Files = {}
    for where, folders, names in os.walk(folder, onerror=_raised):
        for name in folders:
            if Path(where, name).is_symlink():
                raise NotStaged(f"{name} is a link to a folder")
        for name in names:
            path = Path(where, name)
            facts = path.stat()
            if not stat.S_ISREG(facts.st_mode):
                raise NotStaged(f"{name} is not a plain file")
            found[str(path.relative_to(folder))] = facts.st_size, facts.st_mtime_ns
    if not found:
        raise NotStaged("there are no files")
    return found


def copy_files(source: Path, target: Path, files: Files, stop: threading.Event) -> None:
    """Copy files, until `stop` is set. Raise OSError, NotStaged when it was stopped."""
    buffer = memoryview(bytearray(CHUNK_BYTES))
    for name in files:
        to = target / name
        to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (source / name).open("rb", buffering=0) as read, to.open("xb", buffering=0) as write:
            while size := read.readinto(buffer):
                if stop.is_set():
                    raise NotStaged("nobody wants them any more")
                left = buffer[:size]
                while left:
                    left = left[write.write(left) :]


def filesystem_of(folder: Path) -> str:
    """Return the type of a folder's file system, e.g. "xfs"; "" where the kernel does not tell."""
    real, best, kind = str(folder.resolve()), "", ""
    try:
        lines = Path("/proc/self/mounts").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        _, mount, type_, *_ = line.split(" ")
        inside = real == mount or real.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, type_
    return kind


def _step_back() -> None:
    """Step back, this thread alone: on Linux a thread has a nice value of its own, which its turn at the
    disk follows."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def _raised(error: OSError) -> None:
    raise error
