"""A pass-through deployment on Ray Serve: one proxy, one replica. Runs in the environment peer-ray.

python _ray_proxy.py PORT BACKEND_URL TEMP_FOLDER
"""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse


class PassThrough:
    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.session: Any = None

    async def __call__(self, request: Request) -> Response:
        if self.session is None:
            self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        body = await request.body()
        headers = {"Content-Type": "application/json"}
        answer = await self.session.post(self.backend + request.url.path, data=body, headers=headers)
        if answer.content_length is not None:
            whole = await answer.read()
            return Response(whole, answer.status, media_type=answer.content_type)

        async def chunks() -> AsyncIterator[bytes]:
            async with answer:
                async for chunk in answer.content.iter_any():
                    yield chunk

        return StreamingResponse(chunks(), answer.status, media_type=answer.content_type)


if __name__ == "__main__":
    port, backend, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 * 2**20,
        _temp_dir=folder,
    )
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        options = {"num_replicas": 1, "max_ongoing_requests": 256, "ray_actor_options": {"num_cpus": 0}}
        serve.run(serve.deployment(**options)(PassThrough).bind(backend))
        signal.sigwait([signal.SIGTERM, signal.SIGINT])
    finally:
        ray.shutdown()
