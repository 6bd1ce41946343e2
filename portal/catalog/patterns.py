"""What the values that people write into a profile may be before they become directives of a job (invariant 13).

Patterns only, matched against the whole value: nothing here is quoted into harmlessness. Separate from the rules of
the catalog, because the table of directives (`scheduler.slurm.directives`) takes the same patterns: what the admin's
form lets through is what a job script takes, and the other way round. Knows no Django.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

WORD = r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}"
WORDS = rf"{WORD}(,{WORD})*"
# Features with Slurm's operators: a100&nvlink, (rack1|rack2), [ib*2&eth*1]; sites name them gpu_mem:80gb, too.
FEATURES = r"[A-Za-z0-9\[(][A-Za-z0-9_.+:=*|&,()\[\]-]{0,255}"
# name[@server][:count], several joined by "," (all of them) or "|" (any of them).
LICENCES = rf"{WORD}(@{WORD})?(:[0-9]{{1,6}})?([,|]{WORD}(@{WORD})?(:[0-9]{{1,6}})?)*"
GPUS = rf"({WORD}:)?[0-9]{{1,4}}"  # [type:]count; MIG's types begin with a digit
# Folders and files that a shell takes as they stand, without a slash at the end. `matches_text` refuses "..", too.
PATH = r"(/[A-Za-z0-9_.+@-]+)+"
PROGRAM = rf"{WORD}|{PATH}"
DOOR_ADDRESS = r"[A-Za-z0-9:][A-Za-z0-9.:_-]{0,63}(/[0-9]{1,3})?"
DOOR_PORTS = r"[0-9]{1,5}(-[0-9]{1,5})?"
EXCLUSIVE = r"node|user|mcs"
MOST_NICE = 2_000_000_000
MOST: Mapping[str, int] = {
    "cpus": 4096,
    "gpus": 4096,
    "nodes": 1024,
    "mem_mb": 64 * 2**20,
    "walltime_min": 60 * 24 * 365,
    "walltime_least_min": 60 * 24 * 365,
}
"""A profile's numbers → the most that a job may ask for."""
_COUNT = r"[0-9]{1,6}"
_SIZE = r"[0-9]{1,9}[KMGT]?"
FLAG = ""  # stands alone; written as true

EXTRA: Mapping[str, str] = {
    "acctg-freq": r"[A-Za-z0-9=,]{1,64}",
    "cluster-constraint": rf"!?{FEATURES}",
    "comment": r"[A-Za-z0-9][A-Za-z0-9_.,:=@/+-]{0,199}",
    "contiguous": FLAG,
    "core-spec": _COUNT,
    "cores-per-socket": _COUNT,
    "cpu-freq": r"[A-Za-z0-9][A-Za-z0-9:-]{0,63}",
    "gpu-bind": r"[A-Za-z][A-Za-z0-9_:,.*x-]{0,127}",
    "gpu-freq": r"[A-Za-z0-9][A-Za-z0-9=,_]{0,63}",
    "gres-flags": r"enforce-binding|disable-binding",
    "hint": r"compute_bound|memory_bound|multithread|nomultithread",
    "mail-type": r"none|NONE",
    "mcs-label": WORD,
    "mincpus": _COUNT,
    "network": r"[A-Za-z][A-Za-z0-9_=,.:-]{0,127}",
    "prefer": FEATURES,
    "sockets-per-node": _COUNT,
    "switches": r"[0-9]{1,4}(@[0-9]{1,5})?",  # count[@minutes]
    "thread-spec": _COUNT,
    "threads-per-core": _COUNT,
    "tmp": _SIZE,
}
"""Directives that a profile may add, by sbatch's long names → what their values may be. Minutes, MiB unless a unit says
otherwise; FLAG for those that take no value."""

NO_WORDS: Mapping[str, frozenset[str]] = {
    "rest": frozenset({"cores-per-socket", "hint"}),
    "native": frozenset(
        {"acctg-freq", "cpu-freq", "gpu-bind", "gpu-freq", "hint", "mincpus", "prefer", "switches"}
    ),
}
"""Of those, by kind of access, what its client cannot ask for: the table of directives has no column for it."""

