"""Names of fields and tables in the code → what the admin's pages call them: units in words, abbreviations as written.

Set when all tables are loaded and not in the tables themselves: there each label would be a migration.
"""

from __future__ import annotations

from collections.abc import Iterable

from django.db import models

NAMES = {
    "args": "engine arguments",
    "asleep_mem_mb": "host memory while asleep, MiB",
    "cap": "requests at once",
    "conf": "slurm.conf",
    "extra": "further directives",
    "gpu_request": "GPUs are asked for as",
    "gpu_s": "GPU-seconds",
    "gpu_type_asked": "GPU type is named to Slurm",
    "image": "image (Apptainer)",
    "image_binds": "folders inside the image",
    "image_gpu": "GPUs inside the image",
    "licenses": "licences",
    "max_gpus": "GPUs, at most",
    "max_pilots": "jobs, at most",
    "max_replicas": "replicas, at most",
    "mem_mb": "host memory, MiB",
    "mem_request": "memory is asked for as",
    "min_replicas": "replicas, at least",
    "slug": "short name",
    "walltime_least_min": "shortest walltime, minutes",
    "wckey": "WCKey",
}
UNITS = {"s": "seconds", "mb": "MiB", "min": "minutes"}
WRITTEN = {
    "api": "API", "cpu": "CPU", "cpus": "CPUs", "gpu": "GPU", "gpus": "GPUs", "http": "HTTP", "id": "ID", "ip": "IP",
    "mem": "memory", "qos": "QOS", "url": "URL",
}  # fmt: skip


def label(name: str) -> str:
    """keep_alive_s → keep alive, seconds; is_operator → operator; requests_per_min → requests per minute."""
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
    """Those that were given a label by hand keep it."""
    for table in tables:
        meta = table._meta
        for kind in ("verbose_name", "verbose_name_plural"):
            words = str(getattr(meta, kind)).split(" ")
            setattr(meta, kind, " ".join(WRITTEN.get(word, word) for word in words))
        for field in meta.local_fields + meta.local_many_to_many:
            if getattr(field, "_verbose_name", None) is None:
                field.verbose_name = label(field.name)
