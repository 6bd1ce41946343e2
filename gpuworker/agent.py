"""The agent: what runs between the portal's wishes and this job's engines. `python -m gpuworker.agent`.

Three loops over shared state, each with one question: what should be here (`_steps`), what does the portal say
(`_syncs`), is there work to pull (the leaser). Everything that changes wakes them; each also looks by itself,
because a wake-up is a hint.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

from gpuworker import door, exits, lastword, lifetime, logtail, registration, resources, settings, wire
from gpuworker.exits import CannotServe, JobOver
from gpuworker.ingress import Ingress
from gpuworker.inspector import Inspector
from gpuworker.interfaces import Address
from gpuworker.leaser import Leaser
from gpuworker.nodes import Nodes
from gpuworker.outbox import Outbox
from gpuworker.portal_client import Ended, Lost, PortalClient, Refused, Unavailable, Unregistered
from gpuworker.replica import Replica
from gpuworker.replicas import Replicas
from gpuworker.reverse import Reverse
from gpuworker.seats import Fence
from gpuworker.wakeup import woken

log = logging.getLogger("berth.agent")

SECRET_WAIT_S = 30.0
STEP_S = 0.2
# Changes that come together go into one sync; a replica going idle is news, but not at 100 per second.
GATHER_S = 0.03
IDLE_NEWS_S = 0.5
LOG_BYTES = 64 * 1024
RESULTS_LIMIT_S = 5.0
END_GRACE_S = 2.0
LAST_SYNC_LIMIT_S = 3.0
CLEAN_UP_LIMIT_S = 5.0


class Agent:
    def __init__(self, given: settings.Settings, secret: wire.Secret, holds: resources.Resources) -> None:
        self._settings = given
        self._nodes = Nodes(given, holds, os.environ, given.pilot_dir)
        self._secret = secret
        self._agent_at = time.time()
        self._portal = PortalClient(secret)
        self._wake_step = asyncio.Event()
        self._wake_sync = asyncio.Event()
        fence = Fence()
        self._replicas = Replicas(self._nodes, given.pilot_dir, self._changed)
        self._outbox = Outbox(secret.pilot, self._portal)
        self._leaser = Leaser(
            secret.pilot, self._portal, self._replicas, self._outbox, fence, self._idle_news
        )
        self._replicas.cut = self._leaser.give_back
        self._ingress = Ingress(secret.ingress_key, self._replicas, fence, self._held_left)
        self._reverse = (
            Reverse(secret, given.job_id, self._ingress.answer, self._replicas.most_held, self._wake_sync.set)
            if given.reverse
            else None
        )
        self._inspector = Inspector(self._changed)
        # From the clock, so that it also rises over a restart of the agent.
        self._seq = int(self._agent_at * 1000)
        self._answer: wire.SyncAnswer | None = None
        self._heard_at = self._agent_at
        self._synced_at = 0.0
        self._hinted_at: float | None = None
        self._term_at: float | None = None
        self._drain: lifetime.Drain | None = None
        self._ending = ""
        self._unfit: CannotServe | None = None  # found while it serves: what runs is finished first

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._on_term)
        loop.add_signal_handler(signal.SIGUSR2, self._on_hint)
        tasks: list[asyncio.Task[None]] = []
        try:
            urls = await self._open()
            await self._register(urls)
            works = [self._steps(), self._syncs(urls), self._leaser.run(), self._outbox.run()]
            if self._reverse is not None:
                works.append(self._reverse.run())
            tasks = [asyncio.create_task(work) for work in works]
            # Each runs for ever: the first to return or raise decides. A bug in one is a crash of the agent.
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            done.pop().result()
            return exits.DONE
        except JobOver as over:
            log.info("%s", over)
            return over.code
        finally:
            for task in tasks:
                task.cancel()
            await self._clean_up()

    async def _clean_up(self) -> None:
        """End what hangs here within a bound: the supervisor ends what is left, and the job must end."""
        try:
            async with asyncio.timeout(CLEAN_UP_LIMIT_S):
                await self._replicas.stop_all("the agent ends", 0)
                await self._nodes.stop()
                await self._ingress.stop()
                if self._reverse is not None:
                    await self._reverse.stop()
                await self._portal.close()
                await self._replicas.staging.stop()
                self._inspector.stop()
        except TimeoutError:
            log.warning("not cleaned up within %.0f s", CLEAN_UP_LIMIT_S)

    # Wake-ups.

    def _changed(self) -> None:
        self._wake_step.set()
        self._wake_sync.set()
        self._leaser.look()

    def _held_left(self, replica: Replica) -> None:
        self._leaser.look()
        if replica.seats.in_flight == 0:
            self._idle_news()

    def _idle_news(self) -> None:
        self._wake_step.set()
        pause = self._synced_at + IDLE_NEWS_S - time.time()
        if self._drain or pause <= 0:
            self._wake_sync.set()
        else:
            asyncio.get_running_loop().call_later(pause, self._wake_sync.set)

    def _on_term(self) -> None:
        if self._term_at is None:
            log.info("SIGTERM: Slurm ends this job soon")
            self._term_at = time.time()
            self._wake_step.set()

    def _told_to_end(self) -> bool:
        return self._term_at is not None

    def _on_hint(self) -> None:
        log.info("SIGUSR2: Slurm says that the time limit is near")
        self._hinted_at = time.time()
        self._wake_step.set()

    # What the portal says.

    def _apply(self, answer: wire.SyncAnswer) -> None:
        self._answer = answer
        self._heard_at = time.time()
        self._replicas.want(answer.desired)
        self._replicas.staging.want([] if self._drain else answer.stage)
        self._inspector.want(answer.inspect)
        for cancel in answer.cancels:
            self._leaser.cancel(cancel.request, cancel.attempt)
        self._wake_step.set()

    async def _open(self) -> list[str]:
        """Gather the job's nodes and open the ingress; return where gateways reach it, the best address first."""
        addresses: list[Address] = []
        if self._reverse is None or self._nodes.others:
            until = self._agent_at + self._settings.register_limit_s
            addresses = await door.find(
                self._settings.door_address,
                self._secret.portal_url,
                until,
                self._wake_step,
                self._told_to_end,
            )
        if self._nodes.others:
            await self._nodes.start(str(addresses[0]))
            await self._nodes.gathered()
        if self._reverse is not None:
            return [f"{wire.REVERSE}{self._secret.pilot}"]
        return await self._ingress.start(addresses, self._settings.door_ports)

    async def _register(self, urls: list[str]) -> None:
        message = registration.of(self._settings, self._nodes, self._secret.pilot, urls, self._agent_at)
        # From now: the job may be old when an adopted pilot registers again.
        limit_s = self._settings.register_limit_s + time.time() - self._agent_at
        self._apply(
            await registration.register(
                self._portal,
                message,
                limit_s,
                self._wake_step,
                self._told_to_end,
                served=self._answer is not None,
                ports=self._settings.door_ports,
            )
        )

    async def _syncs(self, urls: list[str]) -> None:
        while True:
            try:
                self._apply(await self._sync())
                self._heard(answered=True)
            except (Lost, Ended) as error:
                raise JobOver(exits.DONE, f"the portal holds this pilot for ended: {error}") from None
            except Unregistered:
                log.warning("the portal has lost our registration: registering again")
                await self._register(urls)
            except (Refused, Unavailable) as error:
                # A portal that refuses our token may be one that is being repaired; silence ends us in time.
                log.warning("no sync: %s", error)
                self._heard(answered=False)
            assert self._answer is not None
            if await woken(self._wake_sync, max(self._answer.interval_s, GATHER_S)):
                await asyncio.sleep(GATHER_S)
            self._wake_sync.clear()

    def _heard(self, *, answered: bool) -> None:
        if self._reverse is None or self._drain is not None or self._unfit is not None:
            return
        try:
            self._reverse.heard(answered)
        except CannotServe as error:
            # Rows that were pulled need no link: they are finished, no more are asked for, then the job ends.
            log.warning("%s", error)
            self._unfit = error
            self._wake_step.set()

    async def _sync(self) -> wire.SyncAnswer:
        self._seq += 1
        self._synced_at = time.time()
        wants_log = self._answer is not None and self._answer.want_log
        return await self._portal.sync(
            wire.Sync(
                pilot=self._secret.pilot,
                job_id=self._settings.job_id,
                seq=self._seq,
                at=self._synced_at,
                draining=self._drain is not None,
                ending=self._ending,
                replicas=self._replicas.observed(),
                rows=[*self._leaser.rows(), *self._outbox.rows()],
                log_tail=self._log_tail() if wants_log else None,
                staged=self._replicas.staging.staged,
                inspected=self._inspector.reports,
            )
        )

    def _log_tail(self) -> str:
        job_log = self._settings.job_log
        own = [("job", job_log)] if job_log else []
        return logtail.sections([*own, *self._nodes.logs(), *self._replicas.logs()], LOG_BYTES)

    # What should be here.

    async def _steps(self) -> None:
        while not self._finished():
            self._wake_step.clear()
            self._decide_drain()
            await self._replicas.step(pilot_drains=self._drain is not None)
            await woken(self._wake_step, STEP_S)
        await self._end()

    def _decide_drain(self) -> None:
        assert self._answer is not None
        signs = lifetime.Signs(
            deadline_at=self._answer.deadline_at,
            portal_drains=self._answer.drain or self._unfit is not None,
            hinted_at=self._hinted_at,
            term_at=self._term_at,
            heard_at=self._heard_at,
            busy=self._replicas.in_flight > 0,
            drain_limit_s=self._replicas.drain_limit_s,
            longest_s=self._replicas.longest_s,
            node_lost=bool(self._nodes.lost),
        )
        before = self._drain
        self._drain = lifetime.decide(signs, before, self._settings.portal_silence_s, time.time())
        if self._drain is None or self._drain == before:
            return
        log.info("draining (%s), %.0f s at most", self._drain.ending, self._drain.until - time.time())
        self._ingress.draining = True
        self._leaser.close()
        if self._drain.ending == "preempted":
            # Seconds are left: rows first, they are safe as soon as the portal has them.
            self._leaser.give_back(None, "preempted")
        self._wake_sync.set()

    def _finished(self) -> bool:
        return self._drain is not None and (self._replicas.all_ended() or time.time() >= self._drain.until)

    async def _end(self) -> None:
        assert self._drain is not None
        self._leaser.give_back(None, self._drain.ending)
        if not await self._outbox.flushed(RESULTS_LIMIT_S):
            log.warning("results not delivered at the end; the portal gives their rows back")
        await self._replicas.stop_all(self._drain.ending, END_GRACE_S)
        if self._unfit is not None:
            raise self._unfit  # the last word is why, and a pilot that has ended is not heard any more
        self._ending = self._drain.ending
        await self._say_the_end()
        raise JobOver(exits.DONE, f"ended: {self._ending}")

    async def _say_the_end(self) -> None:
        try:
            async with asyncio.timeout(LAST_SYNC_LIMIT_S):
                await self._last_sync()
        except TimeoutError:
            log.warning("the portal did not hear our last sync")

    async def _last_sync(self) -> None:
        while True:
            try:
                await self._sync()
                return
            except (Lost, Ended, Refused, Unregistered):
                return
            except Unavailable:
                await asyncio.sleep(0.3)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m gpuworker.agent")
    parser.add_argument("--secret", required=True, metavar="FILE")
    given = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    try:
        secret = settings.await_secret(Path(given.secret), SECRET_WAIT_S)
        read = settings.read(os.environ)
    except settings.SettingsError as error:
        log.error("%s", error)
        lastword.tell_now(given.secret, str(error))
        return exits.CONFIG
    if names := settings.unknown(os.environ):
        log.warning("environment variables that nothing reads, misspelt? %s", ", ".join(names))
    asyncio.run(_run(read, secret))
    raise AssertionError("_run never returns")


async def _run(given: settings.Settings, secret: wire.Secret) -> NoReturn:
    try:
        holds = await asyncio.to_thread(resources.look, os.environ, given)
        code = await Agent(given, secret, holds).run()
    except (settings.SettingsError, CannotServe) as error:
        log.error("this job ends, because it cannot serve: %s", error)
        code = error.code if isinstance(error, CannotServe) else exits.UNFIT
        await lastword.tell(secret, str(error))
    # Not by returning: a closing event loop gives signals their deadly defaults back, and Slurm's warning would
    # then turn a clean end into a crash that the supervisor answers with a new agent.
    logging.shutdown()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