_FIELDS = {
    "account": "account", "constraint": "constraint", "cpus-per-task": "cpus", "exclude": "", "exclusive": "exclusive",
    "gpus": "gpus", "gpus-per-node": "gpu_request", "gres": "gpu_request", "licenses": "licenses", "mem": "mem_mb",
    "mem-per-gpu": "mem_request", "nice": "nice", "partition": "partition", "qos": "qos",
    "reservation": "reservation", "time": "walltime_min", "time-min": "walltime_least_min", "wckey": "wckey",
}  # fmt: skip
_OURS = {
    **dict.fromkeys(("job-name",), "Berth finds its jobs again by their names"),
    **dict.fromkeys(("output", "error", "input", "open-mode"), "Berth reads a job's log where it had it written"),
    **dict.fromkeys(("requeue", "no-requeue"), "Berth starts a new job itself; one that is put back would be two"),
    **dict.fromkeys(("signal",), "Berth tells its agent by a signal that the end is near"),
    **dict.fromkeys(
        ("export", "export-file", "get-user-env", "propagate"), "a job starts with an empty environment"
    ),
    **dict.fromkeys(("array", "dependency", "hold", "begin", "deadline"), "Berth decides when which job is to run"),
    **dict.fromkeys(("wrap", "container", "container-id", "chdir", "bcast"), "the job's script is Berth's"),
    **dict.fromkeys(("uid", "gid"), "jobs run as the account that submits them"),
    **dict.fromkeys(
        ("nodes", "ntasks", "ntasks-per-node", "ntasks-per-gpu", "ntasks-per-core", "ntasks-per-socket"),
        "a job has one agent on each of its nodes",
    ),
    **dict.fromkeys(("nodelist", "nodefile", "exclude"), "Berth leaves out nodes that fail; name a constraint instead"),
    **dict.fromkeys(("clusters", "cluster"), "a profile has its cluster"),
    **dict.fromkeys(("mem-per-cpu",), "Berth plans with a job's memory; write mem_mb and mem_request"),
    **dict.fromkeys(
        ("gpus-per-task", "gpus-per-socket", "cpus-per-gpu"), "Berth plans with a job's GPUs and CPUs; write those"
    ),
    **dict.fromkeys(("mail-user",), "Berth sends its own notices"),
    **dict.fromkeys(("parsable", "quiet", "test-only", "verbose", "wait"), "it changes what Berth hears"),
}  # fmt: skip


def matches(pattern: str, value: object) -> bool:
    """Tell whether the whole value is what the pattern allows."""
    # fullmatch, because $ would let a trailing newline through.
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


def matches_text(pattern: str, value: object) -> bool:
    """Tell whether the whole value is what the pattern allows, and leads to no folder above."""
    return matches(pattern, value) and "/../" not in f"{value}/"


def extra_text(value: object) -> str | None:
    """Return a directive's value as it stands in a script: true is a flag (""), numbers become digits; None is none."""
    if value is True:
        return FLAG
    if isinstance(value, str) and value:
        return value
    return str(value) if type(value) is int and value >= 0 else None


def extra_refused(name: str, value: object) -> str:
    """Return why a profile may not ask for this in a sentence; "" where it may."""
    if name not in EXTRA:
        return _not_offered(name)
    if EXTRA[name] == FLAG:
        return "" if value is True else f"{name} takes no value: write true, or leave it out."
    text = extra_text(value)
    if not text or not matches(EXTRA[name], text):
        return f"{name} cannot be {value!r}."
    return ""


def extra_unsaid(extra: Mapping[str, Any], kind: str) -> list[str]:
    """Return why an access of this kind cannot ask for some of them, in sentences."""
    client = {"rest": "slurmrestd", "native": "pyslurm"}.get(kind, kind)
    return [
        f"{client} has no words for {name}: choose an access of kind cli, or leave {name} out."
        for name in sorted(NO_WORDS.get(kind, frozenset()).intersection(extra))
    ]


def extra_pairs(extra: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return them as (name, text), sorted, those that are not allowed too: whoever renders refuses these by name."""
    found = ((str(name), value, extra_text(value)) for name, value in sorted(extra.items()))
    # A blank stands in no directive: what is no value must not pass for a flag, or for a word.
    return tuple((name, f" {value!r}" if text is None else text) for name, value, text in found)


def _not_offered(name: str) -> str:
    if field := _FIELDS.get(name):
        return f"{name} has a field of its own: {field}."
    if why := _OURS.get(name):
        return f"{name} cannot be set: {why}."
    return f"{name} is none of the directives that a profile may add. There are: {', '.join(sorted(EXTRA))}."
