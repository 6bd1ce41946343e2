"""The plain enums of states give Django's fields the choices and labels that the tables were made with."""

from __future__ import annotations

from portal.db.choices import choices
from portal.fleet.models import Pilot
from portal.ledger.models import Batch, Request
from portal.ledger.states import BatchState


def test_a_member_without_a_label_is_labelled_with_its_name_in_title_case() -> None:
    assert choices(BatchState)[2] == ("in_progress", "In Progress")
    assert Batch._meta.get_field("state").choices == choices(BatchState)


def test_the_values_of_choices_are_plain_strings_as_migrations_hold_them() -> None:
    assert {type(value) for value, _ in choices(BatchState)} == {str}
    assert type(Pilot._meta.get_field("state").default) is str


def test_a_lane_keeps_its_own_words() -> None:
    assert Request(lane="async").get_lane_display() == "nobody is waiting"
