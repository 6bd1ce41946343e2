"""A folder with a model → a candidate that a pilot looks at → a model of the catalog. The rules of who may do what.

Administrators register for every project; a project's managers for theirs, safetensors models without code of their
own, which wait for an operator's approval where the site wants that (BERTH_REGISTER_APPROVAL).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Q, QuerySet

from portal.accounts.models import Membership, Project, User
from portal.catalog.models import Engine, Environment, Model, Pool, Profile
from portal.catalog.proposal import Proposal, cpu_args, propose
from portal.config import config
from portal.fleet.models import Candidate, Command
from portal.redis import hints
from portal.services.commands import NewCommand, give


def may_register(user: User) -> bool:
    return user.is_superuser or user.operates or projects_of(user).exists()


def projects_of(user: User) -> QuerySet[Project]:
    """Return the projects for which this person may register models."""
    active = Project.objects.filter(is_active=True).order_by("slug")
    if user.is_superuser:
        return active
    return active.filter(membership__user=user, membership__role=Membership.Role.MANAGER)


def profiles_of(user: User) -> QuerySet[Profile]:
    """Return the profiles where the models of these projects may run."""
    enabled = Profile.objects.filter(enabled=True).order_by("name")
    if user.is_superuser:
        return enabled
    return enabled.filter(Q(charge=Profile.Charge.SERVICE) | Q(project__in=projects_of(user)))


def environments() -> QuerySet[Environment]:
    """Return the environments whose engine serves what can be registered from a folder with a config.json."""
    return Environment.objects.exclude(engine=Engine.TORCH).order_by("name")


def candidates_of(user: User) -> QuerySet[Candidate]:
    rows = Candidate.objects.select_related("project", "profile", "created_by", "model", "pilot")
    if user.operates:
        return rows
    return rows.filter(project__in=projects_of(user))


def may_change(user: User, candidate: Candidate) -> bool:
    return projects_of(user).filter(pk=candidate.project_id).exists()


def begin(user: User, name: str, path: str, project: Project, profile: Profile) -> Candidate:
    """Begin a registration with the look at its folder. Raise ValidationError."""
    roots = project.model_roots
    if not roots:
        raise ValidationError(
            {"project": f"{project} has no model roots yet: an administrator sets them in the admin."}
        )
    pure = PurePosixPath(path)
    if not pure.is_absolute() or ".." in pure.parts or any(ord(c) < 32 for c in path):
        raise ValidationError({"path": "Write an absolute path without '..'."})
    if not any(pure.is_relative_to(root) and pure != PurePosixPath(root) for root in roots):
        raise ValidationError({"path": f"The folder must be below {' or '.join(roots)}."})
    _check_free(name)
    candidate = Candidate(name=name, path=str(pure), project=project, profile=profile, created_by=user)
    candidate.full_clean()
    with transaction.atomic():
        candidate.save()
        _ask(user, candidate)
    return candidate


def again(user: User, candidate: Candidate) -> None:
    """Look again, after what was in the way is gone."""
    with transaction.atomic():
        fresh = {"pilot": None, "asked_at": None, "jobs": 0, "found": None, "error": "", "found_at": None}
        if Candidate.objects.filter(pk=candidate.pk, model=None, found_at__isnull=False).update(**fresh):
            _ask(user, candidate)


def _ask(user: User, candidate: Candidate) -> None:
    give(NewCommand(Command.Kind.INSPECT, args={"candidate": candidate.pk}), user)


def proposal_for(candidate: Candidate) -> Proposal | None:
    if candidate.found is None:
        return None
    return propose(candidate.found, candidate.profile.gpus, candidate.profile.mem_mb)


@dataclass(frozen=True, slots=True)
class ModelChoices:
    """The person's choices, made of the proposal."""

    environment: Environment
    gpus: int
    mem_mb: int
    cap: int
    context_tokens: int | None
    load_estimate_s: float
    keep_alive_s: int
    description: str
    is_public: bool = False
    trust_remote_code: bool = False


