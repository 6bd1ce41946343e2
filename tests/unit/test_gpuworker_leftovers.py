"""What a killed pilot leaves on scratch: swept by the next one, and nothing else ever is."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gpuworker import leftovers

HOLD = """
import signal, sys
from gpuworker import leftovers
print(leftovers.marked_folder(sys.argv[1]), flush=True)
signal.pause()
"""


def test_a_folder_is_swept_once_its_process_was_killed_and_not_before(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        folder = Path(holder.stdout.readline().strip())
        (folder / "staged").mkdir()
        (folder / "staged" / "weights").write_text("x")
        assert leftovers.sweep(str(tmp_path)) == []
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert leftovers.sweep(str(tmp_path)) == [str(folder)]
    assert list(tmp_path.iterdir()) == []


def test_what_bears_no_mark_of_this_node_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "berth-else").mkdir()
    (tmp_path / "berth-file").write_text("x")
    far = tmp_path / "berth-far"
    far.mkdir()
    (far / "alive-far").touch()
    monkeypatch.setattr(socket, "gethostname", lambda: "near")
    mine = tmp_path / "kept"
    mine.mkdir()
    (mine / "alive-near").touch()
    (tmp_path / "berth-link").symlink_to(mine)
    assert leftovers.sweep(str(tmp_path)) == []
    assert (mine / "alive-near").exists()
    assert far.exists()


def test_a_folder_of_another_user_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "berth-x"
    folder.mkdir()
    (folder / f"alive-{socket.gethostname()}").touch()
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    assert leftovers.sweep(str(tmp_path)) == []
    monkeypatch.undo()
    assert leftovers.sweep(str(tmp_path)) == [str(folder)]


def test_a_marked_folder_is_private_and_kept_while_this_process_lives(tmp_path: Path) -> None:
    folder = leftovers.marked_folder(str(tmp_path))
    assert Path(folder).stat().st_mode & 0o077 == 0
    assert leftovers.sweep(str(tmp_path)) == []
