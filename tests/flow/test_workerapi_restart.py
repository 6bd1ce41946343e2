"""An agent that was started again holds nothing: what the one before it had pulled goes back at once."""

from __future__ import annotations

from tests.flow.dataplane import Plane
from tests.flow.test_workerapi_rows import _hot, _lease, _put


async def test_a_restarted_agents_rows_go_back_when_it_registers(plane: Plane) -> None:
    [request] = _put(plane)
    pilot, replica = await _hot(plane)
    assert [row["request"] for row in await _lease(pilot, replica)] == [request]
    assert (await pilot.register())[0] == 200
    row = plane.row(request)
    assert row is not None and (row["state"], row["attempt"], row["crashes"]) == ("queued", 1, 0)
