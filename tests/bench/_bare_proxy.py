"""The least that a proxy in Python can be: aiohttp's server and client on uvloop, and nothing looked at.

python _bare_proxy.py PORT BACKEND_URL
"""

from __future__ import annotations

import sys

import aiohttp
import uvloop
from aiohttp import web


async def make(backend: str) -> web.Application:
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
    )

    async def proxy(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {"Content-Type": "application/json"}
        async with session.post(backend + request.path, data=body, headers=headers) as answer:
            if answer.content_length is not None:
                whole = await answer.read()
                return web.Response(status=answer.status, body=whole, content_type=answer.content_type)
            out = web.StreamResponse(status=answer.status, headers={"Content-Type": answer.content_type})
            await out.prepare(request)
            async for chunk in answer.content.iter_any():
                await out.write(chunk)
            await out.write_eof()
            return out

    app = web.Application(client_max_size=2**26)
    app.router.add_post("/{path:.*}", proxy)
    app.on_cleanup.append(lambda _app: session.close())
    return app


if __name__ == "__main__":
    uvloop.install()
    web.run_app(make(sys.argv[2]), host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)
