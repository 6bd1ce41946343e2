"""Database, Redis and the control loop → /readyz: what answers, what does not, and how old the last good tick is.

Separate from `asgi`, which only routes. It opens a connection per question: it is asked every few seconds at most,
and a kept connection would hide that new ones are refused.
"""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg2
from redis.exceptions import RedisError

from portal.config import Config
from portal.db import connections
from portal.http.answers import send_json
from portal.redis import clients

LIMIT_S = 3.0


class Readiness:
    def __init__(self, config: Config) -> None:
        self._config = config
        self._late_s = max(10 * config.tick_s, 30.0)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        said = await self.look()
        await send_json(send, 200 if said["ready"] else 503, said)

    async def look(self) -> dict[str, Any]:
        (database, tick_age_s), queue = await asyncio.gather(
            asyncio.get_running_loop().run_in_executor(None, self._database), self._redis()
        )
        ticks = tick_age_s is not None and tick_age_s <= self._late_s
        return {
            "ready": database and queue and ticks,
            "database": database,
            "redis": queue,
            "tick": "ok" if ticks else "never" if tick_age_s is None else "late",
            "tick_age_s": tick_age_s,
        }

    def _database(self) -> tuple[bool, float | None]:
        try:
            link = connections.connect(
                self._config.database_url, "berth readiness", autocommit=True, statement_s=LIMIT_S
            )
        except psycopg2.Error:
            return False, None
        try:
            with link.cursor() as cur:
                cur.execute(
                    "SELECT extract(epoch FROM now() - max(ticked_at)) FROM fleet_cluster WHERE name = %s",
                    (self._config.cluster,),
                )
                row = cur.fetchone()
            return True, None if row is None or row[0] is None else round(float(row[0]), 1)
        except psycopg2.Error:
            return False, None
        finally:
            link.close()

    async def _redis(self) -> bool:
        client = clients.in_loop(self._config.redis_url, clients.READINESS)
        try:
            return bool(await client.ping())
        except (RedisError, OSError):
            return False
        finally:
            await client.aclose()
