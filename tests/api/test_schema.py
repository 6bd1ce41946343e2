"""GET /api/v1/schema: the OpenAPI document names every address and how to authenticate."""

from __future__ import annotations

import json

from gpuworker.wire import ENDPOINTS
from portal.errors import KINDS
from tests.api.world import ApiClient, World


def test_the_document_holds_every_address(world: World) -> None:
    answer = world.owner.api.get("/api/v1/schema?format=json")
    assert answer.status_code == 200
    document = json.loads(answer.content)
    native = {path.removeprefix("/api/v1/") for path in document["paths"] if path.startswith("/api/v1/")}
    assert native == {
        "requests", "requests/{id}", "models", "models/{name}", "models/{name}/wake", "fleet", "commands", "decisions",
    }  # fmt: skip
    assert set(document["paths"]["/api/v1/requests/{id}"]) == {"get", "delete"}
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"


def test_it_describes_the_data_plane_beside_it(world: World) -> None:
    """Every address that the gateway serves; that it is true of them is tests/flow/test_openapi.py's to show."""
    document = json.loads(world.owner.api.get("/api/v1/schema?format=json").content)
    paths = {path: set(verbs) for path, verbs in document["paths"].items() if path.startswith("/v1/")}
    assert {path for path, verbs in paths.items() if verbs == {"post"}} == {
        *ENDPOINTS, "/v1/responses/{id}/cancel", "/v1/batches/{batch}/cancel",
    }  # fmt: skip
    assert {path: verbs for path, verbs in paths.items() if verbs != {"post"}} == {
        "/v1/models": {"get"}, "/v1/models/{model}": {"get"}, "/v1/responses/{id}": {"get"},
        "/v1/files": {"get", "post"}, "/v1/files/{file}": {"get", "delete"}, "/v1/files/{file}/content": {"get"},
        "/v1/batches": {"get", "post"}, "/v1/batches/{batch}": {"get"},
    }  # fmt: skip


def test_every_error_of_the_table_is_described_somewhere(world: World) -> None:
    document = json.loads(world.owner.api.get("/api/v1/schema?format=json").content)
    operations = [verb for path in document["paths"].values() for verb in path.values()]
    texts = [answer["description"] for operation in operations for answer in operation["responses"].values()]
    assert {code for code in KINDS if not any(f"`{code}`" in text for text in texts)} == set()
    assert document["components"]["schemas"]["Error"]["properties"]["error"]["properties"]["code"][
        "enum"
    ] == [*KINDS]


def test_it_is_for_those_who_are_known(world: World) -> None:
    assert ApiClient().get("/api/v1/schema").status_code == 401
