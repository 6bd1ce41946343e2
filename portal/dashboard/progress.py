"""A batch's counts → the parts of a bar, in the order in which a line can end; what is left of the bar waits. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from portal.ledger.models import Batch

WIDTH = 1000.0  # of the whole bar, in the picture's own units
_LEAST = 4.0  # one bad line among thousands is seen
_TEXTS = {
    "completed": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
    "expired": "expired",
}


@dataclass(frozen=True, slots=True)
class Part:
    name: str  # completed, failed, cancelled or expired
    text: str
    lines: int
    x: float
    width: float


def progress(batch: Batch) -> list[Part]:
    """Return the parts of the bar; those without a line are left out."""
    lines = {name: int(getattr(batch, name)) for name in _TEXTS}
    widths = {name: max(_LEAST, WIDTH * n / batch.total) for name, n in lines.items() if n and batch.total}
    scale = min(1.0, WIDTH / sum(widths.values())) if widths else 1.0
    found, x = [], 0.0
    for name, width in widths.items():
        found.append(Part(name, _TEXTS[name], lines[name], round(x, 1), round(width * scale, 1)))
        x += width * scale
    return found
