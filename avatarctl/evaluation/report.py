"""Write measurements as JSON, as Markdown tables and as curves in one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from avatarctl import durable
from avatarctl.errors import UsageError


@dataclass(frozen=True)
class Goal:
    """What a measured value has to reach."""

    name: str
    value: float
    bound: Literal["at least", "at most"]
    limit: float

    @property
    def reached(self) -> bool:
        """Whether the value keeps to its bound; one that is not a number never does."""
        return self.value >= self.limit if self.bound == "at least" else self.value <= self.limit

    def to_json(self) -> dict[str, Any]:
        """Return the goal and whether it is reached."""
        return {
            "name": self.name,
            "value": round(self.value, 4),
            "bound": self.bound,
            "limit": round(self.limit, 4),
            "reached": self.reached,
        }


@dataclass(frozen=True)
class Panel:
    """One diagram: curves by name, each a pair of abscissae and ordinates; ``levels`` are drawn as dotted lines."""

    title: str
    x: str
    y: str
    curves: Mapping[str, tuple[Sequence[float], Sequence[float | None]]]
    levels: Mapping[str, float]
    points: bool = False


def check_installed() -> None:
    """Raise ``UsageError`` when what draws is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "evaluation: got no matplotlib, which draws the curves", "pip install 'avatarctl[train]'"
        ) from error


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table in Markdown; numbers with two decimals."""
    lines = ["| " + " | ".join(headers) + " |", "|" + "---|" * len(headers)]
    return "\n".join([*lines, *("| " + " | ".join(map(_cell, row)) + " |" for row in rows)])


def write_curves(panels: Sequence[Panel], target: Path, columns: int = 2) -> Path:
    """Draw all panels into one PNG; the file is whole or not there."""
    import matplotlib.figure

    rows = -(-len(panels) // columns)
    figure = matplotlib.figure.Figure(figsize=(6.4 * columns, 3.1 * rows), layout="constrained")
    for index, panel in enumerate(panels):
        axes = figure.add_subplot(rows, columns, index + 1)
        for name, (x, y) in panel.curves.items():
            values = [float("nan") if value is None else value for value in y]
            axes.plot(x, values, label=name, linewidth=1.2, marker="o" if panel.points else None, markersize=4)
        for name, level in panel.levels.items():
            axes.axhline(level, linestyle=":", color="#777777", linewidth=1)
            axes.annotate(name, (1, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7)
        axes.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)
        axes.grid(visible=True, alpha=0.3)
        if len(panel.curves) > 1:
            axes.legend(fontsize=7)
    with durable.beside(target) as part:
        figure.savefig(part, format="png", dpi=90)
    return target


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return "–" if value != value else f"{value:.2f}"
    return str(value)
