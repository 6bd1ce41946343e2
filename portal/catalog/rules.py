"""A row of the catalog as a person wrote it → nothing, or a ValidationError that says what to write instead.

What the database's constraints cannot say. Separate from the tables so that each rule stands beside its reason;
rendering of job scripts checks again whatever becomes a directive (invariant 13).
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import PurePosixPath
from typing import Any, Protocol

from django.core.exceptions import ValidationError

from portal.catalog import patterns

# Linux' longest name of an interface has 15 bytes.
_INTERFACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}")
_PORTS = re.compile(r"([0-9]{1,5})-([0-9]{1,5})")
_URL = re.compile(
    r"https?://([A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9./_-]*)?"
)
PROGRAM_HINT = "Write an absolute path without blanks, '$' and '..', or a command's name such as python3."
# Arguments of vLLM's build for CPUs.
_ON_CPU = frozenset({"device", "kv_cache_gib", "omp_threads", "omp_threads_bind"})
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")

# Engine or kind of model → what to choose instead.
NOT_BUILT = {"torch": "vllm", "dnn": "llm"}


def absolute(field: str, path: str) -> None:
    """Empty, or a path that means the same on every node and nothing but itself."""
    if not path:
        return
    pure = PurePosixPath(path)
    if not pure.is_absolute() or ".." in pure.parts or any(ord(c) < 32 for c in path):
        raise ValidationError({field: "Write an absolute path without '..'."})


def folder(field: str, path: str) -> str:
    """Return a folder that a job script names, without a slash at its end; "" for none."""
    plain = path.rstrip("/") or path[:1]
    if plain and not patterns.matches_text(patterns.PATH, plain):
        raise ValidationError(
            {
                field: "Write an absolute folder of letters, digits and . _ + @ -, without blanks, '$' and '..'."
            }
        )
    return plain


def words(field: str, value: Any) -> None:
    """Check a JSON list of short words, e.g. GPU types."""
    if not isinstance(value, list) or not all(isinstance(w, str) and _WORD.fullmatch(w) for w in value):
        raise ValidationError({field: 'Write a JSON list of names, e.g. ["a100", "h100"].'})


def command(field: str, value: Any) -> None:
    """Check a JSON list of arguments. It is run without a shell."""
    if not isinstance(value, list) or not all(isinstance(part, str) and part for part in value):
        raise ValidationError({field: 'Write a JSON list of arguments, e.g. ["ssh", "login01"].'})


def door(field: str, value: str) -> None:
    """Check where a pilot listens: empty, an interface, a network, or an address that every node of the
    profile has."""
    if not value:
        return
    try:
        if not patterns.matches(patterns.DOOR_ADDRESS, value):
            raise ValueError("10.0.0.0/255.0.0.0 or fd00::1%ib0, for example")
        found = ipaddress.ip_network(value, strict=False)
    except ValueError:
        if not _INTERFACE.fullmatch(value):
            raise ValidationError(
                {
                    field: "Write an interface of the nodes (ib0), a network that they have an address in (10.1.0.0/16, "
                    "fd00::/8) or an IP address; or leave it empty: the address from which a node reaches the portal."
                }
            ) from None
        return
    if "/" not in value and (found.network_address.is_unspecified or found.is_multicast):
        raise ValidationError(
            {field: f"{value} cannot be dialled. Leave it empty, or name an interface or network."}
        )
    if found.is_link_local:
        raise ValidationError(
            {field: f"{value} is link-local: the portal cannot dial it. Name another network."}
        )


def ports(field: str, value: str) -> None:
    if not value:
        return
    found = _PORTS.fullmatch(value)
    if found is None or not 1024 <= int(found[1]) <= int(found[2]) <= 65535:
        raise ValidationError(
            {field: "Write a range between 1024 and 65535, lower port first, e.g. 20000-20100."}
        )


def url(field: str, value: str) -> None:
    if value and not _URL.fullmatch(value):
        raise ValidationError({field: "Write an address that begins with http:// or https://."})


def at_least_one(field: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ValidationError({field: "Must be at least 1."})


def at_most(field: str, value: int | None, most: int) -> None:
    if value is not None and value > most:
        raise ValidationError({field: f"Must be at most {most}."})


def arguments(field: str, value: Any) -> None:
    """Check engine arguments: names of the engine's own, with plain values. The engine refuses what it
    does not know."""
    plain = isinstance(value, dict) and all(
        re.fullmatch(r"[a-z][a-z0-9_]*", name) and isinstance(given, str | int | float | bool)
        for name, given in value.items()
    )
    if not plain:
        raise ValidationError(
            {field: 'Write a JSON object of names and plain values, e.g. {"max_model_len": 8192}.'}
        )


def parallel(engine: str, nodes: int | None, gpus: int | None, args: Any) -> None:
    """Check that a model over several GPUs can be cut into one process per GPU.

    The engine would say so too, after Slurm's wait.
    """
    if not nodes or not gpus:
        return
    if nodes > 1 and engine not in ("vllm", "echo"):
        raise ValidationError({"nodes": f"The {engine} engine does not run over several nodes."})
    if engine != "vllm" or (nodes == 1 and args.keys() & _ON_CPU):
        return
    sizes = [args.get(f"{kind}_parallel_size", 1) for kind in ("tensor", "pipeline")]
    if all(type(size) is int and size > 0 for size in sizes) and sizes[0] * sizes[1] == nodes * gpus:
        return
    if nodes > 1:
        need = f"{nodes} nodes x {gpus} GPUs = {nodes * gpus}, e.g. {gpus} and {nodes}"
    else:
        need = f"the pool's number of GPUs, {gpus}, e.g. {gpus} and 1"
    raise ValidationError({"args": f"tensor_parallel_size x pipeline_parallel_size has to be {need}."})


def alone(field: str, pool: str, other: str | None) -> None:
    """Raise ValidationError where a pool serves another language model already: a replica loads one, so that requests
    for a second one would never be answered."""
    if other:
        raise ValidationError(
            {
                field: f"Pool {pool} serves {other} already, and its replicas load one language model: a second one "
                f"would never be served. Give it a pool of its own, or disable {other} first."
            }
        )


def built(field: str, value: str, before: str | None) -> None:
    """Refuse what is planned and not there yet; a row that has it already stays editable."""
    if value in NOT_BUILT and value != before:
        raise ValidationError({field: f"{value} is not implemented yet: choose {NOT_BUILT[value]}."})


def interpreter(field: str, engine: str, python: str) -> None:
    """Refuse the agent's own environment for any engine but echo: it has no libraries for the others."""
    absolute(field, python)
    if engine in ("vllm", "torch") and not python:
        raise ValidationError({field: f"The {engine} engine needs an interpreter of its own."})


