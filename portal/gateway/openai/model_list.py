"""/v1/models: the models that a caller's project may use, in OpenAI's shape, and how soon each would answer."""

from __future__ import annotations

from typing import Any

from portal.accounts.callers import Caller
from portal.catalog.entries import ModelEntry
from portal.errors import ApiError
from portal.gateway.directory import Directory
from portal.http.exchange import Exchange


class ModelList:
    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    async def listing(self, ex: Exchange, caller: Caller, _: str) -> dict[str, Any]:
        return {
            "object": "list",
            "data": [self._describe(entry) for entry in self._directory.models(caller.project_id)],
        }

    async def show(self, ex: Exchange, caller: Caller, name: str) -> dict[str, Any]:
        entry = await self._directory.model(name, caller.project_id)
        if entry is None:
            raise ApiError("model_not_found", detail=name[:128], param="model")
        return self._describe(entry)

    def _describe(self, entry: ModelEntry) -> dict[str, Any]:
        phase = self._directory.phase(entry.pool).named(entry.name)
        return {
            "id": entry.name,
            "object": "model",
            "created": entry.created,
            "owned_by": "berth",
            "berth": {
                "residency": phase.residency,
                "eta_s": phase.eta_s,
                "reason": phase.reason,
                "context_tokens": entry.context_tokens,
            },
        }
