"""GET /api/v1/schema: the OpenAPI document names every address and how to authenticate."""

from __future__ import annotations

import json

from tests.api.world import ApiClient, World


def test_the_document_holds_every_address(world: World) -> None:
    answer = world.owner.api.get("/api/v1/schema?format=json")
    assert answer.status_code == 200
    document = json.loads(answer.content)
    assert {path.removeprefix("/api/v1/") for path in document["paths"]} == {
        "requests", "requests/{id}", "models", "models/{name}", "models/{name}/wake", "fleet", "commands", "decisions",
    }  # fmt: skip
    assert set(document["paths"]["/api/v1/requests/{id}"]) == {"get", "delete"}
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"


def test_it_is_for_those_who_are_known(world: World) -> None:
    assert ApiClient().get("/api/v1/schema").status_code == 401
