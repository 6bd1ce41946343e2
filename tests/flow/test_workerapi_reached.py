"""A pilot is registered once the portal has reached its ingress, at the first address that works; else it hears why."""

from __future__ import annotations

import socket
import time
import uuid
from typing import Any

import pytest

from gpuworker import wire
from portal.workerapi import probe
from tests.flow.dataplane import Plane
from tests.flow.pilot_client import Pilot, registered


@pytest.fixture
def nowhere() -> Any:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def _registered(plane: Plane) -> Any:
    return plane.sql("SELECT agent_job_id, address, registered_at IS NOT NULL FROM fleet_pilot")[0]


async def test_an_ingress_that_is_not_reached_is_not_registered(plane: Plane, nowhere: str) -> None:
    pilot = Pilot(plane, plane.new_pilot("pending", job_id=77))
    status, said = await pilot.register(address=nowhere)
    assert (status, said["known"]) == (424, False)
    assert said["tried"][0]["address"] == nowhere
    assert said["tried"][0]["why"].startswith("it refused the connection")
    assert _registered(plane) == (None, "", False)
    seen = plane.sql("SELECT kind FROM ledger_holder WHERE id = %s", (pilot.id,))
    assert seen == [("pilot",)], "it has spoken: it is not cancelled for its silence"


async def test_the_first_address_that_works_is_registered(plane: Plane, nowhere: str) -> None:
    pilot = Pilot(plane, plane.new_pilot("pending", job_id=77))
    status, _ = await pilot.register(address=nowhere, others=[plane.ingress.url])
    assert status == 200
    assert _registered(plane) == (77, plane.ingress.url, True)


async def test_another_pilots_ingress_is_not_taken_for_its_own(plane: Plane) -> None:
    pilot = Pilot(plane, plane.new_pilot("pending", job_id=77))
    body = wire.dumps(
        wire.Register(pilot.id, 77, 0, "gpu01", plane.ingress.url, 1.0, 2.0, "0.1.0", ["0"], 1, time.time())
    )
    plane.ingress.key = wire.derive_key(plane.settings.site_key, "ingress", str(uuid.uuid4()))
    status, said = await pilot.call("register", body)
    assert status == 424 and "another server than this pilot's" in said["tried"][0]["why"]


async def test_a_job_that_is_not_the_pilots_hears_that_first(plane: Plane, nowhere: str) -> None:
    pilot, _ = registered(plane)
    assert (await Pilot(plane, pilot.id, job_id=78).register(address=nowhere))[0] == 409
    plane.sql("UPDATE fleet_pilot SET state = 'ended', ended_at = now()")
    assert (await pilot.register(address=nowhere))[0] == 410


async def test_one_that_is_registered_keeps_its_row_and_hears_that_it_is_known(
    plane: Plane, nowhere: str
) -> None:
    pilot, _ = registered(plane)
    status, said = await pilot.register(address=nowhere)
    assert (status, said["known"]) == (424, True)
    assert plane.sql("SELECT agent_job_id, address, said_ending FROM fleet_pilot") == [
        (77, plane.ingress.url, "")
    ]


async def test_a_portal_that_cannot_ask_asks_for_patience(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(*_: object) -> probe.Found:
        raise probe.Busy("Too many open files")

    monkeypatch.setattr(probe, "first", busy)
    pilot = Pilot(plane, plane.new_pilot("pending", job_id=77))
    assert (await pilot.register())[0] == 503
    assert _registered(plane) == (None, "", False)


async def test_whose_agent_opens_the_links_is_not_asked_for_an_ingress(plane: Plane) -> None:
    pilot = Pilot(plane, plane.new_pilot("pending", job_id=77))
    links = f"{wire.REVERSE}{pilot.id}"
    assert (await pilot.register(address=f"{wire.REVERSE}{uuid.uuid4()}"))[0] == 400, "another pilot's links"
    assert (await pilot.register(address=links))[0] == 200
    assert _registered(plane) == (77, links, True)


async def test_who_says_that_it_cannot_serve_is_not_asked_for_an_ingress(plane: Plane) -> None:
    pilot = Pilot(plane, plane.new_pilot("pending", job_id=77))
    assert (await pilot.register(address="", refusal="it has 1 of 2 GPUs"))[0] == 200
    assert _registered(plane) == (77, "", True)


async def test_an_agent_of_before_an_upgrade_is_registered_as_it_was_then(plane: Plane, nowhere: str) -> None:
    """Its ingress proves nothing when it is asked, and it holds a 424 for a portal that is away."""
    pilot = Pilot(plane, plane.new_pilot("pending", job_id=77))
    assert (await pilot.register(address=nowhere, sent_at=0.0))[0] == 200
    assert _registered(plane) == (77, nowhere, True)
