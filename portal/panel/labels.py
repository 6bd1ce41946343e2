"""Names of fields and tables in the code → what the admin's pages call them: units in words, abbreviations as written.

Set when all tables are loaded and not in the tables themselves: there each label would be a migration.
"""

from __future__ import annotations

from collections.abc import Iterable

from django.db import models

NAMES = {
    "args": "engine arguments",
    "asleep_mem_mb": "host memory while asleep, MiB",
    "cap": "max concurrent requests",
    "conf": "slurm.conf",
    "extra": "further directives",
    "gpu_request": "GPU directive",
    "gpu_s": "GPU-seconds",
    "gpu_type_asked": "GPU type in the directive",
    "image": "image (Apptainer)",
    "image_binds": "folders inside the image",
    "image_gpu": "GPUs inside the image",
    "licenses": "licences",
    "max_gpus": "max GPUs",
    "max_pilots": "max jobs",
    "max_replicas": "max replicas",
    "mem_mb": "host memory, MiB",
    "mem_request": "memory directive",
    "min_replicas": "min replicas",
    "oldest_s": "wait of the next request, seconds",
    "slug": "short name",
    "wait_p50_s": "median wait, seconds",
    "wait_p90_s": "90th percentile wait, seconds",
    "wait_p95_s": "95th percentile wait, seconds",
    "walltime_least_min": "minimum walltime, minutes",
    "wckey": "WCKey",
}
UNITS = {"s": "seconds", "mb": "MiB", "min": "minutes"}
WRITTEN = {
    "api": "API", "cpu": "CPU", "cpus": "CPUs", "gpu": "GPU", "gpus": "GPUs", "http": "HTTP", "id": "ID", "ip": "IP",
    "mem": "memory", "qos": "QOS", "url": "URL",
}  # fmt: skip


def label(name: str) -> str:
    """Return a field's label: keep_alive_s → keep alive, seconds; is_operator → operator; requests_per_min → requests
    per minute."""
    if name in NAMES:
        return NAMES[name]
    *words, last = name.split("_")
    unit = UNITS.get(last, "") if words else ""
    if not unit:
        words.append(last)
    elif words[-1] == "per":
        words, unit = [*words, unit.removesuffix("s")], ""
    if words[0] == "is" and len(words) > 1:
        words = words[1:]
    text = " ".join(WRITTEN.get(word, word) for word in words)
    return f"{text}, {unit}" if unit else text


def relabel(tables: Iterable[type[models.Model]]) -> None:
    """Set the labels of tables and fields. A field that was given a label by hand keeps it."""
    for table in tables:
        meta = table._meta
        for kind in ("verbose_name", "verbose_name_plural"):
            words = str(getattr(meta, kind)).split(" ")
            setattr(meta, kind, " ".join(WRITTEN.get(word, word) for word in words))
        for field in meta.local_fields + meta.local_many_to_many:
            if getattr(field, "_verbose_name", None) is None:
                field.verbose_name = label(field.name)
