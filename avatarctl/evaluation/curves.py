"""Draw curves as SVG, small and without any library, for a page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 170, 44, 22, 8
MOST_POINTS = 1200  # of a curve: twice the pixels
COLOURS = ("#1868c0", "#d06020", "#208048", "#8040a0")

Curve = NDArray[np.float64]


@dataclass(frozen=True)
class Diagram:
    """``curves`` by name: abscissae and ordinates; ``levels``: dotted lines by name; ``marks``: abscissae of thin lines."""

    title: str
    x: str
    curves: Mapping[str, tuple[Curve, Curve]]
    levels: Mapping[str, float] = field(default_factory=dict)
    marks: Sequence[float] = ()
    from_zero: bool = True


def svg(diagram: Diagram) -> str:
    """Return a diagram as an SVG element; an empty text where no curve has two points."""
    curves = {name: _few(*curve) for name, curve in diagram.curves.items() if np.isfinite(curve[1]).sum() > 1}
    if not curves:
        return ""
    xs = np.concatenate([x for x, _ in curves.values()])
    ys = np.concatenate([*(y[np.isfinite(y)] for _, y in curves.values()), list(diagram.levels.values())])
    low, high = float(ys.min()), float(ys.max())
    low = min(low, 0.0) if diagram.from_zero else low
    high = high if high > low else low + 1
    x0, x1 = float(xs.min()), max(float(xs.max()), float(xs.min()) + 1e-9)

    def place(x: float, y: float) -> str:
        across = LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - 8)
        return f"{across:.1f},{TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM):.1f}"

    parts = [_axes(diagram, low, high, x0, x1)]
    for mark in diagram.marks:
        if x0 <= mark <= x1:
            parts.append(f'<polyline class="mark" points="{place(mark, low)} {place(mark, high)}"/>')
    for name, level in diagram.levels.items():
        spot = place(x1, level).split(",")
        parts.append(f'<polyline class="level" points="{place(x0, level)} {place(x1, level)}"/>')
        parts.append(f'<text x="{spot[0]}" y="{float(spot[1]) - 3:.1f}" text-anchor="end">{escape(name)}</text>')
    for number, (name, (x, y)) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        for line in _unbroken(x, y):
            points = " ".join(place(float(a), float(b)) for a, b in line)
            parts.append(f'<polyline fill="none" stroke="{colour}" points="{points}"/>')
        if len(curves) > 1:
            parts.append(f'<text x="{LEFT + 8 + 130 * number}" y="{TOP + 10}" fill="{colour}">{escape(name)}</text>')
    body = "".join(parts)
    return f'<figure><figcaption>{escape(diagram.title)}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}">{body}</svg></figure>'


def _axes(diagram: Diagram, low: float, high: float, x0: float, x1: float) -> str:
    floor = HEIGHT - BOTTOM
    frame = f'<polyline class="axis" points="{LEFT},{TOP} {LEFT},{floor} {WIDTH - 8},{floor}"/>'
    labels = [(LEFT - 4, TOP + 8, "end", f"{high:.3g}"), (LEFT - 4, floor, "end", f"{low:.3g}")]
    labels += [(LEFT, HEIGHT - 8, "start", f"{x0:.4g}"), (WIDTH - 8, HEIGHT - 8, "end", f"{x1:.4g} {diagram.x}")]
    return frame + "".join(f'<text x="{x}" y="{y}" text-anchor="{a}">{escape(t)}</text>' for x, y, a, t in labels)


def _few(x: Curve, y: Curve) -> tuple[Curve, Curve]:
    """Return a curve of many points by the lowest and the highest of each stretch: peaks stay."""
    stretches = MOST_POINTS // 2
    if len(x) <= MOST_POINTS:
        return x, y
    chosen = []
    for part in np.array_split(np.arange(len(x)), stretches):
        there = part[np.isfinite(y[part])]
        chosen += (
            sorted({int(there[y[there].argmin()]), int(there[y[there].argmax()])}) if len(there) else [int(part[0])]
        )
    return x[chosen], y[chosen]


def _unbroken(x: Curve, y: Curve) -> list[NDArray[np.float64]]:
    """Return a curve in pieces without gaps."""
    there = np.isfinite(y)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], there, [False]]).astype(int)))
    return [np.stack([x[a:b], y[a:b]], axis=1) for a, b in zip(edges[::2], edges[1::2], strict=True)]
