"""Names of the code → the admin's labels, without a migration for any of them."""

from __future__ import annotations

from datetime import datetime

import pytest
from django.db.models import Field
from django.utils.formats import localize

from portal.accounts.models import ApiToken, User
from portal.catalog.models import Pool, Profile
from portal.panel.labels import label


@pytest.mark.parametrize(
    "name, said",
    [
        ("keep_alive_s", "keep alive, seconds"),
        ("mem_mb", "host memory, MiB"),
        ("walltime_min", "walltime, minutes"),
        ("requests_per_min", "requests per minute"),
        ("min_replicas", "min replicas"),
        ("gpu_type", "GPU type"),
        ("is_operator", "operator"),
        ("user_id", "user ID"),
        ("s", "s"),
        ("is", "is"),
    ],
)
def test_a_label_has_units_and_abbreviations_as_people_write_them(name: str, said: str) -> None:
    assert label(name) == said


def test_tables_and_fields_have_them() -> None:
    fields: list[tuple[Field, str]] = [  # type: ignore[type-arg]
        (Pool._meta.get_field("keep_alive_s"), "keep alive, seconds"),
        (Profile._meta.get_field("qos"), "QOS"),
        (Pool._meta.get_field("profiles"), "profiles"),
        (User._meta.get_field("email"), "email address"),
    ]
    assert [field.verbose_name for field, _ in fields] == [said for _, said in fields]
    assert ApiToken._meta.verbose_name_plural == "API tokens"


def test_moments_are_written_as_on_all_other_pages() -> None:
    assert localize(datetime(2026, 11, 21, 14, 5, 9)) == "2026-11-21 14:05:09"
