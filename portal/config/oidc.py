"""BERTH_OIDC_* → the identity providers through which people may log in.

Separate from `portal.config`, which takes the result as one of its fields: there may be several providers, each with
settings of its own (BERTH_OIDC_ISSUER …, a second one's are BERTH_OIDC2_ISSUER …, up to BERTH_OIDC9_).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from portal.config.secret_files import SecretFileError, read_secret

SETTINGS = (
    "ISSUER",
    "CLIENT_ID",
    "CLIENT_SECRET",
    "CLIENT_SECRET_FILE",
    "NAME",
    "SCOPES",
    "IDPS",
    "IDP_CLAIM",
    "PROJECTS_CLAIM",
    "OPERATORS",
)
_NAMED = re.compile(rf"BERTH_OIDC([2-9]?)_({'|'.join(SETTINGS)})")
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class OidcError(ValueError):
    """A provider's settings are incomplete or contradict each other."""


@dataclass(frozen=True, slots=True)
class Provider:
    """An OpenID provider. A person is (issuer, subject) and nothing else: never an e-mail address."""

    issuer: str
    """As in its discovery document, to the letter, e.g. https://cilogon.org."""
    client_id: str
    client_secret: str = field(repr=False)
    name: str = "single sign-on"
    """On the button: "Log in with …"."""
    scopes: tuple[str, ...] = ("openid", "profile", "email")
    idps: tuple[str, ...] = ()
    """Of a federation: identity providers whose people may come, as its `idp_claim` names them; none: all."""
    idp_claim: str = "idp"
    projects_claim: str = ""
    """Claim whose values the table of claim rules maps to projects; members.hpc finds `hpc` inside `members`."""
    operators: tuple[str, str] | None = None
    """(claim, value) that makes operators. Where it is set it decides, at each log-in and both ways."""

    @property
    def id(self) -> str:
        """Return what stands for it in addresses and beside each subject in the database: each issuer has its own."""
        digest = hashlib.sha256(self.issuer.encode()).hexdigest()[:16]
        return f"{urlsplit(self.issuer).hostname}-{digest}"


def is_setting(name: str) -> bool:
    return _NAMED.fullmatch(name) is not None


def read(values: Mapping[str, str]) -> tuple[Provider, ...]:
    """Return every provider that `values` (environment variables) describe, in order. Raise OidcError."""
    numbers = sorted({found.group(1) for name in values if (found := _NAMED.fullmatch(name))})
    providers = tuple(_provider(f"BERTH_OIDC{number}_", values) for number in numbers)
    if len({provider.issuer for provider in providers}) < len(providers):
        raise OidcError("two of BERTH_OIDC*_ISSUER are the same")
    return providers


def _provider(prefix: str, values: Mapping[str, str]) -> Provider:
    said = {name: values.get(prefix + name, "").strip() for name in SETTINGS}
    for name in ("ISSUER", "CLIENT_ID"):
        if not said[name]:
            raise OidcError(f"{prefix}{name} is missing")
    _check_issuer(prefix, said["ISSUER"])
    operators = said["OPERATORS"].partition("=")
    if said["OPERATORS"] and not (operators[0] and operators[2]):
        raise OidcError(f"{prefix}OPERATORS is {said['OPERATORS']!r}; write claim=value")
    scopes = tuple(said["SCOPES"].split()) or ("openid", "profile", "email")
    if "openid" not in scopes:
        raise OidcError(f"{prefix}SCOPES must hold openid")
    return Provider(
        issuer=said["ISSUER"],
        client_id=said["CLIENT_ID"],
        client_secret=_secret(prefix, said["CLIENT_SECRET"], said["CLIENT_SECRET_FILE"]),
        name=said["NAME"] or "single sign-on",
        scopes=scopes,
        idps=tuple(filter(None, (idp.strip() for idp in said["IDPS"].split(",")))),
        idp_claim=said["IDP_CLAIM"] or "idp",
        projects_claim=said["PROJECTS_CLAIM"],
        operators=(operators[0], operators[2]) if said["OPERATORS"] else None,
    )


def _check_issuer(prefix: str, issuer: str) -> None:
    parts = urlsplit(issuer)
    safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
    if not safe or not parts.hostname or parts.query or parts.fragment:
        raise OidcError(
            f"{prefix}ISSUER is {issuer!r}; it must be an https:// address without query (http on loopback)"
        )


def _secret(prefix: str, text: str, file: str) -> str:
    if bool(text) == bool(file):
        raise OidcError(f"set one of {prefix}CLIENT_SECRET and {prefix}CLIENT_SECRET_FILE")
    if text:
        return text
    try:
        return read_secret(Path(file))
    except SecretFileError as error:
        raise OidcError(f"{prefix}CLIENT_SECRET_FILE: {error}") from None
