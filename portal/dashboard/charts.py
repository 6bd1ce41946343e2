"""Numbers over time → the shapes of a chart: stacked bars, stacked areas or lines, with axes and a legend. Pure.

What comes out is drawn by `dashboard/_chart.html` as SVG, with the table behind it (decisions/0015). Colours are
classes, because the Content-Security-Policy allows no inline style. Shapes lie in a picture that is stretched to the
page's width; texts stand beside it at places in per cent, so that they are never stretched. What there are hundreds of,
shapes and cells, is written here: a template takes more than ten times as long.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe

from portal.dashboard import axes
from portal.dashboard.axes import Of, Words, compact

Kind = Literal["bars", "areas", "lines"]

WIDTH = 1000.0  # of what is stretched
HEIGHT = 160.0  # of what is drawn: pixels
ABOVE = 8.0  # room for half of the topmost number
BELOW = 22.0  # room for the times
COLOURS = 6  # classes c0 … c5; `REST` is for all that has none of its own
REST = "rest"
LETTER = 2.5  # of a time below: per cent of the plot's width on a phone
_BAR = 0.8  # of a bar's slot that is filled


@dataclass(frozen=True, slots=True)
class Series:
    """One value per moment; None: not known. `colour`: a class of its own, else one by its place."""

    name: str
    values: Sequence[float | None]
    colour: str = ""


@dataclass(frozen=True, slots=True)
class Shape:
    """A rectangle where `width` is set, else the `points` of a polygon or a line."""

    colour: str
    says: str = ""
    x: float = 0.0
    y: float = 0.0
    width: float = 0.0
    height: float = 0.0
    points: str = ""

    def svg(self, kind: Kind) -> str:
        if self.width:
            name = "rect"
            at = f'x="{self.x}" y="{self.y}" width="{self.width}" height="{self.height}"'
        else:
            name, at = "polyline" if kind == "lines" else "polygon", f'points="{self.points}"'
        return f'<{name} class="{self.colour}" {at}><title>{escape(self.says)}</title></{name}>'


@dataclass(frozen=True, slots=True)
class Mark:
    """A text at an axis. `at`: from the top in pixels at the left one, from the left in per cent at the lower one."""

    at: float
    text: str
    anchor: str = "end"


@dataclass(frozen=True, slots=True)
class Key:
    colour: str
    name: str
    total: str  # "" where a sum says nothing


@dataclass(frozen=True, slots=True)
class Chart:
    title: str
    says: str  # what a person hears who does not see it
    kind: Kind
    shapes: list[Shape]
    grid: list[Mark]
    times: list[Mark]
    keys: list[Key]
    rows: list[tuple[str, list[str]]]  # the table: a moment, and each series' value
    width: float = WIDTH
    height: float = HEIGHT
    top: float = ABOVE
    bottom: float = ABOVE + HEIGHT
    whole_height: float = ABOVE + HEIGHT + BELOW
    times_at: float = ABOVE + HEIGHT + BELOW - 6

    def drawn(self) -> SafeString:
        return mark_safe("".join(shape.svg(self.kind) for shape in self.shapes))

    def cells(self) -> SafeString:
        """Return the rows of the table as HTML."""
        return mark_safe("".join(map(_row, self.rows)))


def draw(
    title: str,
    kind: Kind,
    moments: Sequence[datetime],
    series: Sequence[Series],
    *,
    of: Of = "numbers",
    words: Words | None = None,
    clock: str = "%H:%M",
) -> Chart:
    """Return the chart of the series. Bars stand in slots of one width, one per moment; areas and lines go by the
    time, with a gap where nothing is known. Whoever calls keeps the series few: beyond `COLOURS` they share grey.
    `of`: what the left axis counts; `words`: how a value is written; `clock`: how a moment is."""
    words = words or compact
    series = [_coloured(one, n) for n, one in enumerate(series)]
    scale = axes.scale(_highest(kind, series, len(moments)), of)
    axis = axes.in_one_unit(scale[1]) if of == "seconds" else compact
    texts = [moment.strftime(clock) for moment in moments]
    if kind == "bars":
        shapes, xs = list(_bars(series, texts, scale[-1], words)), _slots(len(moments))
    else:
        xs = _by_time(moments)
        shapes = list((_areas if kind == "areas" else _lines)(series, xs, scale[-1]))
    return Chart(
        title,
        _says(title, series, texts, words, kind),
        kind,
        shapes,
        [Mark(round(ABOVE + _y(value, scale[-1]), 1), axis(value)) for value in scale],
        _apart([_below(xs[i], text) for i, text in axes.times(moments)]),
        [Key(one.colour, one.name, words(_sum(one)) if kind == "bars" else "") for one in series],
        [(text, [_cell(one.values[i], words) for one in series]) for i, text in enumerate(texts)],
    )


def _row(row: tuple[str, list[str]]) -> str:
    cells = "".join(f'<td class="num">{escape(cell)}</td>' for cell in row[1])
    return f'<tr><th scope="row" class="num">{escape(row[0])}</th>{cells}</tr>'


def _coloured(one: Series, n: int) -> Series:
    return Series(one.name, one.values, one.colour or (f"c{n}" if n < COLOURS else REST))


def _highest(kind: Kind, series: Sequence[Series], moments: int) -> float:
    at = [[one.values[i] or 0.0 for one in series] for i in range(moments)]
    return max((max(values, default=0.0) if kind == "lines" else sum(values) for values in at), default=0.0)


def _y(value: float, top: float) -> float:
    return HEIGHT - HEIGHT * value / top


def _slots(n: int) -> list[float]:
    """Return the middle of each moment's bar, in the picture's units."""
    return [WIDTH * (i + 0.5) / n for i in range(n)]


def _by_time(moments: Sequence[datetime]) -> list[float]:
    if not moments:
        return []
    whole = (moments[-1] - moments[0]).total_seconds()
    return [WIDTH * (at - moments[0]).total_seconds() / whole if whole else 0.0 for at in moments]


def _bars(series: Sequence[Series], texts: Sequence[str], top: float, words: Words) -> Iterator[Shape]:
    slot = WIDTH / len(texts) if texts else WIDTH
    for i, text in enumerate(texts):
        below = 0.0
        for one in series:
            value = one.values[i] or 0.0
            if value > 0:
                height = HEIGHT * value / top
                yield Shape(
                    one.colour,
                    f"{text} · {one.name}: {words(value)}",
                    x=round(slot * (i + (1 - _BAR) / 2), 2),
                    y=round(_y(below + value, top), 2),
                    width=round(slot * _BAR, 2),
                    height=round(height, 2),
                )
                below += value


def _areas(series: Sequence[Series], xs: Sequence[float], top: float) -> Iterator[Shape]:
    """Yield the stacked areas. A moment of which no series knows anything is a gap in all of them."""
    known = [any(one.values[i] is not None for one in series) for i in range(len(xs))]
    below = [0.0] * len(xs)
    for one in series:
        above = [under + (one.values[i] or 0.0) for i, under in enumerate(below)]
        for first, last in _runs(known):
            part = range(first, last + 1)
            if any(above[i] > below[i] for i in part):
                edge = [(xs[i], above[i]) for i in part] + [(xs[i], below[i]) for i in reversed(part)]
                yield Shape(one.colour, one.name, points=_points(edge, top))
        below = above


def _lines(series: Sequence[Series], xs: Sequence[float], top: float) -> Iterator[Shape]:
    for one in series:
        for first, last in _runs([value is not None for value in one.values]):
            edge = [(xs[i], one.values[i] or 0.0) for i in range(first, last + 1)]
            yield Shape(one.colour, one.name, points=_points(edge, top))


def _runs(known: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """Yield the first and the last index of each stretch of True."""
    first = None
    for i, is_known in enumerate([*known, False]):
        if is_known and first is None:
            first = i
        elif not is_known and first is not None:
            yield first, i - 1
            first = None


def _points(edge: Sequence[tuple[float, float]], top: float) -> str:
    return " ".join(f"{x:.1f},{_y(value, top):.1f}" for x, value in edge)


def _below(x: float, text: str) -> Mark:
    at = 100 * x / WIDTH
    return Mark(round(at, 2), text, "end" if at > 95 else "start" if at < 1 else "middle")


def _apart(marks: Sequence[Mark]) -> list[Mark]:
    """Return the marks that do not stand in each other on a phone: the ones at an edge, which are pushed inwards,
    give way."""
    found = list(marks)
    if len(found) > 1 and _left(found[1]) < _left(found[0]) + _wide(found[0]):
        del found[0]
    if len(found) > 1 and _left(found[-1]) < _left(found[-2]) + _wide(found[-2]):
        del found[-1]
    return found


def _wide(mark: Mark) -> float:
    """Return the width of a mark's text, in per cent of a plot on a phone."""
    return LETTER * (len(mark.text) + 0.5)


def _left(mark: Mark) -> float:
    return mark.at - {"start": 0.0, "middle": 0.5, "end": 1.0}[mark.anchor] * _wide(mark)


def _says(title: str, series: Sequence[Series], texts: Sequence[str], words: Words, kind: Kind) -> str:
    if not texts:
        return f"{title}: nothing."
    if kind == "bars":
        parts = ", ".join(f"{one.name} {words(_sum(one))}" for one in series)
    else:
        parts = ", ".join(f"{one.name} {_cell(one.values[-1], words)} at the end" for one in series)
    return f"{title} from {texts[0]} to {texts[-1]}: {parts or 'nothing'}. The table below holds the numbers."


def _sum(one: Series) -> float:
    return sum(value or 0.0 for value in one.values)


def _cell(value: float | None, words: Words) -> str:
    return "–" if value is None else words(value)
