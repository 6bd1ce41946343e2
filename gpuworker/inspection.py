"""A model's folder → what it says of the model (wire.ModelFacts), or why that cannot be said.

Standard library only, and nothing of the folder is executed or believed: whoever registers a model may have written
each of its files. Sizes are bounded before they are read, numbers and texts before they are passed on.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from gpuworker.roots import Outside, inside
from gpuworker.wire import ModelFacts

MOST_CONFIG = 2**20
MOST_HEADER = 64 * 2**20  # of one safetensors file; a large model's is about 1 MiB
MOST_SHARDS = 2_000
MOST_NUMBER = 2**40
CONTEXT = (
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "seq_length",
    "n_ctx",
    "model_max_length",
)
# Formats that are code, or are unpacked by code that trusts them.
OTHER_WEIGHTS = (
    ".bin",
    ".pt",
    ".pth",
    ".pt2",
    ".pkl",
    ".pickle",
    ".ckpt",
    ".gguf",
    ".h5",
    ".msgpack",
    ".npz",
    ".onnx",
)
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,99}")
_REVISION = re.compile(r"[0-9a-f]{40}")


class NotInspected(Exception):
    """The reason why a folder was not inspected, in words for the person who registers it."""


def inspect(path: str, roots: Collection[str], gpu_mem_mb: int) -> ModelFacts:
    """Inspect a model's folder. Raise NotInspected."""
    try:
        return _facts(inside(path, roots), gpu_mem_mb)
    except Outside as error:
        raise NotInspected(f"It may not be used: {error}.") from None
    except FileNotFoundError as error:
        raise NotInspected(f"There is no {_named(error)} on the compute node.") from None
    except NotADirectoryError:
        raise NotInspected("The path is a file: name the folder that holds config.json.") from None
    except PermissionError as error:
        raise NotInspected(
            f"The jobs' account may not read {_named(error)}: check the folder's rights."
        ) from None
    except (
        OSError,
        RuntimeError,
        ValueError,
    ) as error:  # links in a circle; a path that no file system takes
        raise NotInspected(f"It could not be read: {error}"[:300]) from None


