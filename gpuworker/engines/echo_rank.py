"""The echo engine over several nodes: ranks that meet over TCP at the head's address, as those of real engines do.

Rank 0 serves (`echo_server`) and waits until all others have joined; each answer goes by every rank and back, so that one
that is gone or stuck shows. A rank whose connection ends, ends itself with an error, and so does the head. Without any
proof of who connects: tests and benchmarks only, as all of this engine.

    python -m gpuworker.engines.echo_rank --rank 1 --world 2 --master 10.0.0.1 --port 41234
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

JOIN_S = 60.0
ROUND_S = 30.0
BROKEN = 70


class Ranks:
    """The head's side."""

    def __init__(self, world: int) -> None:
        self._world = world
        self._links: dict[int, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}
        self._all = asyncio.Event()
        self._turn = asyncio.Lock()
        self._server: asyncio.Server | None = None

    async def meet(self, address: str, port: int) -> None:
        """Return once all are there. Raises SystemExit where they do not come."""
        self._server = await asyncio.start_server(self._join, address, port)
        print(f"rank 0 waits for {self._world - 1} others at {address} port {port}", flush=True)
        try:
            async with asyncio.timeout(JOIN_S):
                await self._all.wait()
        except TimeoutError:
            raise SystemExit(f"echo: {len(self._links)} of {self._world - 1} ranks joined") from None
        print(f"all {self._world} ranks are joined", flush=True)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            rank = int(await reader.readline())
        except ValueError:
            writer.close()
            return
        self._links[rank] = (reader, writer)
        if len(self._links) == self._world - 1:
            self._all.set()

    async def round(self) -> None:
        """Pass one word by every rank and back. End the process where one is gone: the engine is whole or
        none."""
        async with self._turn:
            try:
                async with asyncio.timeout(ROUND_S):
                    for rank, (reader, writer) in self._links.items():
                        writer.write(b"round\n")
                        if await reader.readline() != b"round\n":
                            raise ConnectionError(f"rank {rank} is gone")
            except (OSError, TimeoutError) as error:
                print(f"echo: a rank is lost: {error}", flush=True)
                os._exit(BROKEN)


async def follow(rank: int, address: str, port: int) -> int:
    """Join the head, and answer it until it is gone."""
    print(f"rank {rank} joins {address} port {port}", flush=True)
    until = asyncio.get_running_loop().time() + JOIN_S
    while True:
        try:
            reader, writer = await asyncio.open_connection(address, port)
            break
        except OSError as error:
            if asyncio.get_running_loop().time() > until:
                print(f"echo: no head: {error}", flush=True)
                return BROKEN
            await asyncio.sleep(0.1)
    writer.write(f"{rank}\n".encode())
    print(f"rank {rank} has joined", flush=True)
    while line := await reader.readline():
        writer.write(line)
    print("echo: the head is gone", flush=True)
    return BROKEN


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--world", type=int, required=True)
    parser.add_argument("--master", required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    sys.exit(asyncio.run(follow(given.rank, given.master, given.port)))
