"""The spellings in Redis stay as they are: processes of two releases work on the same keys during an upgrade."""

from __future__ import annotations

import pytest

from portal.redis import keys

SPELLED = {
    "berth:{p/q}:routes": keys.ROUTES.of("p/q"),
    "berth:{p/q}:slots:r": keys.SLOTS.of("p/q", "r"),
    "berth:{p/q}:wait": keys.WAIT.of("p/q"),
    "berth:{p/q}:owner": keys.OWNER.of("p/q"),
    "berth:{p/q}:suspects": keys.SUSPECTS.of("p/q"),
    "berth:{p/q}:projects": keys.PROJECTS.of("p/q"),
    "berth:{p/q}:line:7": keys.LINE.of("p/q", 7),
    "berth:{p/q}:vtime": keys.VTIME.of("p/q"),
    "berth:{p/q}:tags": keys.TAGS.of("p/q"),
    "berth:limit:project:7:tokens": keys.LIMIT.of("project", 7, "tokens"),
    "berth:epoch": keys.EPOCH.of(),
    "berth:sync:p1": keys.SYNC.of("p1"),
    "berth:relay:gw-1": keys.RELAY.of("gw-1"),
    "berth:links:p1": keys.LINKS.of("p1"),
    "berth:silent:since": keys.SILENT_SINCE.of(),
    "berth:silent:told": keys.SILENT_NOTED.of(),
    "berth:retention": keys.RETENTION.of(),
    "berth:tick:again": keys.TICK_AGAIN.of(),
    "berth:cache": keys.CACHE.of(),
    "berth:gw:gw-1": keys.GATEWAY.of("gw-1"),
    "berth:directory": keys.DIRECTORY.of(),
    "berth:lease:p/q": keys.ROWS.of("p/q"),
}


@pytest.mark.parametrize(("spelled", "made"), SPELLED.items())
def test_a_spelling_is_never_changed(spelled: str, made: str) -> None:
    assert made == spelled


def test_every_key_and_channel_has_its_spelling_here() -> None:
    declared = [value for value in vars(keys).values() if isinstance(value, keys.Key)]
    assert declared == list(keys.ALL)
    assert len(SPELLED) == len(keys.ALL)


def test_the_wrong_number_of_names_makes_no_key() -> None:
    with pytest.raises(TypeError):
        keys.LIMIT.of("project", 7)
    with pytest.raises(TypeError):
        keys.EPOCH.of("more")


def test_every_ending_of_a_pool_is_told_to_the_scripts() -> None:
    told = keys.lua_names()
    for key in keys.OF_POOLS:
        assert f"'{keys.ending(key)}'" in told