def _facts(folder: Path, gpu_mem_mb: int) -> ModelFacts:
    names = sorted(entry.name for entry in folder.iterdir())
    config = _object(folder / "config.json")
    text = config.get("text_config")  # models that also see keep their language part here
    inner = config | text if isinstance(text, dict) else config
    tensors = [name for name in names if name.endswith(".safetensors")]
    if len(tensors) > MOST_SHARDS:
        raise NotInspected(f"The folder holds more than {MOST_SHARDS} safetensors files.")
    _no_shard_missing(folder, names)
    parameters, weights = 0, 0
    for name in tensors:
        counted, size = _safetensors(folder / name)
        parameters, weights = parameters + counted, weights + size
    other = [
        name[:100] for name in names if name.lower().endswith(OTHER_WEIGHTS) and name != "training_args.bin"
    ]
    if not tensors:
        weights = sum((folder / name).stat().st_size for name in names if name[:100] in other)
        if not weights:
            raise NotInspected("The folder holds config.json and no weights: no *.safetensors file is there.")
    tokenizer = (
        _object(folder / "tokenizer_config.json", MOST_HEADER) if "tokenizer_config.json" in names else {}
    )
    architecture = next(iter(_words(config.get("architectures"))), "")
    heads = _number(inner, "num_attention_heads", "n_head")
    revision = folder.name if _REVISION.fullmatch(folder.name) else _word(config.get("_commit_hash"))
    return ModelFacts(
        folder=str(folder),
        architecture=architecture,
        dtype=_word(inner.get("dtype") or inner.get("torch_dtype") or config.get("torch_dtype")),
        quantisation=_quantisation(config),
        context_tokens=_number(inner, *CONTEXT),
        layers=_number(inner, "num_hidden_layers", "n_layer"),
        heads=heads,
        kv_heads=_number(inner, "num_key_value_heads") or heads,
        head_dim=_number(inner, "head_dim")
        or (_number(inner, "hidden_size", "n_embd") // heads if heads else 0),
        parameters=parameters,
        weights_bytes=weights,
        files=len(names),
        other_weights=other[:20] if not tensors else [],
        needs_code="auto_map" in config or "auto_map" in tokenizer,
        has_chat_template="chat_template" in tokenizer
        or any(name in names for name in ("chat_template.jinja", "chat_template.json")),
        is_embedding="modules.json" in names or _embeds(architecture),
        revision=revision,
        gpu_mem_mb=gpu_mem_mb,
    )


def _object(path: Path, most: int = MOST_CONFIG) -> dict[str, Any]:
    """Read a JSON object from a plain file that is not larger than `most` bytes."""
    data = _read(path, 0, most + 1)
    if len(data) > most:
        raise NotInspected(
            f"{path.name} is larger than {most // 2**20} MiB: that is no configuration of a model."
        )
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise NotInspected(f"{path.name} is not JSON: {error}"[:300]) from None
    if not isinstance(found, dict):
        raise NotInspected(f"{path.name} is JSON, and not an object.")
    return found


def _read(path: Path, start: int, size: int) -> bytes:
    # Not blocking: a pipe that nobody writes to would hold us for ever.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with open(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise NotInspected(f"{path.name} is not a plain file.")
        file.seek(start)
        return file.read(size)


def _safetensors(path: Path) -> tuple[int, int]:
    """Return the parameters, and the bytes, of a file: its header begins with the length of the JSON in 8
    bytes."""
    size = path.stat().st_size
    length = int.from_bytes(_read(path, 0, 8), "little")
    if size < 8 or not 2 <= length <= MOST_HEADER or 8 + length > size:
        raise NotInspected(f"{path.name} is no safetensors file, or is not complete.")
    try:
        header = json.loads(_read(path, 8, length))
        tensors = [tensor for name, tensor in header.items() if name != "__metadata__"]
        end = max((int(tensor["data_offsets"][1]) for tensor in tensors), default=0)
        parameters = sum(_product(tensor["shape"]) for tensor in tensors)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise NotInspected(f"The header of {path.name} is not that of a safetensors file.") from None
    if 8 + length + end > size:
        missing = (8 + length + end - size) / 2**20
        raise NotInspected(f"{path.name} is not complete: {missing:.1f} MiB are missing.")
    return min(parameters, MOST_NUMBER), size


def _product(shape: Any) -> int:
    number = 1
    for part in shape:
        number = min(number * int(part), MOST_NUMBER)
    return max(number, 0)


def _no_shard_missing(folder: Path, names: Collection[str]) -> None:
    if "model.safetensors.index.json" not in names:
        return
    index = _object(folder / "model.safetensors.index.json", MOST_HEADER)
    parts = index.get("weight_map")
    wanted = {name for name in parts.values() if isinstance(name, str)} if isinstance(parts, dict) else set()
    if missing := sorted(wanted.difference(names)):
        shown = ", ".join(name[:80] for name in missing[:3])
        raise NotInspected(f"{len(missing)} of {len(wanted)} files of weights are missing, such as {shown}.")


def _quantisation(config: dict[str, Any]) -> str:
    said = config.get("quantization_config")
    return _word(said.get("quant_method")) if isinstance(said, dict) else ""


def _embeds(architecture: str) -> bool:
    generates = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")
    return bool(architecture) and not architecture.endswith(generates) and "Model" in architecture[-12:]


def _number(said: dict[str, Any], *names: str) -> int:
    """Return the first of these fields that is a sensible whole number; 0 where none is."""
    values = (said.get(name) for name in names)
    return next((v for v in values if type(v) is int and 0 < v < 2**31), 0)


def _word(value: Any) -> str:
    return value if isinstance(value, str) and _WORD.fullmatch(value) else ""


def _words(value: Any) -> Iterator[str]:
    yield from filter(None, map(_word, value[:8])) if isinstance(value, list) else ()


def _named(error: OSError) -> str:
    return str(error.filename or "such folder")[:300]
