"""One port for everything: path prefix → gateway, worker API, health, or Django's pages and API.

/v1, /v2          the gateway               BERTH_SERVE=all, gateway
/worker/v1        the worker API            BERTH_SERVE=all, gateway
/healthz          this process answers      always
/readyz           so do database, Redis and the control loop
everything else   Django                    BERTH_SERVE=all, site
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any

from portal.config import Config, config
from portal.gateway.app import Gateway
from portal.http.answers import failure, send_json
from portal.http.bodies import Bounded
from portal.http.readiness import Readiness
from portal.workerapi.app import WorkerApi
from portal.workerapi.link import STATE as LINKING

log = logging.getLogger(__name__)

Scope = dict[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]


class Application:
    """The ASGI application of the site: it routes by path prefix, and starts and stops the parts with the
    server."""

    def __init__(self, settings: Config) -> None:
        serve = settings.serve
        self.gateway = Gateway(settings) if serve in ("all", "gateway") else None
        self.worker_api = WorkerApi(settings, self.gateway.reverse) if self.gateway else None
        self._django = Bounded(_django(), settings) if serve in ("all", "site") else None
        self._readiness = Readiness(settings)

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] == "http":
            await self._app(scope["path"])(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    def _app(self, path: str) -> App:
        if path.startswith(("/v1/", "/v2/")):
            return self.gateway or _nothing
        if path.startswith("/worker/"):
            return self.worker_api or _nothing
        if path == "/healthz":
            return _healthy
        if path == "/readyz":
            return self._readiness
        return self._django or _nothing

    async def _lifespan(self, scope: Scope, receive: Any, send: Any) -> None:
        await receive()  # startup
        try:
            if self.gateway is not None:
                await self.gateway.start()
            if self.worker_api is not None:
                await self.worker_api.start()
                scope.get("state", {})[LINKING] = self.worker_api.admission
        except Exception as error:
            log.exception("start")
            await send({"type": "lifespan.startup.failed", "message": f"Berth cannot start: {error}"})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()  # shutdown
        if self.worker_api is not None:
            await self.worker_api.stop()
        if self.gateway is not None:
            await self.gateway.stop()
        await send({"type": "lifespan.shutdown.complete"})


def _django() -> App:
    # Imported only where pages are served: a gateway has no Django.
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    from django.core.asgi import get_asgi_application

    return get_asgi_application()


async def _healthy(scope: Scope, receive: Any, send: Any) -> None:
    await send_json(send, 200, {"ok": True})


async def _nothing(scope: Scope, receive: Any, send: Any) -> None:
    await send_json(send, 404, failure("Not served by this process.", "not_found"))


def __getattr__(name: str) -> Any:
    """Make `portal.asgi:application` when a server asks for it, so that tests can import the class."""
    if name == "application":
        made = globals()["application"] = Application(config())
        return made
    raise AttributeError(name)
