"""A line of points → an SVG picture that reads in light and dark. Ten lines instead of a plotting library."""

from __future__ import annotations

from collections.abc import Sequence

WIDE, HIGH, LEFT, BELOW = 640, 320, 64, 48
STYLE = "text{font:13px system-ui,sans-serif;fill:#667}line,polyline{stroke:#667}circle{fill:#2a7de1}"


def line(points: Sequence[tuple[float, float]], *, title: str, x: str, y: str, bound: float) -> str:
    """Draw a line chart. `bound` is a dashed line at the goal, in units of y."""
    most_x = max(px for px, _ in points) * 1.05
    most_y = max(bound, *(py for _, py in points)) * 1.1

    def at(px: float, py: float) -> tuple[float, float]:
        return LEFT + px / most_x * (WIDE - LEFT - 16), HIGH - BELOW - py / most_y * (HIGH - BELOW - 32)

    spots = [at(px, py) for px, py in points]
    bottom, goal = at(0, 0)[1], at(0, bound)[1]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {HIGH}" role="img"><title>{title}</title>',
        f"<style>{STYLE}</style>",
        f'<text x="{LEFT}" y="18">{title} ({y})</text><text x="{LEFT}" y="{HIGH - 8}">{x}</text>',
        f'<line x1="{LEFT}" y1="{bottom}" x2="{WIDE - 16}" y2="{bottom}"/>',
        f'<line x1="{LEFT}" y1="{goal:.0f}" x2="{WIDE - 16}" y2="{goal:.0f}" stroke-dasharray="4 4"/>',
        f'<text x="{LEFT - 8}" y="{goal + 4:.0f}" text-anchor="end">{bound:g}</text>',
        '<polyline fill="none" points="' + " ".join(f"{px:.0f},{py:.0f}" for px, py in spots) + '"/>',
    ]
    for (px, py), (value, cost) in zip(spots, points, strict=True):
        parts.append(f'<circle cx="{px:.0f}" cy="{py:.0f}" r="4"><title>{cost:.3g}</title></circle>')
        parts.append(f'<text x="{px:.0f}" y="{bottom + 18:.0f}" text-anchor="middle">{value:g}</text>')
        parts.append(f'<text x="{px:.0f}" y="{py - 10:.0f}" text-anchor="middle">{cost:.2g}</text>')
    return "\n".join([*parts, "</svg>\n"])
