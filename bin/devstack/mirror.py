"""Turns the sources that this machine's apt is set up with into the Debian mirror that other releases come from.

Separate from `trees`, so that no host is named in our code: who has a mirror of their own gets trees from it, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from devstack.say import StepFailed

APT = Path("/etc/apt")
OS_RELEASE = Path("/etc/os-release")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


@dataclass(frozen=True)
class Mirror:
    """A mirror: where Debian's packages are, and the file with the keys that sign its releases."""

    uri: str
    keyring: str


@dataclass(frozen=True)
class _Entry:
    """One source of binary packages. `signed_by` is empty where apt is told nothing."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str


def find(apt: Path = APT, os_release: Path = OS_RELEASE) -> Mirror:
    """Return the mirror of the first source that has this machine's own Debian release.

    Raises StepFailed on a machine that is no Debian, and where no source has its release.
    """
    system = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', _text(os_release), re.MULTILINE))
    codename = system.get("VERSION_CODENAME", "")
    if system.get("ID") != "debian" or not codename:
        raise StepFailed("other releases of Slurm come from a Debian mirror, and this machine is no Debian")
    for entry in _entries(apt):
        if codename in entry.suites and "main" in entry.components:
            return Mirror(entry.uri.rstrip("/"), entry.signed_by or KEYRING)
    raise StepFailed(
        f"apt's sources in {apt} name no mirror that has {codename}",
        f"add one, e.g. in {apt}/sources.list.d/debian.sources",
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _entries(apt: Path) -> Iterator[_Entry]:
    folder = apt / "sources.list.d"
    for path in [apt / "sources.list", *sorted(folder.glob("*.list"))]:
        yield from filter(None, map(_of_line, _text(path).splitlines()))
    for path in sorted(folder.glob("*.sources")):
        for stanza in re.split(r"\n\s*\n", _text(path)):
            yield from _of_stanza(stanza)


def _of_line(line: str) -> _Entry | None:
    """Read `deb [options] uri suite component…`, the older of the two forms."""
    found = re.match(r"\s*deb\s+(?:\[(?P<options>[^]]*)\]\s*)?(?P<words>[^#]+)", line)
    words = found["words"].split() if found else []
    if found is None or len(words) < 3:
        return None
    signed = re.search(r"signed-by=(/\S+)", found["options"] or "", re.IGNORECASE)
    return _Entry(words[0], (words[1],), tuple(words[2:]), signed.group(1) if signed else "")


def _of_stanza(stanza: str) -> Iterator[_Entry]:
    """Read `Types: deb`, `URIs: …`, `Suites: …`: the newer form. A key inside the stanza is left to apt's
    own folder."""
    lines = [line for line in stanza.splitlines() if not line.startswith("#")]
    fields = dict(re.findall(r"^([\w-]+):[ \t]*(.*)$", "\n".join(lines), re.MULTILINE))
    fields = {name.lower(): value.split() for name, value in fields.items()}
    if "deb" not in fields.get("types", []) or fields.get("enabled", ["yes"])[:1] == ["no"]:
        return
    signed = [word for word in fields.get("signed-by", []) if word.startswith("/")]
    for uri in fields.get("uris", []):
        yield _Entry(
            uri, tuple(fields.get("suites", [])), tuple(fields.get("components", [])), "".join(signed[:1])
        )
