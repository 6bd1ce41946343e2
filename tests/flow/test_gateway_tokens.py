"""Who may ask: tokens missing, malformed, unknown, expired, revoked, of the wrong scope; each is told which."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from portal.accounts.tokens import mint
from portal.gateway import directory
from portal.redis import keys
from tests.flow.dataplane import Plane, chat, until


async def _code(plane: Plane, headers: dict[str, str]) -> tuple[int, str]:
    async with plane.client.post(plane.url + "/v1/chat/completions", json=chat(), headers=headers) as answer:
        said = await answer.json()
        assert answer.status != 401 or answer.headers["WWW-Authenticate"] == "Bearer"
        return answer.status, said["error"]["code"] if "error" in said else "ok"


@pytest.fixture
def only_pushed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no snapshot of a gateway that starts after this grow old."""
    monkeypatch.setattr(directory, "REFRESH_S", 3600.0)


async def _refreshed(plane: Plane) -> None:
    """Take a snapshot of what stands in the tables now. One may be under way that was begun before."""
    asked = time.monotonic()
    plane.redis.publish(keys.DIRECTORY.of(), "changed")
    await until(lambda: plane.gateway.directory.snapshot.read_at > asked, "a new snapshot")


async def test_each_way_of_not_having_a_token_has_its_own_code(plane: Plane) -> None:
    plane.route()
    text = plane.seeded.token
    assert await _code(plane, {}) == (401, "token_missing")
    assert await _code(plane, {"Authorization": "Basic abc"}) == (401, "token_missing")
    assert await _code(plane, plane.headers("sk-123")) == (401, "token_malformed")
    assert await _code(plane, plane.headers(text[:-1])) == (401, "token_malformed")
    assert await _code(plane, plane.headers(mint().text)) == (401, "token_unknown")
    assert await _code(plane, plane.headers()) == (200, "ok")
    assert len(plane.ingress.seen) == 1


async def test_a_revoked_token_is_refused_at_once(only_pushed: None, plane: Plane) -> None:
    plane.route()
    assert await _code(plane, plane.headers()) == (200, "ok")
    plane.sql("UPDATE accounts_apitoken SET revoked_at = now()")
    await _refreshed(plane)
    assert await _code(plane, plane.headers()) == (401, "token_revoked")


async def test_without_the_push_a_revocation_is_seen_within_the_snapshots_life(plane: Plane) -> None:
    plane.route()
    assert await _code(plane, plane.headers()) == (200, "ok")
    plane.sql("UPDATE accounts_apitoken SET revoked_at = now()")
    end = asyncio.get_running_loop().time() + 4
    while (await _code(plane, plane.headers()))[1] != "token_revoked":
        assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(0.1)


async def test_expired_and_disabled_tokens_are_refused(plane: Plane) -> None:
    plane.sql(
        """UPDATE accounts_apitoken SET created_at = now() - interval '2 days',
             expires_at = now() - interval '1 day'"""
    )
    assert await _code(plane, plane.headers()) == (401, "token_expired")
    plane.sql("UPDATE accounts_apitoken SET expires_at = now() + interval '1 day'")
    plane.sql("UPDATE accounts_project SET is_active = false")
    await _refreshed(plane)
    assert await _code(plane, plane.headers()) == (401, "token_disabled")
    plane.sql("UPDATE accounts_project SET is_active = true")
    plane.sql("DELETE FROM accounts_membership")
    await _refreshed(plane)
    assert await _code(plane, plane.headers()) == (401, "token_disabled")


async def test_scopes_are_kept_apart(plane: Plane) -> None:
    plane.sql("UPDATE accounts_apitoken SET scopes = '[\"read\"]'")
    assert await _code(plane, plane.headers()) == (403, "scope_missing")
    async with plane.client.get(plane.url + "/v1/models", headers=plane.headers()) as answer:
        assert answer.status == 200


async def test_a_new_token_and_a_new_model_work_at_once(plane: Plane) -> None:
    plane.route()
    assert await _code(plane, plane.headers()) == (200, "ok")
    new = mint()
    plane.sql(
        """INSERT INTO accounts_apitoken (user_id, project_id, name, prefix, digest, scopes, created_at, expires_at)
           SELECT user_id, project_id, 'new', %s, %s, scopes, now(), now() + interval '1 day'
           FROM accounts_apitoken LIMIT 1""",
        (new.prefix, new.digest),
    )
    assert await _code(plane, plane.headers(new.text)) == (200, "ok")
    plane.sql(
        """INSERT INTO catalog_model (name, kind, pool_id, path, revision, enabled, is_public, description, created_at)
           VALUES ('young', 'dnn', 'demo', '', '', true, true, '', now())"""
    )
    async with plane.post(chat(model="young")) as answer:
        assert answer.status == 200


async def test_a_secret_is_not_in_any_answer(plane: Plane) -> None:
    for headers in (plane.headers("sk-very-secret"), plane.headers(mint().text)):
        async with plane.client.get(plane.url + "/v1/models", headers=headers) as answer:
            text: Any = await answer.text()
        assert headers["Authorization"].split()[1] not in text


async def test_the_use_of_a_token_is_written_down_but_not_its_misuse(plane: Plane) -> None:
    plane.route()
    look = "SELECT last_used_at FROM accounts_apitoken"
    plane.sql("UPDATE accounts_apitoken SET scopes = '[\"read\"]'")
    assert await _code(plane, plane.headers()) == (403, "scope_missing")
    async with plane.client.get(plane.url + "/v1/models", headers=plane.headers()) as answer:
        assert answer.status == 200
    await until(lambda: plane.sql(look)[0][0], "the use in the token's row")
    first = plane.sql(look)[0][0]
    async with plane.client.get(plane.url + "/v1/models", headers=plane.headers()) as answer:
        assert answer.status == 200
    await plane.gateway.writer.stop()  # all that it was given is written now
    assert plane.sql(look)[0][0] == first  # once a minute is often enough
