"""One table of what a job asks of Slurm → the same job as sbatch's directives, slurmrestd's JSON, pyslurm's keywords.

Each row: a field of `JobSpec`, what its value may be, sbatch's option, and how slurmrestd (v0.0.40 and v0.0.42,
`job_desc_msg`) and pyslurm (`JobSubmitDescription`) name and shape it. Separate from the clients, so that a profile
means the same whichever of them submits it, and a value that one may not send none may send. Values are matched
against what they may be, never quoted (invariant 13). What a job's environment is, each client says itself
(docs/decisions/0005). A column that is None: that client has no words for it, and says so instead of leaving it out.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from portal.catalog import patterns
from scheduler.slurm.spec import JobSpec

Fields = dict[str, Any]
Column = Callable[[Any], Fields]
Value = str | int

PATH = patterns.PATH
NAME = r"berth-[A-Za-z0-9]{1,32}-[A-Za-z0-9_-]{1,64}"
# A gres is name[:type]:count, several joined by commas.
_GRES = r"[A-Za-z0-9_]+(:[A-Za-z0-9_.+-]+)?(:[0-9]+)?(,[A-Za-z0-9_]+(:[A-Za-z0-9_.+-]+)?(:[0-9]+)?)*"
_YEAR_MIN = patterns.MOST["walltime_min"]
_MEM_MB = patterns.MOST["mem_mb"]


class BadDirective(ValueError):
    """A value that may not stand in a job. `field` names it; `why` is a sentence, where there is more to say."""

    def __init__(self, field: str, value: object, why: str = "") -> None:
        super().__init__(f"{field}: {why or f'{value!r} is not allowed in a job script'}")
        self.field = field


@dataclass(frozen=True, slots=True)
class Directive:
    """A row. `allowed`: a pattern of the whole value, or the least and the most; "" and 0 leave a directive out where
    it may be left out. `text`: the value after sbatch's "="; "" for a flag."""

    field: str
    option: str
    allowed: str | tuple[int, int]
    rest: Column | None
    native: Column | None
    text: Callable[[Any], str] = str
    required: bool = False


@dataclass(frozen=True, slots=True)
class Fixed:
    """A row that is the same for every job."""

    option: str
    text: str
    rest: Fields
    native: Fields


def _as(name: str, shape: Callable[[Any], Any] = lambda value: value) -> Column:
    return lambda value: {name: shape(value)}


def _number(value: int) -> Fields:
    """Return a number as slurmrestd writes one that may be missing."""
    return {"set": True, "infinite": False, "number": value}


def _mib(value: int) -> str:
    return f"{value}M"


def _tres(gres: str) -> str:
    """Return "gpu:a100:4,shard:2" as "gres/gpu:a100:4,gres/shard:2"."""
    return ",".join(f"gres/{one}" for one in gres.split(","))


def _gres_dict(gres: str) -> dict[str, int]:
    """Return "gpu:a100:4,shard" as {"gpu:a100": 4, "shard": 1}."""
    found = {}
    for one in gres.split(","):
        kind, _, count = one.rpartition(":")
        found[kind if count.isdigit() and kind else one] = int(count) if count.isdigit() and kind else 1
    return found


def _split(value: str) -> list[str]:
    return value.split(",")


def _warning(seconds: int) -> Fields:
    return {
        "kill_warning_flags": ["BATCH_JOB"],
        "kill_warning_signal": "USR2",
        "kill_warning_delay": _number(seconds),
    }


def _switches(value: str) -> tuple[int, int]:
    """Return "2@10" as the count and the seconds to wait for it; 0 = for as long as the site says."""
    count, _, minutes = value.partition("@")
    return int(count), int(minutes or 0) * 60


def _rest_switches(value: str) -> Fields:
    count, wait_s = _switches(value)
    return {"required_switches": _number(count), **({"wait_for_switch": wait_s} if wait_s else {})}


