"""A word that a person wrote → the row that it names, or a refusal that lists what comes close.

Shared by API, pages and the command line, so that the same word means the same everywhere. Each raises
ValidationError.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db.models import QuerySet

from portal.catalog.models import Model, Pool, Profile
from portal.fleet.models import Candidate, Cluster, Pilot, Replica
from portal.fleet.states import PilotState

_SHOWN = 5
_LEAST_PREFIX = 4


def pool(word: str) -> Pool:
    """Find a pool by its own name, or by that of a model which it serves."""
    _without_nul(word)
    found = Pool.objects.filter(name=word).first() or Pool.objects.filter(served__name=word).first()
    if found is None:
        names = [*Pool.objects.values_list("name", flat=True), *Model.objects.values_list("name", flat=True)]
        raise ValidationError(f"No model or pool is named '{word[:128]}'. {_close(word, names)}")
    return found


def model(word: str) -> Model:
    _without_nul(word)
    found = Model.objects.filter(name=word).first()
    if found is None:
        names = Model.objects.values_list("name", flat=True)
        raise ValidationError(f"No model is named '{word[:128]}'. {_close(word, names)}")
    return found


def candidate(word: str) -> Candidate:
    """Find a candidate that has not been looked at yet."""
    found = Candidate.objects.filter(pk=int(word)).first() if word.isdecimal() and len(word) < 19 else None
    if found is None:
        raise ValidationError(f"No model that is to be registered has the number '{word[:30]}'.")
    return found


def profile(word: str) -> Profile:
    _without_nul(word)
    found = Profile.objects.filter(name=word).first()
    if found is None:
        names = Profile.objects.values_list("name", flat=True)
        raise ValidationError(f"No profile is named '{word[:128]}'. {_close(word, names)}")
    return found


def pilot(word: str) -> Pilot:
    """Find a pilot by its Slurm job id (`cluster/id` where several clusters have it), its id or the beginning
    of it, or its job name.

    Of several with one job id the live one is meant, else the newest.
    """
    _without_nul(word)
    rows = Pilot.objects.select_related("profile").order_by("-planned_at")
    of, slash, number = word.rpartition("/")
    if number.isdecimal() and len(number) < 19:
        found_by_job = _by_job(rows.filter(cluster=of) if slash else rows, int(number))
        if found_by_job is not None:
            return found_by_job
    if (id_ := _uuid(word)) is not None and (row := rows.filter(pk=id_).first()) is not None:
        return row
    if (row := rows.filter(job_name=word).first()) is not None:
        return row
    live = rows.exclude(state=PilotState.ENDED)
    if len(word) >= _LEAST_PREFIX and id_ is None:
        found = [row for row in live if str(row.pk).startswith(word.lower())]
        if len(found) == 1:
            return found[0]
    jobs = [str(row.job_id or row.pk) for row in live]
    raise ValidationError(f"No pilot has the job, name or id '{word[:128]}'. {_close(word, jobs)}")


def _by_job(rows: QuerySet[Pilot], job_id: int) -> Pilot | None:
    """Find a pilot by its job's number, which means one job within a cluster only."""
    matching = list(rows.filter(job_id=job_id)[:_SHOWN])
    live = [row for row in matching if row.state != PilotState.ENDED] or matching
    clusters = sorted({row.cluster for row in live})
    if len(clusters) > 1:
        names = " or ".join(f"{cluster}/{job_id}" for cluster in clusters)
        raise ValidationError(f"Several clusters have a job {job_id}: write {names}.")
    return live[0] if live else None


def replica(word: str) -> Replica:
    found = known_replica(word)
    if found is None:
        raise ValidationError(f"No replica has the id '{word[:128]}': the fleet page lists them.")
    return found


def known_replica(word: str) -> Replica | None:
    id_ = _uuid(word)
    return Replica.objects.select_related("pilot").filter(pk=id_).first() if id_ is not None else None


def unknown_job(word: str) -> int:
    """Find a job that carries our name and that no row knows, by its id."""
    known = {job_id for orphans in Cluster.objects.values_list("orphans", flat=True) for job_id in orphans}
    if word not in known:
        if not known:
            raise ValidationError(f"'{word[:30]}' is not an unknown job: Slurm's last listing has none.")
        raise ValidationError(f"'{word[:30]}' is not an unknown job. {_close(word, known)}")
    return int(word)


def only_cluster(job_id: int) -> str:
    """Return the cluster that has this unknown job, where only one has."""
    having = sorted(row.name for row in Cluster.objects.all() if str(job_id) in row.orphans)
    if len(having) > 1:
        raise ValidationError(
            f"Clusters {' and '.join(having)} both have an unknown job {job_id}: name the cluster."
        )
    return having[0] if having else ""


def cluster(word: str) -> str:
    _without_nul(word)
    names = sorted(Cluster.objects.values_list("name", flat=True))
    if word not in names:
        raise ValidationError(f"No cluster is named '{word[:64]}'. {_close(word, names)}")
    return word


def _without_nul(word: str) -> None:
    """Refuse a NUL: PostgreSQL's text holds none, so it does not even look."""
    if "\0" in word:
        raise ValidationError("A name must not contain a NUL character.")


def _uuid(word: str) -> UUID | None:
    try:
        return UUID(word)
    except ValueError:
        return None


def _close(word: str, names: Iterable[str]) -> str:
    known = sorted(set(names))
    if not known:
        return "There is none yet."
    lower = {name.lower(): name for name in known}
    near = [lower[name] for name in get_close_matches(word.lower(), lower, _SHOWN, 0.5)]
    near += [name for name in known if word and word.lower() in name.lower() and name not in near]
    if near:
        return f"Did you mean {' or '.join(near[:_SHOWN])}?"
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    return f"There are: {', '.join(known[:_SHOWN])}{more}."
