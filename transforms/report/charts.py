"""Charts of the report as SVG, drawn when it is published: no script, no network, the page's own colours."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

WIDTH, HEIGHT, FOOT = 320, 110, 16


def short(number: float) -> str:
    """Format a number for a person: four significant digits, or a whole number with separators of thousands."""
    if not math.isfinite(number):
        return str(number)
    if number == int(number) and abs(number) < 1e15:
        return f"{int(number):,}"
    return f"{number:,.2f}" if 100 <= abs(number) < 1e6 else f"{number:.4g}"


def bars(bars: Sequence[tuple[str, float]], label: str, low: str, high: str) -> Markup:
    """Draw a histogram. A bar is a text and a height; ``label`` describes the chart, ``low`` and ``high`` stand at the ends of its axis."""
    if not bars:
        return Markup()
    top = max(height for _, height in bars) or 1.0
    step = WIDTH / len(bars)
    gap = min(2.0, step * 0.15)
    shapes = Markup().join(
        Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>').format(
            index * step + gap / 2, HEIGHT - pixels, step - gap, pixels, text
        )
        for index, (text, height) in enumerate(bars)
        for pixels in (max(height / top * (HEIGHT - 4), 1.0 if height else 0.0),)
    )
    return _framed(shapes, label, low, high)


def area(points: Sequence[tuple[float, float]], label: str, low: str, high: str) -> Markup:
    """Draw a line with the area below it; ``points`` are pairs of x and height, from left to right."""
    if not points:
        return Markup()
    if len(points) == 1:
        points = [points[0], (points[0][0] + 1, points[0][1])]
    top = max(height for _, height in points) or 1.0
    first, last = points[0][0], points[-1][0]
    scaled = [((x - first) / ((last - first) or 1) * WIDTH, HEIGHT - y / top * (HEIGHT - 6)) for x, y in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in scaled)
    shapes = Markup('<polygon points="0,{h} {line} {w},{h}"/><polyline points="{line}"/>').format(h=HEIGHT, w=WIDTH, line=line)
    return _framed(shapes, label, low, high)


def _framed(shapes: Markup, label: str, low: str, high: str) -> Markup:
    return Markup(
        '<svg viewBox="0 0 {w} {h}" role="img" aria-label="{label}">{shapes}<line x1="0" x2="{w}" y1="{y}" y2="{y}"/>'
        '<text x="0" y="{t}">{low}</text><text x="{w}" y="{t}" text-anchor="end">{high}</text></svg>'
    ).format(w=WIDTH, h=HEIGHT + FOOT, y=HEIGHT, t=HEIGHT + FOOT - 3, label=escape(label), shapes=shapes, low=low, high=high)
