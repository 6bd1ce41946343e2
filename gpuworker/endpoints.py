"""The served paths, and of each what its requests and answers are: the one table of gateway, ingress, API and batches.

Separate from the messages of the wire, which name a path and know nothing of it. Standard library only: the portal
reads the table through `gpuworker.wire`. A path without a line here is served nowhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

JSON = "application/json"

AnswerKind = Literal["object", "bytes"]
Estimate = Literal["text", "size"]
UsageReport = Literal["always", "on_request", "never"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One served path.

    name: what a request there is; readers, checks and the OpenAPI document go by it.
    path: where clients ask, and what the lines of a batch name.
    engine_path: where an engine is asked. Ingress and leaser forward to no other path.
    tasks: the uses of a model that have it, as `portal.catalog.proposal` names them.
    content_types: what a body may be. Where there is one, it is taken for that whatever its client called it.
    answer: "object": a JSON object, anything else is an engine's error; "bytes": whatever the engine says.
    streams: whether an answer may come as server-sent events.
    batch: whether the lines of a batch may go there.
    estimate: how many tokens a request costs before it has run: "text": by its length and the limit that it sets for
        its answer; "size": by its length alone.
    usage: when the engine says how many it took: "always"; "on_request": in a stream only where it was asked to;
        "never": the estimate stands.
    """

    name: str
    path: str
    engine_path: str
    tasks: frozenset[str]
    content_types: tuple[str, ...] = (JSON,)
    answer: AnswerKind = "object"
    streams: bool = True
    batch: bool = True
    estimate: Estimate = "text"
    usage: UsageReport = "always"


_WRITES = frozenset({"chat", "completion"})
CHAT = Endpoint(
    "chat", "/v1/chat/completions", "/v1/chat/completions", frozenset({"chat"}), usage="on_request"
)
COMPLETION = Endpoint("completion", "/v1/completions", "/v1/completions", _WRITES, usage="on_request")
EMBEDDING = Endpoint("embedding", "/v1/embeddings", "/v1/embeddings", frozenset({"embedding"}), streams=False)
# Streams report their usage in their last event, whether or not they are asked to.
RESPONSE = Endpoint("response", "/v1/responses", "/v1/responses", frozenset({"chat"}))

# By the path at the client.
ENDPOINTS: dict[str, Endpoint] = {
    endpoint.path: endpoint for endpoint in (CHAT, COMPLETION, EMBEDDING, RESPONSE)
}


def at_engines(endpoints: Iterable[Endpoint]) -> dict[str, Endpoint]:
    """Return the endpoints by their paths at engines. Engines' development and administration paths are not there."""
    return {endpoint.engine_path: endpoint for endpoint in endpoints}


ENGINE_PATHS = at_engines(ENDPOINTS.values())


def estimate_at(path: str) -> Estimate:
    """Return how a request that was accepted at this path is estimated, also where the path is served no more."""
    endpoint = ENDPOINTS.get(path)
    return endpoint.estimate if endpoint is not None else "text"
