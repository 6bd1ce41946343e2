"""A job spec as the text of a batch script: pure, the same spec always gives the same text.

Every value that reaches a directive or the shell is matched against a pattern of what such a value may be;
nothing is quoted into harmlessness (invariant 13). What does not match raises `BadDirective`, naming the
field. The only free text is the profile's prologue, which an administrator wrote as shell. The directives
come from one table (`directives`), the template only loops over them.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path, PurePosixPath

import jinja2

from portal.catalog import patterns
from scheduler.slurm import directives
from scheduler.slurm.directives import PATH, BadDirective, check_text
from scheduler.slurm.spec import JobSpec

__all__ = ["BadDirective", "check", "render"]

TEMPLATES = Path(__file__).resolve().parents[2] / "slurm_templates"

# Words of the script that are no directives → whether they may be empty.
_WORDS = {
    "pilot": (r"[A-Za-z0-9_-]{1,64}", False),
    "agent_python": (patterns.PROGRAM, False),
    "agent_home": (PATH, False),
    "door_address": (patterns.DOOR_ADDRESS, True),
    "door_ports": (patterns.DOOR_PORTS, True),
    "link": (r"direct|reverse", False),
    "scratch": (PATH, True),
}


def check(spec: JobSpec) -> None:
    """Raise BadDirective on the first field that is not allowed."""
    directives.check(spec)
    for field, (pattern, may_be_empty) in _WORDS.items():
        value = getattr(spec, field)
        if value != "" or not may_be_empty:
            check_text(field, pattern, value)
    if type(spec.gpus) is not int or not 0 <= spec.gpus <= patterns.MOST["gpus"]:
        raise BadDirective("gpus", spec.gpus)
    check_text("secret.path", PATH, spec.secret.path)
    if "\n" in spec.secret.text or "\0" in spec.secret.text:
        raise BadDirective("secret.text", "<secret>")
    if "\0" in spec.prologue:
        raise BadDirective("prologue", spec.prologue)


def render(spec: JobSpec, template: str = "pilot.sh.j2") -> str:
    """Return the script's text. Raises BadDirective."""
    check(spec)
    folder = str(PurePosixPath(spec.log_path).parent)
    options = directives.sbatch_options(spec)
    return _environment().get_template(template).render(spec=spec, options=options, log_folder=folder)


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
