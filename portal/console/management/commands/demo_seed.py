"""A fresh installation → one with people, a token and two models that a new machine can run.

For the demo, tests and trying out. Everything is found or made by its name, so that a second run changes
nothing but the token, which cannot be shown again and is therefore replaced.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import transaction

from portal.accounts.issue import issue_token, revoke
from portal.accounts.models import ApiToken, Membership, Project, User
from portal.catalog.models import Engine, Environment, Model, Pool, Profile
from portal.config import config

MODEL = "berth-demo"
TOKEN_NAME = "demo"
# A small model on the CPU: no kernels to compile, one GiB of cache, and two engines may share the cores. vLLM's own
# processes wait for each other by spinning: computing on every core as well halves what it answers.
CPU_ARGS: dict[str, Any] = {
    "device": "cpu",
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 2048,
    "kv_cache_gib": 1,
    "omp_threads": max(1, (os.cpu_count() or 2) - 1),
    "omp_threads_bind": "nobind",
}


@dataclass(frozen=True, slots=True)
class Served:
    """A demo model with its environment and pool, all named alike."""

    name: str
    engine: Engine
    python: str
    path: str
    description: str
    mem_mb: int
    cap: int
    context_tokens: int | None
    load_estimate_s: float
    args: dict[str, Any]


class Command(BaseCommand):
    help = "Create the demo's people, token, profile and models."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--model-path", required=True, help="folder of the demo model")
        parser.add_argument("--engine-python", required=True, help="interpreter of the vLLM environment")
        parser.add_argument("--partition", default="gpu")
        parser.add_argument("--gpu-type", default="a100")
        parser.add_argument("--door-address", default="", help="where pilots' ingresses listen")
        parser.add_argument("--portal-url-from-nodes", default="", help="where pilots find the portal")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    @transaction.atomic
    def handle(self, *args: Any, **options: Any) -> None:
        passwords = kept_passwords(config().state_dir / "demo.json")
        admin = person("admin", passwords["admin"], staff=True)
        user = person("demo", passwords["demo"], staff=False)
        project, _ = Project.objects.get_or_create(slug="demo", defaults={"name": "Demo"})
        for member in (admin, user):
            Membership.objects.get_or_create(user=member, project=project)
        profile, _ = Profile.objects.update_or_create(
            name="demo",
            defaults={
                "cluster": config().cluster,
                "partition": options["partition"],
                "gpu_type": options["gpu_type"],
                "door_address": options["door_address"],
                "portal_url_from_nodes": options["portal_url_from_nodes"],
                "gpus": 2,
                "cpus": 4,
                "mem_mb": 8_000,
                "walltime_min": 60,
                # No less: a job that backfill starts gets the least, also where nothing stands in its way.
                "walltime_least_min": 60,
            },
        )
        for served in demo_models(options["model_path"], options["engine_python"]):
            serve(served, profile)
        said = {
            "token": fresh_token(user, project),
            "model": MODEL,
            "admin": {"username": admin.username, "password": passwords["admin"]},
            "user": {"username": user.username, "password": passwords["demo"]},
        }
        self.stdout.write(json.dumps(said) if options["json"] else json.dumps(said, indent=2))


def kept_passwords(path: Path) -> dict[str, str]:
    """Return the demo's passwords: random when first asked for, then the same, from a file that only its owner may
    read."""
    try:
        kept: dict[str, str] = json.loads(path.read_text())
        return kept
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = {name: secrets.token_urlsafe(12) for name in ("admin", "demo")}
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            json.dump(made, out)
        return made


def person(username: str, password: str, *, staff: bool) -> User:
    user, _ = User.objects.get_or_create(username=username)
    # Hashing takes a moment on purpose: only where the password is not the one already set.
    if not user.check_password(password):
        user.set_password(password)
    user.is_staff = user.is_superuser = user.is_operator = staff
    user.is_active = True
    user.save()
    return user


def demo_models(model_path: str, engine_python: str) -> tuple[Served, Served]:
    return (
        Served(
            name=MODEL,
            engine=Engine.VLLM,
            python=engine_python,
            path=model_path,
            description="A tiny Llama that answers about a hundred questions. Runs on the CPU.",
            mem_mb=4_000,
            cap=16,
            context_tokens=CPU_ARGS["max_model_len"],
            load_estimate_s=40,
            args=CPU_ARGS,
        ),
        Served(
            name="echo",
            engine=Engine.ECHO,
            python="",
            path="",
            description="Repeats what it was told. Loads no weights.",
            mem_mb=500,
            cap=64,
            context_tokens=None,
            load_estimate_s=2,
            args={},
        ),
    )


def serve(served: Served, profile: Profile) -> None:
    environment, _ = Environment.objects.update_or_create(
        name=f"demo-{served.engine}", defaults={"engine": served.engine, "python": served.python}
    )
    pool, _ = Pool.objects.update_or_create(
        name=served.name,
        defaults={
            "environment": environment,
            "mem_mb": served.mem_mb,
            "cap": served.cap,
            "keep_alive_s": 120,
            "load_limit_s": 300,
            "load_estimate_s": served.load_estimate_s,
            "args": served.args,
        },
    )
    pool.profiles.add(profile)
    Model.objects.update_or_create(
        name=served.name,
        defaults={
            "pool": pool,
            "path": served.path,
            "context_tokens": served.context_tokens,
            "description": served.description,
        },
    )


def fresh_token(user: User, project: Project) -> str:
    """Return a new token, which takes the place of the former ones of this name."""
    for former in ApiToken.objects.filter(user=user, project=project, name=TOKEN_NAME, revoked_at=None):
        revoke(former)
    _, minted = issue_token(user, project, TOKEN_NAME, [ApiToken.Scope.INFERENCE, ApiToken.Scope.READ])
    return minted.text