def save(user: User, candidate: Candidate, chosen: ModelChoices) -> Model:
    """Save the model and its pool. Raise ValidationError."""
    proposal = proposal_for(candidate)
    if proposal is None or candidate.model_id is not None:
        raise ValidationError(
            "There is nothing to save: it was already saved, or its folder has not been inspected."
        )
    _check_rights(user, proposal, chosen)
    _check_free(candidate.name)
    waits = config().register_approval and not user.operates
    pool = Pool(
        name=candidate.name,
        environment=chosen.environment,
        gpus=chosen.gpus,
        mem_mb=chosen.mem_mb,
        cap=chosen.cap,
        keep_alive_s=chosen.keep_alive_s,
        load_estimate_s=chosen.load_estimate_s,
        args=_args(candidate, proposal, chosen),
    )
    if chosen.gpus > candidate.profile.gpus or chosen.mem_mb > candidate.profile.mem_mb:
        gpus = f"{candidate.profile.gpus} GPUs" if candidate.profile.gpus else "no GPU"
        room = f"{gpus} and {candidate.profile.mem_mb} MiB of memory"
        raise ValidationError(
            f"A job of profile {candidate.profile} has only {room}: the model does not fit."
        )
    with transaction.atomic():
        pool.full_clean()
        pool.save()
        pool.profiles.set([candidate.profile])
        model = Model(
            name=candidate.name,
            pool=pool,
            path=candidate.path,
            revision=str((candidate.found or {}).get("revision", ""))[:100],
            context_tokens=chosen.context_tokens,
            enabled=not waits,
            is_public=chosen.is_public,
            registered_for=candidate.project,
            description=chosen.description,
        )
        model.full_clean()
        model.save()
        model.projects.set([candidate.project])
        taken = Candidate.objects.filter(pk=candidate.pk, model=None).update(model=model, approval=waits)
        if not taken:
            raise ValidationError("It was saved by somebody else in the meantime.")
        transaction.on_commit(hints.directory_changed)
    return model


def approve(candidate: Candidate) -> bool:
    """Approve a candidate as an operator. Return False when it did not wait for that."""
    with transaction.atomic():
        if not Candidate.objects.filter(pk=candidate.pk, approval=True, model__isnull=False).update(
            approval=False
        ):
            return False
        model = Model.objects.get(candidate=candidate)
        model.enabled = True
        model.save(update_fields=["enabled"])
        transaction.on_commit(hints.directory_changed)
    return True


def _check_rights(user: User, proposal: Proposal, chosen: ModelChoices) -> None:
    """Check what this person may choose. Raise ValidationError."""
    if user.is_superuser:
        return
    if proposal.admin_only:
        raise ValidationError(f"Only an administrator may save it: {'; '.join(proposal.admin_only)}.")
    if chosen.is_public or chosen.trust_remote_code:
        raise ValidationError(
            "Only an administrator may make it available to all projects or let it run code of its own."
        )


def _check_free(name: str) -> None:
    if Model.objects.filter(name=name).exists() or Pool.objects.filter(name=name).exists():
        raise ValidationError({"name": f"A model or pool named '{name[:128]}' already exists."})


def _args(candidate: Candidate, proposal: Proposal, chosen: ModelChoices) -> dict[str, Any]:
    """Return the engine's arguments, vLLM's only. What the person chose comes before what was proposed."""
    if chosen.environment.engine != Engine.VLLM:
        return {}
    args = {name: value for name, value in proposal.args.items() if name == "runner"}
    if chosen.context_tokens:
        args["max_model_len"] = chosen.context_tokens
    if chosen.gpus > 1:
        args["tensor_parallel_size"] = chosen.gpus
    if not chosen.gpus:
        args |= cpu_args(candidate.found or {}, chosen.context_tokens or 4096)
    if chosen.trust_remote_code:
        args["trust_remote_code"] = True
    return args
