"""A model's folder as an agent sees it: what it says, what it may not do, and a sentence for everything that is wrong."""

from __future__ import annotations

import asyncio
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpuworker import inspection, settings
from gpuworker.bringup import BringUp
from gpuworker.engines.protocol import BadArgument
from gpuworker.gpus import Gpus
from gpuworker.inspection import NotInspected, inspect
from gpuworker.inspector import Inspector
from gpuworker.nodes import Nodes
from gpuworker.resources import Resources
from gpuworker.roots import Outside, inside
from gpuworker.wire import DesiredReplica, Inspected, InspectWish, ModelFacts, Sync, SyncAnswer, dumps, loads

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "torch_dtype": "bfloat16",
    "max_position_embeddings": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 2048,
}


def tensors(path: Path, cut: int = 0) -> None:
    header = json.dumps(
        {
            "__metadata__": {"format": "pt"},
            "a": {"dtype": "BF16", "shape": [10, 20], "data_offsets": [0, 400]},
            "b": {"dtype": "F32", "shape": [5], "data_offsets": [400, 420]},
        }
    ).encode()
    path.write_bytes((struct.pack("<Q", len(header)) + header + bytes(420))[: -cut or None])


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def model(roots: Path) -> Path:
    folder = roots / "m"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    tensors(folder / "model.safetensors")
    return folder


def facts(model: Path, roots: Path) -> ModelFacts:
    return inspect(str(model), [str(roots)], 40_000)


def test_a_folder_says_what_it_is(model: Path, roots: Path) -> None:
    found = facts(model, roots)
    assert (found.architecture, found.dtype, found.context_tokens) == ("LlamaForCausalLM", "bfloat16", 8192)
    assert (found.layers, found.heads, found.kv_heads, found.head_dim) == (16, 32, 8, 64)
    assert (found.parameters, found.weights_bytes) == (205, (model / "model.safetensors").stat().st_size)
    assert found.has_chat_template and not (found.needs_code or found.is_embedding or found.other_weights)
    assert (found.folder, found.gpu_mem_mb, found.files) == (str(model.resolve()), 40_000, 3)


def put(text: str) -> Callable[[Path], object]:
    return lambda model: (model / "config.json").write_text(text)


def also(name: str, text: str) -> Callable[[Path], object]:
    return lambda model: (model / name).write_text(text)


def replaced(model: Path) -> None:
    (model / "config.json").unlink()
    os.mkfifo(model / "config.json")


def linked(model: Path) -> None:
    (model / "secret.json").symlink_to("/etc/passwd")


def linked_config(model: Path) -> None:
    (model / "config.json").unlink()
    (model / "config.json").symlink_to("/etc/passwd")


INDEX = json.dumps({"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}})


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda model: (model / "config.json").unlink(), "There is no .*config.json on the compute node"),
        (put("{'a': 1}"), "config.json is not JSON"),
        (put("[" * 100_000), "config.json is not JSON"),
        (put("[1]"), "is JSON, and not an object"),
        (put('{"a": "' + "x" * 2**20 + '"}'), "config.json is larger than 1 MiB"),
        (replaced, "config.json is not a plain file"),
        (linked, "secret.json is a link to something outside"),
        (linked_config, "config.json is a link to something outside"),
        (lambda model: tensors(model / "model.safetensors", cut=100), "not complete: 0.0 MiB are missing"),
        (lambda model: (model / "model.safetensors").write_bytes(b"PK\3\4"), "no safetensors file"),
        (lambda model: (model / "model.safetensors").write_bytes(b"\xff" * 64), "no safetensors file"),
        (
            lambda model: (model / "model.safetensors").write_bytes(struct.pack("<Q", 4) + b"[[]]"),
            "header of",
        ),
        (lambda model: (model / "model.safetensors").unlink(), "config.json and no weights"),
        (also("model.safetensors.index.json", INDEX), "1 of 2 files of weights are missing, such as model-2"),
    ],
)
def test_what_is_wrong_is_said(model: Path, roots: Path, harm: Callable[[Path], object], says: str) -> None:
    harm(model)
    with pytest.raises(NotInspected, match=says):
        facts(model, roots)


