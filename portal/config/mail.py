"""BERTH_MAIL_* → the server through which mail goes out; without BERTH_MAIL_HOST none does.

Separate from `portal.config`, which takes the result as one of its fields, as `portal.config.oidc` is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from portal.config.secret_files import SecretFileError, read_secret

SETTINGS = ("HOST", "PORT", "TLS", "USER", "PASSWORD_FILE", "FROM")
_TLS: dict[str, Literal["none", "starttls", "tls"]] = {"none": "none", "starttls": "starttls", "tls": "tls"}


class MailError(ValueError):
    """The settings are incomplete or contradict each other."""


@dataclass(frozen=True, slots=True)
class Mail:
    host: str = ""
    """Empty: no mail."""
    port: int = 25
    tls: Literal["none", "starttls", "tls"] = "none"
    user: str = ""
    password: str = field(default="", repr=False)
    sender: str = "berth@localhost"


def is_setting(name: str) -> bool:
    return name.removeprefix("BERTH_MAIL_") in SETTINGS


def read(values: Mapping[str, str]) -> Mail:
    """Return the server that `values` (environment variables) describe. Raise MailError."""
    said = {name: values.get(f"BERTH_MAIL_{name}", "").strip() for name in SETTINGS}
    if not said["HOST"]:
        if any(said.values()):
            raise MailError("BERTH_MAIL_HOST is missing")
        return Mail()
    tls = _TLS.get(said["TLS"] or "none")
    if tls is None:
        raise MailError(f"BERTH_MAIL_TLS is {said['TLS']!r}; it must be one of: {', '.join(_TLS)}")
    if said["PORT"] and not said["PORT"].isdecimal():
        raise MailError(f"BERTH_MAIL_PORT is {said['PORT']!r}; it must be a number")
    if bool(said["USER"]) != bool(said["PASSWORD_FILE"]):
        raise MailError("BERTH_MAIL_USER and BERTH_MAIL_PASSWORD_FILE go together")
    return Mail(
        host=said["HOST"],
        port=int(said["PORT"] or {"tls": 465, "starttls": 587}.get(tls, 25)),
        tls=tls,
        user=said["USER"],
        password=_password(said["PASSWORD_FILE"]) if said["PASSWORD_FILE"] else "",
        sender=said["FROM"] or "berth@localhost",
    )


def _password(file: str) -> str:
    try:
        return read_secret(Path(file))
    except SecretFileError as error:
        raise MailError(f"BERTH_MAIL_PASSWORD_FILE: {error}") from None
