"""One reader of files that hold secrets: what others may read, or have put there, is refused, and said in words."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from portal.config.installation import kept
from portal.config.secret_files import SecretFileError, read_secret


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.touch(mode=0o600)
    path.write_text(" s3cret\n")
    return path


def test_the_text_of_a_private_file(file: Path) -> None:
    assert read_secret(file) == "s3cret"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610])
def test_what_others_may_touch_is_refused(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(SecretFileError, match=rf"may be read by others.*chmod 600 {file}"):
        read_secret(file)


def test_a_file_of_somebody_else_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        os.chown(file, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(SecretFileError, match="belongs to another user"):
        read_secret(file)


def test_a_link_is_judged_by_the_file_that_it_leads_to(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(file)
    assert read_secret(link) == "s3cret"
    file.chmod(0o644)
    with pytest.raises(SecretFileError, match="may be read by others"):
        read_secret(link)


@pytest.mark.parametrize(
    ("data", "says"),
    [(b"", "is empty"), (b" \n", "is empty"), (b"\xff", "no text"), (b"x" * 65_537, "longer")],
)
def test_what_is_no_secret_is_said(file: Path, data: bytes, says: str) -> None:
    file.write_bytes(data)
    with pytest.raises(SecretFileError, match=says):
        read_secret(file)


def test_what_is_not_there_or_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(SecretFileError, match="nothing: No such file"):
        read_secret(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe", mode=0o600)
    for name, says in ((".", "Is a directory"), ("pipe", "is no file")):
        with pytest.raises(SecretFileError, match=says):
            read_secret(tmp_path / name)


def test_a_key_that_was_made_is_read_by_the_same_rules(tmp_path: Path) -> None:
    path = tmp_path / "state" / "site.key"
    assert kept(path, lambda: "made") == kept(path, lambda: "another") == "made"
    path.chmod(0o644)
    with pytest.raises(SecretFileError, match="chmod 600"):
        kept(path, lambda: "another")
