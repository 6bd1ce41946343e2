"""`manage.py catalog`: a file makes the tables say what it says, once; a file with a mistake changes nothing."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command

from portal.accounts.models import Project, Quota, User
from portal.catalog.models import Environment, Model, Pool, Profile
from portal.catalog_file.changes import apply
from portal.catalog_file.tree import BadFile, Tree, read
from portal.fleet.models import Candidate, Cluster, Fit
from portal.redis import hints
from tests.api import world as make

PARTITIONS = {
    "gpu": {
        "name": "gpu",
        "up": True,
        "limit_min": 240,
        "groups": [
            {"count": 3, "gres": "gpu:a100:4(S:0-1)", "features": ["a100", "80gb"]},
            {"count": 1, "gres": "gpu:a100:4(S:0-1)", "features": ["a100", "ib"]},
        ],
    },
    "cpu": {"name": "cpu", "up": True, "limit_min": None, "groups": [{"count": 9, "gres": ""}]},
}
EXAMPLE = Path(__file__).parents[2] / "docs" / "catalog.example.yaml"
REACHED = "portal_url_from_nodes: http://10.0.0.5:8000"
pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    heard: list[str] = []
    monkeypatch.setattr(hints, "directory_changed", lambda: heard.append("directory"))
    monkeypatch.setattr(hints, "tick_soon", lambda: heard.append("tick"))
    return heard


def put(text: str, *options: str, file: Path | None = None, tmp_path: Path | None = None) -> str:
    if file is None:
        assert tmp_path is not None
        file = tmp_path / "catalog.yaml"
        file.write_text(text)
    out = io.StringIO()
    call_command("catalog", "apply", *options, str(file), stdout=out)
    return out.getvalue()


Put = Callable[..., str]


@pytest.fixture
def applied(tmp_path: Path) -> Put:
    return lambda text, *options: put(text, *options, tmp_path=tmp_path)


def test_the_example_applies_and_once_only(sent: list[str], django_capture_on_commit_callbacks: Any) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        first = put("", file=EXAMPLE)
    assert "+ model llama-3.1-70b" in first and "Applied: 19 added." in first
    assert sent == ["directory", "tick"]
    assert put("", file=EXAMPLE) == "Applied: 19 unchanged.\n"
    big = Model.objects.get(name="llama-3.1-70b")
    assert not big.is_public and [str(one) for one in big.projects.all()] == ["waves"]
    assert big.pool.args == {"max_model_len": 16384, "tensor_parallel_size": 4}
    assert Quota.objects.get(level="model", model=big.name).concurrent == 32
    assert list(Fit.objects.values_list("pool", "gpu_type", "fits")) == [("llama-3.1-70b", "v100", False)]


def test_a_change_is_shown_and_made(applied: Put) -> None:
    put("", file=EXAMPLE)
    said = applied(
        "profiles: {a100: {walltime_min: 2880, qos: long}}\nmodels: {llama-3.1-8b: {projects: [storms]}}"
    )
    assert "~ profile a100" in said and "walltime_min: 1440 → 2880" in said and "qos: (empty) → long" in said
    assert "projects: [] → ['storms']" in said and said.endswith("Applied: 2 changed.\n")
    profile = Profile.objects.get(name="a100")
    assert (profile.walltime_min, profile.qos, profile.gpus) == (2880, "long", 4), "the rest stays"


def test_a_dry_run_says_the_same_and_changes_nothing(
    sent: list[str], django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        said = put("", "--dry-run", file=EXAMPLE)
    assert "+ pool llama-3.1-8b" in said and said.endswith("Dry run, nothing was changed: 19 added.\n")
    assert not Project.objects.exists() and not Pool.objects.exists() and sent == []


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        (
            "profiles:\n  a:\n    partition: gpu\n    wall_time: 3",
            "line 4: profiles.a.wall_time",
            "no such field",
        ),
        ("projcts: {}", "line 1: projcts", "the sections are: accesses, environments"),
        ("quotas: {group: {}}", "quotas.group", "Write one of: model, project"),
        ("quotas: {project: {nobody: {queued: 1}}}", "quotas.project.nobody", "No project is named 'nobody'"),
        ("quotas: {model: {nothing: {queued: 1}}}", "quotas.model.nothing", "No model is named"),
        ("profiles: {a: {partition: gpu, gpus: many}}", "profiles.a.gpus", "Write a whole number"),
        ("profiles: {a: {partition: gpu, gpus: true}}", "profiles.a.gpus", "Write a whole number"),
        ("profiles: {a: {partition: gpu, gpus: 0, mem_request: mem-per-gpu}}", "profiles.a", "needs GPUs"),
        ("profiles: {a: {partition: gpu, constraint: a b}}", "profiles.a.constraint", "features such as"),
        (
            "profiles: {a: {partition: gpu, extra: {output: /x}}}",
            "profiles.a.extra",
            "log where it had it written",
        ),
        (
            "profiles: {a: {partition: gpu, extra: {gres: gpu}}}",
            "profiles.a.extra",
            "a field of its own: gpu_request",
        ),
        ("profiles: {a: {partition: gpu, extra: {speed: 1}}}", "profiles.a.extra", "There are: acctg-freq"),
        ("profiles: {a: {partition: gpu, extra: {hint: fast}}}", "profiles.a.extra", "hint cannot be 'fast'"),
        (
            "environments: {a: {engine: torch, python: /p}}",
            "environments.a.engine",
            "not implemented yet: choose vllm",
        ),
        ("environments: {a: {engine: echo, image: /i.sif}}", "environments.a.python", "inside the image"),
        ("environments: {a: {engine: echo, python: /p, image: a.sif}}", "environments.a.image", "absolute"),
        (
            "environments: {a: {engine: echo, python: /p, image: /a.sif, image_binds: [data]}}",
            "environments.a.image_binds",
            "absolute folders",
        ),
        ("profiles: {a: {partition: 'gpu; rm'}}", "profiles.a.partition", "Letters, digits"),
        ("profiles: {a: {partition: gpu, cost: .nan}}", "profiles.a.cost", "Write a number"),
        ("profiles: {a: {partition: gpu, enabled: maybe}}", "profiles.a.enabled", "Write true or false"),
        (
            "profiles: {a: {partition: gpu, submit_prefix: [ssh]}}",
            "profiles.a.submit_prefix",
            "no such field",
        ),
        (
            "profiles: {a: {partition: gpu, access: nowhere}}",
            "profiles.a.access",
            "No access is named 'nowhere'",
        ),
        (
            "profiles: {a: {partition: gpu, cluster: alps}}",
            "profiles.a.access",
            "choose the access that leads to alps",
        ),
        (
            "accesses: {x: {cluster: alps}}\nprofiles: {a: {partition: gpu, access: x, cluster: other}}",
            "profiles.a.cluster",
            "Access x leads to cluster alps",
        ),
        ("accesses: {x: {submit_prefix: ssh}}", "accesses.x.submit_prefix", "JSON list"),
        ("accesses: {x: {kind: ssh}}", "accesses.x.kind", "not a valid choice"),
        ("accesses: {x: {cluster: ../y}}", "accesses.x.cluster", "Letters, digits"),
        ("accesses: {x: {address: 'http://s:1'}}", "accesses.x.address", "kind cli does not use this"),
        ("accesses: {x: {kind: rest}}", "accesses.x.address", "where slurmrestd listens"),
        (
            "accesses: {x: {kind: rest, address: 'http://me:pw@s:1'}}",
            "accesses.x.address",
            "without a name or password",
        ),
        ("accesses: {x: {kind: rest, address: 'http://s:1'}}", "accesses.x.token_file", "wants a token"),
        (
            "accesses: {x: {kind: rest, address: 'http://s:1', token_file: eyJhbGciOiJIUzI1NiJ9.e30.x}}",
            "accesses.x.token_file",
            "absolute path",
        ),
        (
            "accesses: {x: {kind: rest, address: 'http://s:1', token_command: [echo, eyJhbGciOiJIUzI1NiJ9.e30.x]}}",
            "accesses.x.token_command",
            "Keep it in a file",
        ),
        ("accesses: {x: {kind: native}}", "accesses.x.python", "has pyslurm"),
        (
            "environments: {v: {engine: vllm, engine_version: 0.11}}",
            "environments.v.engine_version",
            "In quotes",
        ),
        ("environments: {v: {engine: vllm}}", "environments.v.python", "interpreter of its own"),
        ('projects: {a: {name: "a\\0b"}}', "projects.a.name", "NUL"),
        ("projects: {a: {name: A, weight: null}}", "projects.a.weight", "cannot be empty"),
        (
            "projects: {a: {name: A}}\npools: {p: {environment: e}}",
            "pools.p.profiles",
            "A new row needs this",
        ),
        ("projects:\n  a: {name: A}\n  a: {name: B}", "line 3: projects.a", "already on line 2"),
        ("projects: [a]", "line 1: projects", "rows by their names"),
        ("projects: {a: 7}", "projects.a", "Write its fields"),
        ("projects: {7: {name: A}}", "projects.7", "in quotes"),
        ("- a", "line 1: YAML", "sections"),
        ("projects: {a", "YAML", "expected ',' or '}'"),
        (
            "projects: !!python/object/apply:os.system [ls]",
            "line 1: YAML",
            "could not determine a constructor",
        ),
        ("projects: {a: {name: A, weight: 2026-02-31}}", "YAML", "day"),
    ],
)
def test_a_mistake_is_pointed_at_and_nothing_is_applied(
    applied: Put, text: str, where: str, what: str
) -> None:
    good = "" if text.startswith("-") else "\nenvironments: {good: {engine: echo}}"
    with pytest.raises(CommandError) as caught:
        applied(text + ("" if "environments" in text else good))
    said = str(caught.value)
    assert where in said and what in said and "nothing was applied" in said
    assert not Environment.objects.exists()


def test_every_mistake_of_a_section_is_told_at_once(applied: Put) -> None:
    with pytest.raises(CommandError) as caught:
        applied("projects:\n  a: {name: 1, weight: x}\n  b: {nam: B}")
    assert [name in str(caught.value) for name in ("projects.a.name", "projects.a.weight", "projects.b.nam")] == [
        True, True, True,
    ]  # fmt: skip


def test_only_prune_deletes_and_never_what_is_in_use(applied: Put) -> None:
    world = make.build()
    make.replica_row(world, make.pilot_row(world))
    Profile.objects.create(name="spare", partition="spare")
    looked_at = Profile.objects.create(name="looked-at", partition="spare")
    Candidate.objects.create(name="tide", path="/models/tide", project=world.project, profile=looked_at)
    Environment.objects.create(name="old", engine="echo")
    Quota.objects.create(level="project", project=world.project, queued=3)
    text = "profiles: {}\nenvironments: {}\nprojects: {storms: {}}\nmodels: {}\npools: {}\nquotas: {user: {}}"
    assert applied(text) == "Applied: 1 unchanged.\n"
    said = applied(text, "--prune")
    assert "- profile spare" in said and "- environment old" in said
    assert "! model surf stays: it is running" in said
    assert "! profile gpu stays: pools run under it, jobs of it are on record" in said
    assert "! project waves stays: it has members, it has tokens" in said
    assert "! environment echo stays: pools name it" in said
    assert "! profile looked-at stays: models are to be registered under it" in said
    assert Quota.objects.count() == 1, "the file says nothing of quotas of projects"
    assert "- quota of project waves" in applied("quotas: {project: {}}", "--prune")


def test_a_profile_is_held_to_what_slurm_has(applied: Put) -> None:
    said = applied("profiles: {a: {partition: nowhere}}")
    assert "warning: Nothing is known of cluster main yet" in said
    Cluster.objects.create(name="main", partitions=PARTITIONS, accounts={"sea": ["normal"]})
    with pytest.raises(
        CommandError,
        match=r"profiles\.a\.partition: Slurm knows no partition 'nowhere'\. There are: cpu, gpu",
    ):
        applied("profiles: {a: {cost: 2.0}}")
    said = applied("profiles: {a: {partition: gpu, gpu_type: a100, walltime_min: 500, account: sea}}")
    assert "warning: Partition gpu ends jobs after 240 minutes: a gets no more than that." in said
    applied("profiles: {b: {partition: nowhere, enabled: false}}")


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"gpu_type": "h100"}, "gpu_type", "There are: a100 (4 on a node)"),
        ({"gpus": 5}, "gpus", "No node of partition gpu has so many"),
        ({"partition": "cpu"}, "gpus", "No node of partition cpu has GPUs"),
        (
            {"walltime_least_min": 300, "walltime_min": 300},
            "walltime_least_min",
            "ends jobs after 240 minutes",
        ),
        ({"constraint": "a100&(ib|eth*2)"}, "constraint", "has eth. There are: 80gb, a100, ib"),
        ({"account": "land"}, "account", "There are: sea"),
        ({"qos": "long"}, "qos", "There are: normal, quick"),
        ({"account": "sea", "qos": "fast"}, "qos", "There are: normal, quick"),
    ],
)
def test_what_slurm_would_refuse_is_refused(change: dict[str, Any], field: str, says: str) -> None:
    Cluster.objects.create(name="main", partitions=PARTITIONS, accounts={"sea": ["normal", "quick"]})
    fine = Profile(
        name="a",
        partition="gpu",
        gpu_type="a100",
        gpus=4,
        account="sea",
        qos="quick",
        constraint="[80gb*2]&ib",
    )
    fine.full_clean()
    for name, value in change.items():
        setattr(fine, name, value)
    if field == "qos" and "account" not in change:
        fine.account = ""
    with pytest.raises(ValidationError) as caught:
        fine.full_clean()
    assert list(caught.value.message_dict) == [field]
    assert says in caught.value.message_dict[field][0]


def test_a_type_that_is_not_named_to_slurm_need_not_be_one_of_slurms() -> None:
    Cluster.objects.create(name="main", partitions=PARTITIONS)
    Profile(name="a", partition="gpu", gpu_type="a100-80gb", gpus=4, gpu_type_asked=False).full_clean()
    Profile(name="b", partition="cpu", gpus=0).full_clean()
    mig = {"gpu": {**PARTITIONS["gpu"], "groups": [{"count": 1, "gres": "gpu:1g.10gb:7(S:0)"}]}}
    Cluster.objects.update(partitions=mig)
    Profile(name="c", partition="gpu", gpu_type="1g.10gb", gpus=7, constraint="anything").full_clean()


def test_a_reservation_that_slurm_does_not_show_is_a_doubt_and_no_mistake(applied: Put) -> None:
    Cluster.objects.create(name="main", partitions=PARTITIONS, reservations=[{"name": "class"}])
    said = applied("profiles: {a: {partition: gpu, reservation: ours}}")
    assert "warning: Slurm shows no reservation ours" in said and "There are: class" in said
    assert "warning" not in applied(f"profiles: {{b: {{partition: gpu, reservation: class, {REACHED}}}}}")


def test_what_is_not_built_yet_cannot_be_chosen_and_a_row_that_has_it_stays(applied: Put) -> None:
    torch = Environment.objects.create(name="torch", engine="torch", python="/p")
    pool = Pool.objects.create(name="nets", environment=torch)
    Model.objects.create(name="net", pool=pool, kind="dnn", path="/m")
    same = "environments: {torch: {engine: torch, engine_version: '2'}}\nmodels: {net: {kind: dnn, description: x}}"
    assert "engine_version" in applied(same)
    with pytest.raises(CommandError, match=r"models\.other\.kind.*dnn is not implemented yet: choose llm"):
        applied("models: {other: {kind: dnn, pool: nets, path: /m}}")


def test_an_address_that_takes_a_token_in_clear_is_a_doubt_and_no_mistake(applied: Put) -> None:
    said = applied("accesses: {a: {kind: rest, address: 'http://slurm:6820', token_file: /t}}")
    assert "warning: Access a sends its token to slurm:6820 in clear" in said


def test_a_row_that_the_database_refuses_is_told_like_any_other(applied: Put) -> None:
    put("", file=EXAMPLE)
    User.objects.create_user("grace")
    with pytest.raises(CommandError, match=r"quotas\.user\.grace.*at least 1; empty is none"):
        applied("quotas: {user: {grace: {requests_per_min: 0}}}")
    with pytest.raises(BadFile, match="larger than 8 MiB"):
        read("#" * (9 * 2**20))
    assert apply(Tree({}, {})) == []
