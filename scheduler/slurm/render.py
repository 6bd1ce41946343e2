"""A job spec as the text of a batch script: pure, the same spec always gives the same text.

Every value that reaches a directive or the shell is matched against a pattern of what such a value may be;
nothing is quoted into harmlessness (invariant 13). What does not match raises `BadDirective`, naming the
field. The only free text is the profile's prologue, which an administrator wrote as shell.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import jinja2

from scheduler.slurm.spec import JobSpec

TEMPLATES = Path(__file__).resolve().parents[2] / "slurm_templates"

_WORD = r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}"
_WORDS = rf"{_WORD}(,{_WORD})*"
_PATH = r"(/[A-Za-z0-9_.+@-]+)+"
# A gres is name[:type]:count, several joined by commas.
_PATTERNS = {
    "name": r"berth-[A-Za-z0-9]{1,32}-[A-Za-z0-9_-]{1,64}",
    "pilot": r"[A-Za-z0-9_-]{1,64}",
    "log_path": _PATH,
    "agent_python": rf"{_WORD}|{_PATH}",
    "agent_home": _PATH,
    "partition": _WORDS,
    "account": _WORD,
    "qos": _WORD,
    "gres": r"[A-Za-z0-9_]+(:[A-Za-z0-9_.-]+)?(:[0-9]+)?(,[A-Za-z0-9_]+(:[A-Za-z0-9_.-]+)?(:[0-9]+)?)*",
    "exclude": _WORDS,
    "door_address": r"[A-Za-z0-9.:%_-]{1,100}",
    "door_ports": r"[0-9]{1,5}(-[0-9]{1,5})?",
    "link": r"direct|reverse",
    "scratch": _PATH,
}
_REQUIRED = frozenset({"link", "name", "pilot", "log_path", "agent_python", "agent_home"})
_RANGES = {
    "limit_min": (1, 60 * 24 * 365),
    "least_limit_min": (0, 60 * 24 * 365),
    "cpus": (1, 4096),
    "mem_mb": (0, 64 * 1024 * 1024),
    "signal_s": (0, 65535),
}


class BadDirective(ValueError):
    """A value that may not stand in a job script. `field` names it."""

    def __init__(self, field: str, value: object) -> None:
        super().__init__(f"{field}: {value!r} is not allowed in a job script")
        self.field = field


def check(spec: JobSpec) -> None:
    """Raises BadDirective on the first field that is not allowed."""
    for field, pattern in _PATTERNS.items():
        value = getattr(spec, field)
        if value == "" and field not in _REQUIRED:
            continue
        _match(field, pattern, value)
    for field, (low, high) in _RANGES.items():
        value = getattr(spec, field)
        if type(value) is not int or not low <= value <= high:
            raise BadDirective(field, value)
    if spec.least_limit_min > spec.limit_min:
        raise BadDirective("least_limit_min", spec.least_limit_min)
    _match("secret.path", _PATH, spec.secret.path)
    if "\n" in spec.secret.text or "\0" in spec.secret.text:
        raise BadDirective("secret.text", "<secret>")
    if "\0" in spec.prologue:
        raise BadDirective("prologue", spec.prologue)


def render(spec: JobSpec, template: str = "pilot.sh.j2") -> str:
    """The script's text. Raises BadDirective."""
    check(spec)
    return _environment().get_template(template).render(spec=spec)


def _match(field: str, pattern: str, value: object) -> None:
    # fullmatch, because $ would let a trailing newline through.
    if not isinstance(value, str) or re.fullmatch(pattern, value) is None or "/../" in f"{value}/":
        raise BadDirective(field, value)


@cache
def _environment() -> jinja2.Environment:
    # Not HTML: nothing is escaped, because nothing that would need it gets here.
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
