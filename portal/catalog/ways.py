"""A way to Slurm as an administrator wrote it → nothing, or a ValidationError that names what to write instead.

Separate from `rules`, which need no database: which way a live job is reached by must not change under it, and which
cluster a profile belongs to depends on its access.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from django.apps import apps
from django.core.exceptions import ValidationError

from portal.catalog import patterns, rules
from portal.config import config

# What each kind of client reads beside the cluster's name; anything else would have no effect.
_FIELDS: dict[str, tuple[str, ...]] = {
    "cli": ("submit_prefix", "conf"),
    "rest": ("address", "user", "token_file", "token_command"),
    "native": ("submit_prefix", "conf", "python", "user"),
}
_ADDRESS = re.compile(r"https?://[A-Za-z0-9\[][A-Za-z0-9.:/_\[\]-]*|unix:/[A-Za-z0-9._/-]+")
_TOKEN = re.compile(r"eyJ[\w-]{8,}\.[\w-]+")  # how a JWT begins


def check(access: Any) -> None:
    """Raise ValidationError with the fields of an Access that are wrong."""
    if access.kind not in _FIELDS:
        return  # its own field says so
    for field in ("submit_prefix", "token_command"):
        rules.command(field, getattr(access, field))
    for field in ("conf", "token_file", "python"):
        rules.absolute(field, getattr(access, field))
    rules.like("agent_python", patterns.PROGRAM, access.agent_python, rules.PROGRAM_HINT)
    for field in ("spool", "agent_home"):
        setattr(access, field, rules.folder(field, getattr(access, field)))
    wrong = _useless(access) | _secrets(access) | (_rest(access) if access.kind == "rest" else {})
    if access.kind == "native" and not access.python:
        wrong["python"] = (
            "Write the interpreter of an environment that has pyslurm for this cluster's release."
        )
    wrong = wrong or _moved(access)
    if wrong:
        raise ValidationError(wrong)


def doubts(access: Any) -> str:
    """Return what is dangerous about a way and no mistake, or what its profiles lose by it; "" for nothing."""
    extras = access.profiles.order_by("name").values_list("name", "extra") if access.pk else ()
    said = [f"{name}: {text}" for name, extra in extras for text in patterns.extra_unsaid(extra, access.kind)]
    # Not urlsplit: it raises an error of brackets that do not close, which the pattern of addresses lets through.
    host = access.address.removeprefix("http://").partition("/")[0]
    here = re.fullmatch(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?", host)
    if access.address.startswith("http://") and here is None:
        said.append(
            f"Access {access.name} sends its token to {host} in clear: whoever reads it may submit jobs as its user. "
            "Write https:// (a TLS proxy before slurmrestd), or a tunnel's end on this host (docs/slurm-clients.md)."
        )
    return " ".join(said)


def check_profile(profile: Any) -> None:
    """Raise ValidationError where a profile's access and cluster contradict each other, or change under
    live jobs."""
    table = type(profile)
    old = table._default_manager.filter(pk=profile.pk).first() if profile.pk else None
    if profile.access is not None:
        if wordless := patterns.extra_unsaid(profile.extra, profile.access.kind):
            raise ValidationError({"extra": wordless})
        leads_to = profile.access.cluster
        # As it was, or never written: then it follows the access.
        unsaid = (table._meta.get_field("cluster").default, old.cluster if old is not None else leads_to)
        if profile.cluster not in (*unsaid, leads_to):
            raise ValidationError(
                {
                    "cluster": f"Access {profile.access} leads to cluster {leads_to}: write that, or leave the field out."
                }
            )
        profile.cluster = leads_to
    elif profile.enabled and profile.cluster != config().cluster:
        raise ValidationError(
            {
                "access": f"Slurm's commands on this host lead to cluster {config().cluster} (BERTH_CLUSTER): choose the "
                f"access that leads to {profile.cluster}."
            }
        )
    if old is None or (old.access_id, old.cluster) == (profile.access_id, profile.cluster):
        return
    if live := _live(profile=profile):
        raise ValidationError(
            {
                "access": f"{live} of this profile would not be found by another way: let them end first (disable the "
                "profile and drain them), or add a second profile."
            }
        )


def _useless(access: Any) -> dict[str, str]:
    fields = {field for known in _FIELDS.values() for field in known}
    takes = ", ".join(_FIELDS[access.kind])
    return {
        field: f"A way of kind {access.kind} does not use this; it takes: {takes}."
        for field in sorted(fields - set(_FIELDS[access.kind]))
        if getattr(access, field)
    }


def _secrets(access: Any) -> dict[str, str]:
    """Refuse secrets: catalogs are exported, printed and put under version control."""
    return {
        field: "This holds a token. Keep it in a file that only Berth's account may read, and write the file's path."
        for field in ("submit_prefix", "address", "user", "token_file", "token_command")
        if _TOKEN.search(str(getattr(access, field)))
    }


def _rest(access: Any) -> dict[str, str]:
    if not access.address:
        return {
            "address": "Write where slurmrestd listens, e.g. https://slurm:6843 or unix:/run/slurmrestd/socket."
        }
    if not _ADDRESS.fullmatch(access.address):
        return {
            "address": "Write http://, https:// or unix:/ and an address, without a name or password in it."
        }
    try:
        urlsplit(access.address).port  # noqa: B018 - brackets and port are looked at only when they are asked for
    except ValueError as error:
        return {
            "address": f"{error}: write a host name, an IPv4 address or an IPv6 address in brackets, and a port."
        }
    if access.token_file and access.token_command:
        return {"token_command": "Write token_file or token_command, not both."}
    if not (access.token_file or access.token_command):
        return {
            "token_file": "slurmrestd wants a token, by a unix socket too: write its file, or token_command."
        }
    return {}


# What says which Slurm is asked, and as whom. An address may change: a daemon that moved has to be followed.
_IDENTITY = ("kind", "cluster", "submit_prefix", "conf", "user", "token_file", "token_command", "spool")


def _moved(access: Any) -> dict[str, str]:
    """Refuse to move an access under live jobs.

    A job is known by its number in one cluster, listed for one account, and has its log and secret in one
    folder.
    """
    old = type(access)._default_manager.filter(pk=access.pk).first() if access.pk else None
    if old is None:
        return {}
    changed = [field for field in _IDENTITY if getattr(old, field) != getattr(access, field)]
    live = _live(profile__access=access) if changed else ""
    text = (
        f"{live} submitted by this way might not be found any more: disable the profiles that use it, let the jobs end, "
        "then change it; or make a new access for new profiles."
    )
    return dict.fromkeys(changed, text) if live else {}


def _live(**which: Any) -> str:
    """Return how many live jobs there are, in words; "" for none."""
    rows = apps.get_model("fleet", "Pilot")._default_manager.filter(**which).exclude(state="ended")
    count = rows.count()
    return f"{count} job{'s' if count > 1 else ''}" if count else ""
