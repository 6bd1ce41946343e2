"""What is decided, and what the table of decisions holds, are of the same kinds."""

from __future__ import annotations

import typing

from portal.fleet.decision_kinds import DecisionKind
from portal.fleet.models import Decision as Row
from scheduler.policy.consequences import Consequence, FollowJobs
from scheduler.policy.decisions import Decided, Decision


def test_every_decision_is_of_a_kind_of_the_enum() -> None:
    decided = {*typing.get_args(Decision), *typing.get_args(Consequence)} - {FollowJobs}
    # By name: a class with slots is made twice.
    known = {one.__name__ for one in Decided.__subclasses__()}
    assert {one.__name__ for one in decided} == known, "one is not listed among those that are carried out"
    assert all(isinstance(one.kind, DecisionKind) for one in decided)


def test_the_table_takes_the_kinds_of_the_enum_and_no_others() -> None:
    (check,) = [rule for rule in Row._meta.constraints if rule.name == "decision_kind_known"]
    assert check.condition.children == [("kind__in", [kind.value for kind in DecisionKind])]  # type: ignore[attr-defined]


def test_a_kind_fits_into_its_column() -> None:
    assert max(map(len, DecisionKind)) <= (Row._meta.get_field("kind").max_length or 0)
