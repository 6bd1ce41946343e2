"""The table of served paths is the only one: everything that has a line for each endpoint has one for every endpoint."""

from __future__ import annotations

import ast

import pytest

from gpuworker.endpoints import ENDPOINTS, ENGINE_PATHS, JSON, at_engines
from portal.acceptance.inference_request import READERS
from portal.api.document.inference import PATHS
from portal.batches import intake
from portal.catalog.proposal import USES
from portal.policy import estimate
from tests.unit.fences import modules

TABLE = "gpuworker/endpoints.py"


def spelled(path: str, source: str) -> list[str]:
    """Return where a served path is spelled as a value of its own. Sentences may name one, as an example."""
    return [
        f"{path}:{node.lineno}: {node.value}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and node.value in ENDPOINTS
    ]


def test_no_other_module_spells_a_served_path() -> None:
    sources = modules("portal", "scheduler", "gpuworker")
    found = {path: spelled(path, source) for path, source in sources if path.endswith(".py")}
    assert [where for path, lines in found.items() if path != TABLE for where in lines] == []
    assert len(found[TABLE]) == 2 * len(ENDPOINTS), "the fence sees nothing"


def test_a_second_list_would_be_seen() -> None:
    planted = '"""Talks of /v1/embeddings."""\nPATHS = {"/v1/embeddings"}\n'
    assert spelled("portal/x.py", planted) == ["portal/x.py:2: /v1/embeddings"]


def test_each_line_is_whole() -> None:
    assert set(READERS) == {endpoint.name for endpoint in ENDPOINTS.values()}
    assert PATHS.keys() >= ENDPOINTS.keys(), "the OpenAPI document"
    assert {path for path, endpoint in ENDPOINTS.items() if endpoint.batch} == intake.ENDPOINTS
    assert len(at_engines(ENDPOINTS.values())) == len(ENDPOINTS) == len(ENGINE_PATHS)
    assert set().union(*(endpoint.tasks for endpoint in ENDPOINTS.values())) == set(USES)


@pytest.mark.parametrize("path", sorted(ENDPOINTS))
def test_a_path_fits_its_column_and_a_batch_holds_json(path: str) -> None:
    endpoint = ENDPOINTS[path]
    assert endpoint.path == path and len(path) <= 40 and len(endpoint.engine_path) <= 200
    assert all(len(kind) <= 100 and kind == kind.lower() for kind in endpoint.content_types)
    if endpoint.batch:
        assert endpoint.answer == "object" and endpoint.content_types == (JSON,), "lines of a file are JSON"


def test_a_body_that_is_no_text_is_estimated_by_its_size() -> None:
    body = b'"max_tokens":1000' + bytes(4000)
    assert estimate.tokens(body, "size") == len(body) // estimate.BYTES_PER_TOKEN
    assert estimate.of_row(4000, None, "size") == 4000 // estimate.BYTES_PER_TOKEN
    assert estimate.of_row(len(body), body, "size") == estimate.tokens(body, "size")
    assert estimate.tokens(b"", "size") == 1
