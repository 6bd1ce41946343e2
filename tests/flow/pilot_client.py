"""A pilot that speaks to the worker API, with the key that its job was given, and what it says."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from gpuworker import wire
from tests.flow.dataplane import Plane


class Pilot:
    """A pilot that a test speaks for, with the key that its job was given."""

    def __init__(self, plane: Plane, id_: str, job_id: int = 77) -> None:
        self.plane = plane
        self.id = id_
        self.job_id = job_id
        self.token = wire.derive_key(plane.settings.site_key, "portal", id_)
        self.seq = 1000

    async def call(self, verb: str, body: bytes, token: str | None = None) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {token if token is not None else self.token}"}
        async with self.plane.client.post(
            f"{self.plane.url}/worker/v1/{verb}", data=body, headers=headers
        ) as answer:
            return answer.status, await answer.json()

    async def register(self, **changes: Any) -> tuple[int, Any]:
        self.plane.ingress.key = wire.derive_key(self.plane.settings.site_key, "ingress", self.id)
        said = wire.Register(
            pilot=self.id,
            job_id=self.job_id,
            restart_count=0,
            node="gpu01",
            address=self.plane.ingress.url,
            started_at=time.time() - 2,
            agent_at=time.time(),
            agent_version="0.1.0",
            gpus=["0", "1"],
            host_mem_mb=16000,
            sent_at=time.time(),
        )
        return await self.call("register", wire.dumps(replace(said, **changes)))

    def sync_of(self, *replicas: wire.ObservedReplica, **changes: Any) -> wire.Sync:
        self.seq += 1
        said = wire.Sync(
            pilot=self.id,
            job_id=self.job_id,
            seq=self.seq,
            at=time.time(),
            draining=False,
            ending="",
            replicas=list(replicas),
            rows=[],
            log_tail=None,
        )
        return replace(said, **changes)

    async def sync(self, *replicas: wire.ObservedReplica, **changes: Any) -> tuple[int, Any]:
        return await self.call("sync", wire.dumps(self.sync_of(*replicas, **changes)))


def seen(id_: str, state: wire.ObservedState = "hot", **changes: Any) -> wire.ObservedReplica:
    now = time.time()
    said = wire.ObservedReplica(
        id=id_,
        pool="demo",
        model="demo",
        state=state,
        phase="loading weights" if state == "starting" else "",
        cap=4,
        held=0,
        filler=0,
        started_at=now - 5,
        hot_at=now if state == "hot" else None,
        idle_since=None,
        error="it broke" if state == "failed" else "",
        crashes=0,
        mem_mb=100,
        engine_version="0.32.0",
    )
    return replace(said, **changes)


def registered(plane: Plane, state: str = "up") -> tuple[Pilot, str]:
    id_ = plane.new_pilot(state, job_id=77)
    plane.sql(
        "UPDATE fleet_pilot SET agent_job_id = 77, address = %s WHERE id = %s", (plane.ingress.url, id_)
    )
    return Pilot(plane, id_), plane.new_replica(id_)


def state_of(plane: Plane, replica: str) -> str:
    return str(plane.sql("SELECT state FROM fleet_replica WHERE id = %s", (replica,))[0][0])
