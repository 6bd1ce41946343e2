"""What each verb of each Slurm client does in each situation: asked for by the contract suite, written down as JSON, and
shown as the tables of docs/slurm-clients.md.

The suite compares every outcome with `expected`; with SLURM_OUTCOMES=1 it also writes what it saw to
tests/slurm/outcomes/, and `python -m tests.slurm.outcomes` writes the page's tables from there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from scheduler.slurm.protocol import NoAnswer, NotOffered, Rejected

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).with_name("outcomes")
PAGE = ROOT / "docs" / "slurm-clients.md"
BEGIN, END = "<!-- outcomes: written by `python -m tests.slurm.outcomes` -->", "<!-- end of outcomes -->"

CORE = ("submit", "jobs", "cancel", "partitions", "reservations")
CAPABILITIES = ("estimate_start", "usage", "accounts", "log_tail", "forget")
VERBS = (*CORE, *CAPABILITIES)
# What Slurm is not asked for: these read and remove files.
_FILES = ("log_tail", "forget")

SITUATIONS = {
    "well": "Slurm is well",
    "refused": "a partition that does not exist",
    "denied": "permission denied: a partition that this user may not use",
    "forbidden": "a job that this user may not cancel",
    "gone": "slurmctld has ended",
    "slow": "slurmctld stands still (SIGSTOP)",
    "late": "everything takes a while (a busy log-in node or proxy), within the limit",
    "too_late": "everything takes longer than the limit",
    "garbage": "what should answer says something else",
    "token": "the token has ended, or is not the cluster's",
    "munge": "munged stands still (SIGSTOP)",
}
ANSWER, REFUSED, SILENT, ABSENT = "answer", "refused", "no answer", "not offered"

Outcomes = dict[str, dict[str, str]]  # situation → verb → outcome


def outcome(call: Callable[[], object]) -> str:
    """Return what a call of a verb comes to. Anything but the protocol's own errors is a fault of the client."""
    try:
        call()
    except Rejected:
        return REFUSED
    except NotOffered:
        return ABSENT
    except NoAnswer:
        return SILENT
    return ANSWER


def expected(kind: str, situation: str) -> dict[str, str] | None:
    """Return what each verb must come to; None where the situation cannot befall this kind of client. Of a site without
    accounting, and with a spool that the portal sees."""
    if situation == "token" and kind != "rest":
        return None
    usual = dict.fromkeys(VERBS, ANSWER) | dict.fromkeys(("usage", "accounts"), ABSENT)
    if kind != "cli":
        usual |= dict.fromkeys(("estimate_start", "forget"), ABSENT)
    if situation in ("well", "late"):
        return usual
    if situation in ("refused", "denied"):
        return {verb: REFUSED for verb in ("submit", "estimate_start") if usual[verb] == ANSWER}
    if situation == "forbidden":
        return {"cancel": REFUSED}
    if kind == "rest" and situation == "munge":
        return usual  # tokens take munge's place
    asked = {verb: SILENT for verb in VERBS if verb not in _FILES and usual[verb] != ABSENT}
    if kind == "native" or (kind == "cli" and situation == "garbage"):
        # They do not know whether there is accounting before they have asked.
        asked |= {"usage": SILENT, "accounts": SILENT}
    if situation == "too_late":
        # Nobody knows whether there is accounting; and the commands' shell reads and removes the files, too.
        asked |= dict.fromkeys(
            (*_FILES, "usage", "accounts") if kind == "cli" else ("usage", "accounts"), SILENT
        )
    if kind == "cli" and situation == "garbage":
        # scancel says nothing where it succeeds: what it prints is not looked at, the next listing shows the job.
        asked |= {"cancel": ANSWER}
    return usual | asked


def record(kind: str, release: str, situation: str, seen: Mapping[str, str]) -> None:
    """Write down what was seen, where that was asked for."""
    if not os.environ.get("SLURM_OUTCOMES"):
        return
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{kind}-{release}.json"
    known: Outcomes = json.loads(path.read_text()) if path.exists() else {}
    known[situation] = {verb: seen[verb] for verb in VERBS if verb in seen}
    ordered = {name: known[name] for name in SITUATIONS if name in known}
    path.write_text(json.dumps(ordered, indent=1) + "\n")


def committed() -> dict[tuple[str, str], Outcomes]:
    """Return what was written down, by kind of client and release."""
    found = {}
    for path in sorted(FOLDER.glob("*.json")):
        kind, _, release = path.stem.partition("-")
        found[kind, release] = json.loads(path.read_text())
    order = ("cli", "rest", "native")
    return dict(sorted(found.items(), key=lambda item: (order.index(item[0][0]), item[0][1])))


def tables(found: Mapping[tuple[str, str], Outcomes]) -> str:
    """Return one table per situation: verbs down, clients and releases across."""
    clients = list(found)
    parts = []
    for situation, words in SITUATIONS.items():
        having = [client for client in clients if situation in found[client]]
        if not having:
            continue
        verbs = [verb for verb in VERBS if any(verb in found[client][situation] for client in having)]
        head = " | ".join(f"{kind} {release}" for kind, release in having)
        lines = [f"**{words[0].upper()}{words[1:]}**", "", f"| | {head} |", "|---" * (len(having) + 1) + "|"]
        for verb in verbs:
            cells = " | ".join(found[client][situation].get(verb, "–") for client in having)
            lines.append(f"| `{verb}` | {cells} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def page(text: str, found: Mapping[tuple[str, str], Outcomes]) -> str:
    """Return the page's text with the tables put between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables(found)}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(), committed()))
    print(f"wrote {PAGE}")
