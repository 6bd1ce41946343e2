"""Values → the shapes of a chart: where they lie, what is left out, and what the table says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.template.loader import render_to_string

from portal.dashboard.axes import compact
from portal.dashboard.charts import HEIGHT, WIDTH, Series, draw

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


@pytest.mark.parametrize(
    "first, step, n, texts",
    [
        (
            "2026-11-20T11:24",
            timedelta(minutes=2),
            91,
            ["11:30", "12:00", "12:30", "13:00", "13:30", "14:00"],
        ),
        (
            "2026-11-20T11:15",
            timedelta(minutes=15),
            97,
            ["12:00", "16:00", "20:00", "00:00", "04:00", "08:00"],
        ),
        ("2026-11-14T10:00", timedelta(hours=2), 85, ["15 Nov", "17 Nov", "19 Nov", "21 Nov"]),
        ("2026-11-20T15:00", timedelta(hours=1), 24, ["16:00", "20:00", "00:00", "04:00", "08:00", "12:00"]),
        ("2026-10-23T00:00", timedelta(days=1), 30, ["26 Oct", "02 Nov", "09 Nov", "16 Nov"]),
    ],
)
def test_times_are_round_and_no_more_than_a_phone_has_room_for(
    first: str, step: timedelta, n: int, texts: list[str]
) -> None:
    begin = datetime.fromisoformat(first).replace(tzinfo=UTC)
    chart = draw("x", "lines", [begin + step * i for i in range(n)], [Series("a", [1.0] * n)])
    found = [mark.text for mark in chart.times]
    assert found == texts


def test_no_time_stands_in_another_on_a_phone() -> None:
    """That at the edge is pushed inwards, where it would meet its neighbour."""
    begin = datetime(2026, 11, 21, 18, 6, tzinfo=UTC)
    moments = [begin + timedelta(minutes=2) * i for i in range(90)]
    chart = draw("x", "lines", moments, [Series("a", [1.0] * 90)])
    assert [mark.text for mark in chart.times] == ["18:30", "19:00", "19:30", "20:00", "20:30"]
    assert [mark.anchor for mark in chart.times] == ["middle"] * 5


def test_no_time_stands_beyond_the_edge() -> None:
    two = draw("x", "lines", _hours(2), [Series("a", [1.0, 2.0])])
    assert [mark.anchor for mark in two.times] == ["start", "end"]


@pytest.mark.parametrize(
    "highest, numbers",
    [(1, ["0", "1"]), (2, ["0", "1", "2"]), (7, ["0", "2", "4", "6", "8"]), (9.5, ["0", "5", "10"])],
)
def test_what_is_counted_has_whole_numbers_at_its_axis(highest: float, numbers: list[str]) -> None:
    chart = draw("x", "areas", _hours(2), [Series("a", [0, highest])], of="counts")
    assert [mark.text for mark in chart.grid] == numbers


@pytest.mark.parametrize(
    "highest, texts",
    [
        (3, ["0", "1 s", "2 s", "3 s"]),
        (50, ["0", "15 s", "30 s", "45 s", "60 s"]),
        (150, ["0", "1 min", "2 min", "3 min"]),
        (3 * 3600, ["0", "1 h", "2 h", "3 h"]),
        (30 * 86_400, ["0", "8 d", "16 d", "24 d", "32 d"]),
    ],
)
def test_seconds_are_told_in_one_unit_and_as_clocks_have_them(highest: float, texts: list[str]) -> None:
    chart = draw("x", "lines", _hours(2), [Series("a", [0, highest])], of="seconds")
    assert [mark.text for mark in chart.grid] == texts


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
