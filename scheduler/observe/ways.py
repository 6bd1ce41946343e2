"""Profiles → the ways by which their jobs are submitted and listed, and what each way last said.

A way's silence holds what is reached by it, and nothing else. Separate from the listing, because submitting, cancelling
and reading logs have to know who is silent, too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from django.db.models import Exists, OuterRef, Q, QuerySet

from portal.catalog.models import Access, Profile
from portal.config import Config
from portal.fleet.models import Cluster, Pilot, WayState
from portal.fleet.states import PilotState
from scheduler.moments import moment
from scheduler.policy.consequences import NoteWayAnswers, NoteWaySilent
from scheduler.slurm.way import Way

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Site:
    """The clusters of one tick and the ways to them, with their rows. The rows change during a tick: who found a way
    silent spares the others the wait."""

    clusters: dict[str, Cluster]
    ways: dict[Way, WayState]
    _of_profile: dict[int, Way] = field(default_factory=dict)

    def way_of(self, profile: Profile) -> Way:
        """Return the way of a profile that came with its access."""
        way = self._of_profile.get(profile.pk)
        if way is None:
            way = self._of_profile[profile.pk] = way_of(profile)
        return way

    def error(self, way: Way) -> str:
        """Return why the last question by this way had no answer; "" when it had one. By a way that is not asked nothing
        may be done: its numbers of jobs may be another cluster's."""
        row = self.ways.get(way)
        return (
            row.error if row is not None else "It is not asked: no access of an enabled profile leads there."
        )

    def label(self, way: Way) -> str:
        """Return what people call it: plain Slurm where there is no other."""
        return "Slurm" if len(self.ways) <= 1 else way.said

    def paused(self, cluster: str) -> bool:
        """Return whether nothing is launched in the cluster. One that is not known is not paused."""
        row = self.clusters.get(cluster)
        return row is not None and row.paused

    def named(self, cluster: str, name: str) -> Way | None:
        """Return the way of a cluster by the name of its access; None where it is not used any more."""
        return next((way for way in self.ways if (way.cluster, way.name) == (cluster, name)), None)

    def silence(self, way: Way, error: str) -> None:
        """Store that a verb had no answer: nothing more is started by this way until a listing has one."""
        row = self.ways.get(way)
        if row is None or row.pk is None:  # its last profile was switched off meanwhile
            logger.warning("%s does not answer: %s", way.said, error)
            return
        if row.error != error:
            logger.warning("%s does not answer: %s", way.said, error)
        row.error = error
        row.save(update_fields=["error"])

    def leave(self, way: Way, until: float) -> None:
        """Ask nothing by this way before `until`, in whatever process the next tick is: a submission may be under way,
        and a listing that lacks its job would have it asked for twice."""
        if (row := self.ways.get(way)) is not None:
            row.busy_until = moment(until)
            row.save(update_fields=["busy_until"])

    def unsure(self, way: Way, now: float) -> None:
        """Note that a submission had no answer: only a listing that is asked for after `now`, by whatever process, tells
        whether its job exists."""
        row = self.ways.get(way)
        if row is not None and row.pk is not None:
            row.tried_at = moment(now)
            row.save(update_fields=["tried_at"])

    def answered(self, way: Way, at: datetime) -> None:
        """Note that a listing had an answer, asked for at `at`. The caller saves the row."""
        row = self.ways[way]
        row.answered_at, row.error = at, ""


def silence_notes(site: Site) -> Iterator[NoteWaySilent | NoteWayAnswers]:
    """Yield the silences, and the ends of silences, of which no decision row tells yet. Pure."""
    for way, row in site.ways.items():
        if row.error and not row.silence_noted:
            reason = (
                f"Slurm does not answer: nothing is launched or cancelled until it does, what runs goes on. {row.error}"
                if len(site.ways) == 1
                else f"{way.said} does not answer: nothing is launched or cancelled there until it does, what runs goes "
                f"on. The other ways to Slurm are not held. {row.error}"
            )
            yield NoteWaySilent(cluster=way.cluster, way=way.name, reason=reason)
        elif row.silence_noted and not row.error:
            reason = f"{site.label(way)} answers again: what waited for it goes on."
            yield NoteWayAnswers(cluster=way.cluster, way=way.name, reason=reason)


def way_of(profile: Profile) -> Way:
    """Return the way by which jobs of a profile are submitted. Reads its access."""
    access = profile.access
    return Way(cluster=profile.cluster) if access is None else way_by(access)


def way_by(access: Access) -> Way:
    """Return the way that an access describes."""
    return Way(
        kind=access.kind,  # type: ignore[arg-type]  # the database's choices are those of Kind
        cluster=access.cluster,
        prefix=tuple(map(str, access.submit_prefix)),
        address=access.address,
        conf=access.conf,
        user=access.user,
        token_file=access.token_file,
        token_command=tuple(map(str, access.token_command)),
        python=access.python,
        name=access.name,
    )


def served(config: Config) -> QuerySet[Profile]:
    """Return the profiles whose jobs this loop may submit. Without an access, a cluster of another name than ours
    cannot be reached: Slurm's commands on this host lead to one."""
    return Profile.objects.filter(Q(access__isnull=False) | Q(cluster=config.cluster))


def site(config: Config) -> Site:
    """Return every cluster and way that an enabled profile or a live pilot needs, with the rows that there are."""
    live = Pilot.objects.filter(profile=OuterRef("pk")).exclude(state=PilotState.ENDED)
    used = served(config).filter(Q(enabled=True) | Exists(live)).select_related("access")
    ways = sorted({way_of(profile) for profile in used})
    return Site(_clusters({config.cluster, *(way.cluster for way in ways)}), _states(ways))


def _clusters(names: Iterable[str]) -> dict[str, Cluster]:
    """Return the rows of all clusters, and make those that are missing. Those that nobody uses now are ticked, too:
    else they would look as if the loop had died."""
    found = {row.name: row for row in Cluster.objects.all()}
    for name in names:
        if name not in found:
            found[name] = Cluster.objects.get_or_create(name=name)[0]
    return dict(sorted(found.items()))


def _states(ways: Iterable[Way]) -> dict[Way, WayState]:
    """Return the rows of these ways; what is left of a way that nobody uses any more is forgotten: it is asked no more,
    so it would stay silent for ever."""
    rows = {(row.cluster_id, row.name): row for row in WayState.objects.all()}
    found = {}
    for way in ways:
        row = rows.pop((way.cluster, way.name), None)
        if row is None:
            row, _ = WayState.objects.get_or_create(
                cluster_id=way.cluster, name=way.name, defaults={"said": way.said}
            )
        elif row.said != way.said:
            row.said = way.said
            row.save(update_fields=["said"])
        found[way] = row
    if rows:
        WayState.objects.filter(pk__in=[row.pk for row in rows.values()]).delete()
    return found
