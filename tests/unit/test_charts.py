"""Values → the shapes of a chart: where they lie, what is left out, and what the table says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.template.loader import render_to_string

from portal.dashboard.charts import HEIGHT, WIDTH, Series, compact, draw

START = datetime(2026, 11, 20, 12, tzinfo=UTC)


def _hours(n: int) -> list[datetime]:
    return [START + timedelta(hours=i) for i in range(n)]


def test_bars_stand_on_each_other_from_the_bottom() -> None:
    chart = draw("Requests", "bars", _hours(2), [Series("a", [3, 0]), Series("b", [1, 4])])
    a, b, later = chart.shapes
    assert (a.colour, b.colour, later.colour) == ("c0", "c1", "c1")
    assert a.y + a.height == pytest.approx(HEIGHT)
    assert b.y + b.height == pytest.approx(a.y)
    assert later.y + later.height == pytest.approx(HEIGHT), "what is zero has no shape"
    assert later.x >= a.x + a.width and later.x + later.width <= WIDTH
    assert a.says == "12:00 · a: 3"


@pytest.mark.parametrize(
    "highest, numbers",
    [
        (4, ["0", "1", "2", "3", "4"]),
        (0, ["0", "1"]),
        (97_000, ["0", "25k", "50k", "75k", "100k"]),
        (0.3, None),
    ],
)
def test_the_axis_has_few_round_numbers_and_room_for_the_highest(
    highest: float, numbers: list[str] | None
) -> None:
    chart = draw("x", "lines", _hours(2), [Series("a", [0, highest])])
    texts = [mark.text for mark in chart.grid]
    assert numbers is None or texts == numbers
    assert 2 <= len(texts) <= 6 and float(chart.shapes[0].points.split(",")[-1]) >= 0


def test_what_is_not_known_is_a_gap() -> None:
    values = [1, 2, None, 4, 5]
    for kind in ("areas", "lines"):
        chart = draw("x", kind, _hours(5), [Series("a", values)])
        assert len(chart.shapes) == 2
    assert [cells for _, cells in chart.rows] == [["1"], ["2"], ["–"], ["4"], ["5"]]


def test_areas_go_by_the_time() -> None:
    moments = [START, START + timedelta(minutes=1), START + timedelta(minutes=10)]
    chart = draw("x", "areas", moments, [Series("a", [1, 1, 1])])
    assert [float(p.split(",")[0]) for p in chart.shapes[0].points.split()[:3]] == [0, 100, 1000]


def test_no_more_times_than_a_phone_has_room_for_and_none_beyond_the_edge() -> None:
    chart = draw("x", "lines", _hours(25), [Series("a", [1.0] * 25)])
    assert len(chart.times) <= 6
    assert [mark.anchor for mark in chart.times] == ["middle"] * 5
    two = draw("x", "lines", _hours(2), [Series("a", [1.0, 2.0])])
    assert [mark.anchor for mark in two.times] == ["middle", "end"]


def test_more_series_than_colours_share_grey() -> None:
    chart = draw("x", "bars", _hours(1), [Series(str(n), [1]) for n in range(8)])
    assert [key.colour for key in chart.keys][-3:] == ["c5", "rest", "rest"]


def test_nothing_at_all_is_drawn_too() -> None:
    for kind in ("bars", "areas", "lines"):
        chart = draw("x", kind, [], [])
        assert chart.shapes == [] and "nothing" in chart.says


@pytest.mark.parametrize(
    "value, text",
    [(0, "0"), (0.25, "0.25"), (12, "12"), (999, "999"), (1000, "1k"), (1234, "1.23k"), (999.9, "1k"), (999_900, "1M"),
     (1_500_000, "1.5M")],
)  # fmt: skip
def test_numbers_are_short(value: float, text: str) -> None:
    assert compact(value) == text


def test_names_are_text_and_nothing_has_a_style_of_its_own() -> None:
    bad = "<b>bold</b>"
    html = render_to_string(
        "dashboard/_chart.html", {"chart": draw(bad, "bars", _hours(1), [Series(bad, [1])])}
    )
    assert bad not in html and "&lt;b&gt;" in html and "style=" not in html