def _size_mib(value: str) -> int:
    """Return sbatch's size (MiB unless it has a unit) in MiB, rounded up."""
    kib = {"K": 1, "M": 1024, "G": 1024**2, "T": 1024**3}
    number, unit = (value[:-1], value[-1]) if value[-1] in kib else (value, "M")
    return -(-int(number) * kib[unit] // 1024)


DIRECTIVES: tuple[Directive, ...] = (
    Directive("name", "job-name", NAME, _as("name"), _as("name"), required=True),
    Directive(
        "nodes",
        "nodes",
        (1, patterns.MOST["nodes"]),
        lambda n: {"minimum_nodes": n, "maximum_nodes": n},
        _as("nodes", str),
    ),
    Directive("nodes", "ntasks", (1, patterns.MOST["nodes"]), _as("tasks"), _as("ntasks")),
    Directive(
        "cpus", "cpus-per-task", (1, patterns.MOST["cpus"]), _as("cpus_per_task"), _as("cpus_per_task")
    ),
    Directive("limit_min", "time", (1, _YEAR_MIN), _as("time_limit", _number), _as("time_limit")),
    Directive(
        "least_limit_min", "time-min", (0, _YEAR_MIN), _as("time_minimum", _number), _as("time_limit_min")
    ),
    Directive(
        "mem_mb", "mem", (0, _MEM_MB), _as("memory_per_node", _number), _as("memory_per_node", _mib), _mib
    ),
    Directive(
        "mem_per_gpu_mb",
        "mem-per-gpu",
        (0, _MEM_MB),
        _as("memory_per_tres", lambda mib: f"gres/gpu:{mib}"),
        _as("memory_per_gpu", _mib),
        _mib,
    ),
    Directive("partition", "partition", patterns.WORDS, _as("partition"), _as("partitions", _split)),
    Directive("account", "account", patterns.WORD, _as("account"), _as("account")),
    Directive("qos", "qos", patterns.WORD, _as("qos"), _as("qos")),
    Directive("gres", "gres", _GRES, _as("tres_per_node", _tres), _as("gres_per_node", _gres_dict)),
    Directive(
        "gpus_per_node",
        "gpus-per-node",
        patterns.GPUS,
        _as("tres_per_node", lambda gpus: _tres(f"gpu:{gpus}")),
        _as("gres_per_node", lambda gpus: _gres_dict(f"gpu:{gpus}")),
    ),
    Directive("constraint", "constraint", patterns.FEATURES, _as("constraints"), _as("constraints")),
    Directive("reservation", "reservation", patterns.WORDS, _as("reservation"), _as("reservations", _split)),
    Directive("licenses", "licenses", patterns.LICENCES, _as("licenses"), _as("licenses", _split)),
    Directive(
        "exclusive",
        "exclusive",
        patterns.EXCLUSIVE,
        lambda who: {"shared": ["none" if who == "node" else who]},
        lambda who: {"resource_sharing": "no" if who == "node" else who},
        lambda who: "" if who == "node" else str(who),
    ),
    Directive("nice", "nice", (0, patterns.MOST_NICE), _as("nice"), _as("nice")),
    Directive("wckey", "wckey", patterns.WORD, _as("wckey"), _as("wckey")),
    Directive(
        "exclude", "exclude", patterns.WORDS, _as("excluded_nodes", _split), _as("excluded_nodes", _split)
    ),
    Directive(
        "signal_s",
        "signal",
        (0, 65535),
        _warning,
        lambda s: {"signal": {"signal": int(signal.SIGUSR2), "time": s, "batch_only": True}},
        lambda s: f"B:USR2@{s}",
    ),
    Directive("log_path", "output", PATH, _as("standard_output"), _as("standard_output"), required=True),
    Directive("log_path", "error", PATH, _as("standard_error"), _as("standard_error"), required=True),
)

FIXED: tuple[Fixed, ...] = (
    Fixed("open-mode", "append", {"open_mode": ["APPEND"]}, {"log_files_open_mode": "append"}),
    Fixed("chdir", "/", {"current_working_directory": "/"}, {"working_directory": "/"}),
    Fixed("no-requeue", "", {"requeue": False}, {"is_requeueable": False}),
)

# Option → slurmrestd, pyslurm. What pyslurm 25.11 has a keyword for and sends wrongly is left out: switches,
# cpu_frequency, min_cpus_per_node, gpu_binding (tests/slurm/test_one_table.py).
_EXTRA: dict[str, tuple[Column | None, Column | None]] = {
    "acctg-freq": (_as("account_gather_frequency"), None),
    "cluster-constraint": (_as("cluster_constraint"), _as("cluster_constraints")),
    "comment": (_as("comment"), _as("comment")),
    "contiguous": (_as("contiguous", lambda _: True), _as("requires_contiguous_nodes", lambda _: True)),
    "core-spec": (_as("core_specification", int), _as("cores_reserved_for_system", int)),
    "cores-per-socket": (None, _as("cores_per_socket", int)),
    "cpu-freq": (_as("cpu_frequency"), None),
    "gpu-bind": (_as("tres_bind", lambda how: f"gres/gpu:{how}"), None),  # pyslurm's does not name the GPUs
    "gpu-freq": (_as("tres_freq", lambda how: f"gpu:{how}"), None),
    "gres-flags": (
        _as("flags", lambda how: [f"GRES_BINDING_{how.partition('-')[0].upper()}D"]),
        _as("gres_binding"),
    ),
    "hint": (None, None),
    "mail-type": (lambda _: {}, lambda _: {}),  # none is what they send anyway
    "mcs-label": (_as("mcs_label"), _as("mcs_label")),
    "mincpus": (_as("minimum_cpus_per_node", int), None),  # pyslurm's is the least of all nodes together
    "network": (_as("network"), _as("network")),
    "prefer": (_as("prefer"), None),
    "sockets-per-node": (_as("sockets_per_node", int), _as("sockets_per_node", int)),
    "switches": (_rest_switches, None),
    "thread-spec": (_as("thread_specification", int), _as("threads_reserved_for_system", int)),
    "threads-per-core": (_as("threads_per_core", int), _as("threads_per_core", int)),
    "tmp": (_as("temporary_disk_per_node", _size_mib), _as("temporary_disk_per_node", _size_mib)),
}
EXTRA: dict[str, Directive] = {
    name: Directive(f"extra.{name}", name, patterns.EXTRA[name], rest, native)
    for name, (rest, native) in _EXTRA.items()
}


def check(spec: JobSpec) -> None:
    """Raise BadDirective for the first value that may not stand in a job, in whichever form it is sent."""
    for row in DIRECTIVES:
        _check_value(row, getattr(spec, row.field))
    if spec.least_limit_min > spec.limit_min:
        raise BadDirective("least_limit_min", spec.least_limit_min)
    if spec.mem_mb and spec.mem_per_gpu_mb:
        raise BadDirective("mem_per_gpu_mb", spec.mem_per_gpu_mb, "stands instead of mem_mb, not beside it")
    if len({name for name, _ in spec.extra}) < len(spec.extra):
        raise BadDirective("extra", spec.extra)
    for name, value in spec.extra:
        if name not in EXTRA:
            raise BadDirective("extra", name, patterns.extra_refused(name, value))
        if not patterns.matches(patterns.EXTRA[name], value):
            raise BadDirective(f"extra.{name}", value)


def sbatch_options(spec: JobSpec) -> list[str]:
    """Return what stands after "#SBATCH ", without the spec being checked: `render` does that."""
    lines = [_option(row.option, row.text(value)) for row, value in _asked(spec)]
    return [*lines, *(_option(row.option, row.text) for row in FIXED)]


def rest_fields(spec: JobSpec) -> Fields:
    """Return slurmrestd's `job` but for its script and environment. Raises BadDirective."""
    return _fields(spec, "slurmrestd", lambda row: row.rest, [row.rest for row in FIXED])


def native_fields(spec: JobSpec) -> Fields:
    """Return JobSubmitDescription's keywords but for script and environment. Raises BadDirective."""
    return _fields(spec, "pyslurm", lambda row: row.native, [row.native for row in FIXED])


def _asked(spec: JobSpec) -> Iterator[tuple[Directive, Value]]:
    for row in DIRECTIVES:
        value = getattr(spec, row.field)
        if value or row.required:
            yield row, value
    for name, value in spec.extra:
        yield EXTRA[name], value


def _fields(
    spec: JobSpec, client: str, column: Callable[[Directive], Column | None], fixed: list[Fields]
) -> Fields:
    check(spec)
    found: Fields = {}
    for row, value in _asked(spec):
        fields = column(row)
        if fields is None:
            why = (
                f"{client} has no words for --{row.option}: submit through Slurm's commands, or leave it out"
            )
            raise BadDirective(row.field, value, why)
        for name, shaped in fields(value).items():
            found[name] = _both(found[name], shaped) if name in found else shaped
    for fields_of_all in fixed:
        found |= fields_of_all
    return found


def _both(one: Any, other: Any) -> Any:
    """Return two values of one field as one: a gres and GPUs per node are the same field."""
    if isinstance(one, dict):
        return {**one, **other}
    return [*one, *other] if isinstance(one, list) else f"{one},{other}"


def _option(name: str, text: str) -> str:
    return f"--{name}={text}" if text else f"--{name}"


def _check_value(row: Directive, value: object) -> None:
    if isinstance(row.allowed, tuple):
        low, high = row.allowed
        if type(value) is not int or not low <= value <= high:
            raise BadDirective(row.field, value)
    elif value != "" or row.required:
        check_text(row.field, row.allowed, value)


def check_text(field: str, pattern: str, value: object) -> None:
    """Raise BadDirective unless the whole value matches, and leads to no folder above."""
    if not patterns.matches_text(pattern, value):
        raise BadDirective(field, value)
