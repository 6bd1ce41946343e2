"""Blocking SQL from asynchronous code: a few threads, each with one connection of its own.

Separate from what is asked, and shared by the worker API and the gateway's files and batches. A pilot's call takes
milliseconds of SQL and may then wait for 20 s, so hundreds of waiting pilots need a handful of connections.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import psycopg2
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from portal.db import connections

T = TypeVar("T")
THREADS = 4


class Database:
    def __init__(self, url: str, name: str, threads: int = THREADS) -> None:
        self._url = url
        self._name = name
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._own = threading.local()
        self._links: list[Connection] = []

    async def run(self, ask: Callable[[Cursor], T]) -> T:
        """Run `ask` in a transaction of its own, committed when it returns. Raise psycopg2.Error.

        It is tried a second time when the connection turns out to be dead before anything was asked on it.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._run, ask)

    def _run(self, ask: Callable[[Cursor], T]) -> T:
        link = self._link()
        try:
            with link.cursor() as cur:
                answer = ask(cur)
            link.commit()
            return answer
        except BaseException:
            self._clean(link)
            raise

    def _link(self) -> Connection:
        link: Connection | None = getattr(self._own, "link", None)
        if link is not None and not link.closed:
            try:
                with link.cursor() as cur:
                    cur.execute("SELECT 1")
                return link
            except psycopg2.Error:
                self._clean(link)
        link = self._own.link = connections.connect(self._url, f"berth {self._name}")
        self._links.append(link)
        return link

    def _clean(self, link: Connection) -> None:
        try:
            link.rollback()
        except psycopg2.Error:
            link.close()

    def close(self) -> None:
        self._threads.shutdown(wait=True)
        for link in self._links:
            link.close()
