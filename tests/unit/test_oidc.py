"""Environment variables → identity providers: what is missing or contradicts itself is said at start."""

from __future__ import annotations

from pathlib import Path

import pytest

from portal.config import ConfigError, parse
from portal.config.oidc import Provider

WHOLE = {
    "BERTH_OIDC_ISSUER": "https://idp.example/realms/hpc",
    "BERTH_OIDC_CLIENT_ID": "berth",
    "BERTH_OIDC_CLIENT_SECRET": "canary",
}


def test_none_is_none() -> None:
    assert parse({}).oidc == ()


def test_what_is_said_is_understood() -> None:
    more = {
        "BERTH_OIDC_NAME": "Campus",
        "BERTH_OIDC_SCOPES": "openid org.cilogon.userinfo",
        "BERTH_OIDC_IDPS": "urn:a, urn:b",
        "BERTH_OIDC_PROJECTS_CLAIM": "groups",
        "BERTH_OIDC_OPERATORS": "groups=cn=ops,ou=hpc",
    }
    (found,) = parse(WHOLE | more).oidc
    assert found == Provider(
        issuer="https://idp.example/realms/hpc", client_id="berth", client_secret="canary", name="Campus",
        scopes=("openid", "org.cilogon.userinfo"), idps=("urn:a", "urn:b"), projects_claim="groups",
        operators=("groups", "cn=ops,ou=hpc"),
    )  # fmt: skip
    assert "canary" not in repr(found)


def test_several_are_numbered_and_never_share_an_id() -> None:
    second = {name.replace("OIDC", "OIDC2"): value for name, value in WHOLE.items()}
    second["BERTH_OIDC2_ISSUER"] = "https://idp.example/realms-hpc"
    first, other = parse(WHOLE | second).oidc
    assert first.id != other.id and first.id.startswith("idp.example-")
    with pytest.raises(ConfigError, match="the same"):
        parse(WHOLE | second | {"BERTH_OIDC2_ISSUER": WHOLE["BERTH_OIDC_ISSUER"]})


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"BERTH_OIDC_CLIENT_ID": ""}, "CLIENT_ID is missing"),
        ({"BERTH_OIDC_ISSUER": "http://idp.example"}, "must be an https"),
        ({"BERTH_OIDC_ISSUER": "idp.example"}, "must be an https"),
        ({"BERTH_OIDC_CLIENT_SECRET": ""}, "set one of"),
        ({"BERTH_OIDC_CLIENT_SECRET_FILE": "/nowhere"}, "set one of"),
        ({"BERTH_OIDC_OPERATORS": "groups"}, "claim=value"),
        ({"BERTH_OIDC_SCOPES": "profile"}, "openid"),
        ({"BERTH_OIDC_ISUER": "x"}, "unknown setting BERTH_OIDC_ISUER"),
        ({"BERTH_OIDC": "x"}, "unknown setting BERTH_OIDC"),
    ],
)
def test_what_is_wrong_is_said_at_start(changed: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse(WHOLE | changed)


def test_the_secret_may_stand_in_a_private_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("kept\n")
    said = {name: value for name, value in WHOLE.items() if "SECRET" not in name}
    said["BERTH_OIDC_CLIENT_SECRET_FILE"] = str(file)
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        parse(said)
    file.chmod(0o600)
    assert parse(said).oidc[0].client_secret == "kept"


def test_somebody_can_log_in() -> None:
    with pytest.raises(ConfigError, match="nobody could log in"):
        parse({"BERTH_LOCAL_LOGIN": "false"})
    assert not parse(WHOLE | {"BERTH_LOCAL_LOGIN": "false"}).local_login