def test_a_folder_outside_of_the_roots_is_refused_whatever_links_say(
    model: Path, roots: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    (roots / "link").symlink_to(outside)
    (roots / "circle").symlink_to(roots / "circle")
    (roots / "file").write_text("{}")
    for path, says in (
        (outside, "does not lie below"),
        (roots / "link", r"\(it is .*elsewhere\) does not lie below"),
        (roots / "m" / ".." / ".." / "elsewhere", "does not lie below"),
        (roots, "does not lie below"),
        (roots / "none", "There is no .*none"),
        (roots / "circle", "could not be read|There is no"),
        (roots / "file", "The path is a file"),
        (str(roots / "x\0y"), "could not be read"),
    ):
        with pytest.raises(NotInspected, match=says):
            inspect(str(path), [str(roots)], 0)
    # A link that stays inside, as caches of downloaded models have them, is fine.
    blobs = roots / "blobs"
    blobs.mkdir()
    (model / "model.safetensors").rename(blobs / "one")
    (model / "model.safetensors").symlink_to(blobs / "one")
    assert facts(model, roots).parameters == 205


def test_a_folder_without_rights_is_told(model: Path, roots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may run as root, who may read everything."""

    def denied(path: Path, start: int, size: int) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(inspection, "_read", denied)
    with pytest.raises(NotInspected, match=r"may not read .*config.json: check the folder's rights"):
        facts(model, roots)


def test_other_weights_and_code_of_its_own_are_seen(model: Path, roots: Path) -> None:
    (model / "config.json").write_text(json.dumps(CONFIG | {"auto_map": {"AutoModel": "modeling.X"}}))
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    found = facts(model, roots)
    assert found.needs_code and found.other_weights == ["pytorch_model.bin"] and found.weights_bytes > 0


@pytest.mark.parametrize(
    "config",
    [
        {
            "architectures": "x" * 999,
            "torch_dtype": ["a"],
            "max_position_embeddings": 1e99,
            "num_hidden_layers": True,
        },
        {
            "architectures": [{"a": 1}, "--help; rm -rf"],
            "torch_dtype": "--flag",
            "quantization_config": "awq",
        },
        {
            "num_attention_heads": -4,
            "hidden_size": 2**70,
            "max_position_embeddings": "8192",
            "text_config": [1],
        },
        {"architectures": ["A\ud800"], "_commit_hash": "\n", "quantization_config": {"quant_method": "--x"}},
    ],
)
def test_strange_values_become_nothing(model: Path, roots: Path, config: dict[str, Any]) -> None:
    (model / "config.json").write_text(json.dumps(config))
    found = facts(model, roots)
    assert (found.architecture, found.dtype, found.quantisation, found.revision) == ("", "", "", "")
    assert (found.context_tokens, found.layers, found.heads, found.head_dim) == (0, 0, 0, 0)


async def test_an_agent_reports_until_nobody_asks_any_more(model: Path, roots: Path) -> None:
    told = asyncio.Event()
    inspector = Inspector(told.set)
    good, bad = InspectWish(1, str(model), [str(roots)]), InspectWish(2, "/etc", [str(roots)])
    inspector.want([good, bad])
    async with asyncio.timeout(60):
        while len(inspector.reports) < 2:
            told.clear()
            await told.wait()
    inspector.want([good, bad])
    reports = {report.id: report for report in inspector.reports}
    assert reports[1].facts is not None and reports[1].error == ""
    assert reports[2].facts is None and "does not lie below" in reports[2].error
    said = Sync("p", 1, 0, 1.0, False, "", [], [], None, inspected=inspector.reports)
    assert loads(Sync, dumps(said)).inspected == inspector.reports
    answer = SyncAnswer([], False, None, [], 1.0, False, inspect=[good])
    assert loads(SyncAnswer, dumps(answer)).inspect == [good]
    assert loads(Sync, json.dumps({**json.loads(dumps(said)), "inspected": []})).inspected == []
    inspector.want([])
    assert inspector.reports == [] and isinstance(reports[1], Inspected)
    inspector.stop()


def test_before_a_load_only_the_folder_and_its_links_count(model: Path, roots: Path) -> None:
    assert inside("/etc", []) == Path("/etc")
    assert inside(str(model), [str(roots)]) == model.resolve()
    (model / "late").symlink_to("/etc")
    with pytest.raises(Outside):
        inside(str(model), [str(roots)])


def one_node(folder: Path) -> Nodes:
    given = settings.read({"BERTH_PILOT_DIR": str(folder)})
    return Nodes(given, Resources(Gpus(("0",), ("0",)), 1000), {}, folder)


async def test_a_replica_whose_folder_leads_outside_by_now_does_not_start(
    model: Path, roots: Path, tmp_path: Path
) -> None:
    (model / "late").symlink_to("/etc")

    async def nearest(path: str) -> str:
        raise AssertionError("nothing is read")

    want = DesiredReplica(
        id="r", pool="m", model="m", engine="echo", state="hot", path=str(model), python="", gpus=[0], cap=1, args={},
        load_limit_s=10, drain_limit_s=1, roots=[str(roots)],
    )  # fmt: skip
    up = BringUp(want, one_node(tmp_path), "python3", nearest, tmp_path / "s", tmp_path / "log")
    with pytest.raises(BadArgument, match="may not be used: late is a link to something outside"):
        await up.run(lambda: None)
    assert up.engine is None
