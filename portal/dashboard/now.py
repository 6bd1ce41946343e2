"""What goes on now, for operators: GPUs, queue and waits over time, and nodes with the models on their GPUs.

Everything comes from rows that the control loop wrote: nobody's page asks Slurm anything.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import Sum
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone

from portal.config import config
from portal.dashboard.charts import Chart, Series, draw
from portal.dashboard.fleet import operators_only
from portal.dashboard.fragments import unchanged_is_304
from portal.dashboard.nodes import nodes
from portal.dashboard.templatetags.berth import exactly
from portal.fleet.models import Cluster, Pilot, Replica, Sample
from portal.fleet.states import ON_NODES, REPLICA_ENDED, PilotState
from portal.ledger.models import Depth
from portal.services.cluster_state import cluster_health

COLUMNS = (
    "busy", "ready", "loading", "empty", "asked", "queued_held", "queued_async", "queued_batch", "parked",
    "wait_p50_s", "wait_p95_s", "oldest_s",
)  # fmt: skip
MOST_PILOTS = 150


@dataclass(frozen=True, slots=True)
class Window:
    """A window of time: how far back the charts go, how far apart their points are, and how a point's time is
    written."""

    text: str
    length: timedelta
    step: timedelta
    clock: str


WINDOWS = {
    "3h": Window("3 hours", timedelta(hours=3), timedelta(minutes=2), "%H:%M"),
    "24h": Window("a day", timedelta(hours=24), timedelta(minutes=15), "%H:%M"),
    "7d": Window("a week", timedelta(days=7), timedelta(hours=2), "%d %b %H:%M"),
}


@operators_only
def page(request: HttpRequest) -> HttpResponse:
    return render(request, "dashboard/now.html", shown() | charts(request))


@unchanged_is_304
@operators_only
def fragment(request: HttpRequest) -> HttpResponse:
    return render(request, "dashboard/_now.html", shown())


@unchanged_is_304
@operators_only
def charts_fragment(request: HttpRequest) -> HttpResponse:
    return render(request, "dashboard/_now_charts.html", charts(request))


def shown() -> dict[str, Any]:
    now = timezone.now()
    stands = {
        row.name: cluster_health(row, now)
        for row in Cluster.objects.order_by("name").prefetch_related("ways")
    }
    rows = Pilot.objects.exclude(state=PilotState.ENDED).select_related("profile").order_by("-planned_at")
    pilots = list(rows[: MOST_PILOTS + 1])
    drawn = [pilot for pilot in pilots[:MOST_PILOTS] if pilot.state in ON_NODES]
    return {
        "standing": stands.get(config().cluster),
        "silent": [
            (name if len(stands) > 1 else "", way.text)
            for name, one in stands.items()
            for way in one.ways
            if not way.answers
        ],
        "last": Sample.objects.filter(cluster=config().cluster).order_by("-at").first(),
        "depth": dict(Depth.objects.values_list("state").annotate(Sum("n"))),
        "nodes": nodes(drawn, _live(drawn), now),
        "coming": [pilot for pilot in pilots[:MOST_PILOTS] if pilot.state not in ON_NODES],
        "cut": len(pilots) > MOST_PILOTS,
        "most": MOST_PILOTS,
    }


def _live(pilots: list[Pilot]) -> dict[UUID, list[Replica]]:
    found: dict[UUID, list[Replica]] = defaultdict(list)
    for replica in Replica.objects.filter(pilot__in=pilots).exclude(state__in=REPLICA_ENDED):
        found[replica.pilot_id].append(replica)
    return found


def charts(request: HttpRequest) -> dict[str, Any]:
    asked = request.GET.get("window", "")
    name = asked if asked in WINDOWS else "3h"
    return {
        "window": name,
        "windows": [(key, window.text) for key, window in WINDOWS.items()],
        "charts": draw_all(WINDOWS[name], timezone.now()),
    }


def draw_all(window: Window, now: datetime) -> list[Chart]:
    moments, found = read(window, now)

    def series(name: str, column: str, colour: str) -> Series:
        return Series(name, [found[at][column] if at in found else None for at in moments], colour)

    gpus = [
        series("Busy", "busy", "busy"),
        series("Idle", "ready", "ready"),
        series("Loading", "loading", "loading"),
        series("No model", "empty", "empty"),
        series("Waiting in Slurm", "asked", "asked"),
    ]
    queue = [
        series("Interactive", "queued_held", "c0"),
        series("Background", "queued_async", "c1"),
        series("Batch", "queued_batch", "c2"),
        series("Parked", "parked", "rest"),
    ]
    waits = [
        series("Median wait", "wait_p50_s", "c0"),
        series("95th percentile wait", "wait_p95_s", "c1"),
        series("Wait at the head of the queue", "oldest_s", "c2"),
    ]
    return [
        draw("GPUs by state", "areas", moments, gpus, of="counts", clock=window.clock),
        draw("Waiting requests", "areas", moments, queue, of="counts", clock=window.clock),
        draw(
            "Wait times",
            "lines",
            moments,
            waits,
            of="seconds",
            words=exactly,
            clock=window.clock,
        ),
    ]


def read(window: Window, now: datetime) -> tuple[list[datetime], dict[datetime, dict[str, float | None]]]:
    """Return every moment of the window, and what was sampled at those at which the control loop ran: the mean of
    GPUs and of median waits, and the highest of everything else."""
    step_s = window.step.total_seconds()
    last = datetime.fromtimestamp(now.timestamp() // step_s * step_s, UTC)
    first = last - window.length
    asked: list[Any] = [window.step, first, config().cluster, first]
    with connection.cursor() as cur:
        cur.execute(
            """SELECT date_bin(%s, at, %s) AS moment, avg(busy), avg(ready), avg(loading), avg(empty), avg(asked),
                 max(queued_held), max(queued_async), max(queued_batch), max(parked),
                 avg(wait_p50_s), max(wait_p95_s), max(oldest_s)
               FROM fleet_sample WHERE cluster = %s AND at >= %s GROUP BY 1""",
            asked,
        )
        found = {
            moment: dict(zip(COLUMNS, map(_number, values), strict=True))
            for moment, *values in cur.fetchall()
        }
    moments = [first + n * window.step for n in range(int(window.length / window.step) + 1)]
    # The minute that has just begun has no sample yet: that is no gap.
    return (moments if last in found else moments[:-1]), found


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