def weights(field: str, engine: str, kind: str, path: str) -> None:
    absolute(field, path)
    if engine != "echo" and not path:
        raise ValidationError({field: "Write the folder of the model as seen on compute nodes."})
    if (kind == "llm" and engine == "torch") or (kind == "dnn" and engine == "vllm"):
        raise ValidationError({"kind": f"The pool's engine, {engine}, does not serve this kind."})


class Imaged(Protocol):
    """The part of an environment that has to do with its image."""

    python: str
    image: str
    image_gpu: str
    image_binds: Any


def image(environment: Imaged) -> None:
    """Check an image: a file or an unpacked folder on the nodes.

    What is fetched from a registry is fetched by a person, once.
    """
    absolute("image", environment.image)
    if "://" in environment.image or not _is_plain(environment.image):
        raise ValidationError({"image": "Write the path of an image file or folder, without ':' and ','."})
    if environment.image and not environment.python:
        raise ValidationError({"python": "Write the interpreter inside the image."})
    if not environment.image and (environment.image_gpu or environment.image_binds):
        raise ValidationError({"image": "GPUs and folders of an image need an image."})
    binds = environment.image_binds
    if not isinstance(binds, list) or not all(isinstance(bind, str) and is_bind(bind) for bind in binds):
        raise ValidationError(
            {
                "image_binds": 'Write a JSON list of absolute folders, e.g. ["/apps", "/data/models:/models:ro"].'
            }
        )


def is_bind(text: str) -> bool:
    """Tell whether a text is FOLDER, FOLDER:INSIDE or FOLDER:INSIDE:ro|rw, absolute ones."""
    folders, mode = text.split(":"), ""
    if len(folders) == 3:
        *folders, mode = folders
    paths = [PurePosixPath(folder) for folder in folders]
    good = all(path.is_absolute() and ".." not in path.parts for path in paths)
    return good and len(folders) <= 2 and mode in ("", "ro", "rw") and all(map(_is_plain, folders))


def _is_plain(path: str) -> bool:
    """Tell whether a path has no ":" and ",", by which Apptainer parts its lists of folders."""
    return not any(ord(c) < 32 or c in ":," for c in path)


def prologue(field: str, text: str) -> None:
    if "\0" in text:
        raise ValidationError({field: "Shell lines must not contain a NUL character."})


def like(field: str, pattern: str, value: str, hint: str) -> None:
    """Empty, or what a directive of this kind may be."""
    if value and not patterns.matches_text(pattern, value):
        raise ValidationError({field: hint})


def memory(asked: str, mem_mb: int | None, gpus: int | None) -> None:
    if asked == "mem-per-gpu" and gpus and mem_mb is not None and mem_mb < gpus:
        raise ValidationError({"mem_mb": "There must be at least 1 MiB for each GPU."})


def extra(field: str, value: Any) -> None:
    """Check the directives of a profile that have no field of their own."""
    if not isinstance(value, dict):
        raise ValidationError({field: 'Write a JSON object of directives, e.g. {"switches": "1@60"}.'})
    if wrong := [text for name, given in value.items() if (text := patterns.extra_refused(name, given))]:
        raise ValidationError({field: wrong})
