"""What a table of few steps tells beside distances: lips, motion and joints of each row, and the limits of students."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from avatarctl.evaluation.sync import correlation

Cell = Mapping[str, Any]
FINE, WRONG = "reference", "wrong voice"
# Steps of a student -> the guided row with as many.
GUIDED = {8: "Euler 8, uniform", 4: "Euler 4, uniform"}
# Steps of a student -> (row, at most so many times its distance, and so many on each pair).
DISTANCES: dict[int, tuple[tuple[str, float, float | None], ...]] = {
    8: (("Euler 8, uniform", 0.95, 1.0), ("unguided 8, uniform", 0.7, None)),
    4: (("Euler 4, uniform", 0.85, None), ("Euler 8, uniform", 1.15, None)),
}


def summary(cells: Sequence[Cell], others: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return what the renders of one row show, over all of them; ``others``: pair -> the mouth of another pair's voice.

    Closures are counted together; the rest are means. ``wrong voice``: the opening against another pair's voice.
    """
    seen = [cell["measured"] for cell in cells]

    def counted(what: str, of: str) -> float:
        return sum(each["closures"][what] for each in seen) / max(sum(each["closures"][of] for each in seen), 1)

    found = {
        "opening": _mean(each["correlation"] for each in seen),
        "amplitude": _mean(each["amplitude"] for each in seen),
        "closures found": counted("found", "wanted"),
        "closures right": counted("right", "shown"),
        "width": _mean(each["width_correlation"] for each in seen),
        "width's amplitude": _mean(each["width_amplitude"] for each in seen),
        "motion": _mean(each["motion"] for each in seen),
    }
    if borders := [each["borders"]["whole"] for each in seen if each["borders"]]:
        found["border"] = _mean(borders)
    if others:
        found[WRONG] = _mean(
            correlation(np.array(cell["measured"]["opening"]), np.array(others[cell["pair"]])) for cell in cells
        )
    return found


def voices_of_others(cells: Sequence[Cell]) -> dict[str, Sequence[float]]:
    """Return pair -> how the mouth of the next pair's voice opens; nothing where there is one pair alone."""
    expected = {cell["pair"]: cell["measured"]["expected"] for cell in cells}
    names = sorted(expected)
    return {name: expected[names[(at + 1) % len(names)]] for at, name in enumerate(names)} if len(names) > 1 else {}


def limits(steps: int, rows: Mapping[str, Mapping[str, float]]) -> list[tuple[str, str, float]]:
    """Return what is asked of a student of so many steps: (what, "at least" or "at most", the limit)."""
    guided, fine = rows.get(GUIDED.get(steps, "")), rows.get(FINE)
    asked: list[tuple[str, str, float]] = []
    if guided is not None:
        asked += [
            ("opening", "at least", guided["opening"] - 0.01),
            ("closures found", "at least", guided["closures found"] - 0.03),
            ("width", "at least", guided["width"] - 0.02),
            ("motion", "at least", 0.92 * guided["motion"]),
            ("motion", "at most", 1.05 * guided["motion"]),
        ]
        if "border" in guided:
            asked.append(("border", "at most", guided["border"] + 0.03))
    if fine is not None:
        asked += [
            ("width's amplitude", "at least", 0.85 * fine["width's amplitude"]),
            ("width's amplitude", "at most", 1.15 * fine["width's amplitude"]),
        ]
    return [*asked, (WRONG, "at most", 0.15)]


def tables(cells: Sequence[Cell]) -> list[str]:
    """Return the table of what is seen in the pictures of each row, and which limits students keep."""
    seen = [cell for cell in cells if "measured" in cell]
    if not seen:
        return []
    others = voices_of_others(seen)
    by_row = {row: [cell for cell in seen if cell["row"] == row] for row in dict.fromkeys(cell["row"] for cell in seen)}
    rows = {row: summary(found, others) for row, found in by_row.items()}
    names = list(next(iter(rows.values())))
    lines = ["", f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {row} | {' | '.join(f'{found[name]:.3f}' for name in names)} |" for row, found in rows.items()]
    lines.append("")
    for row, found in rows.items():
        steps = by_row[row][0].get("student", 0)
        for what, side, limit in limits(steps, rows) if steps else ():
            if what in found:
                value = abs(found[what]) if what == WRONG else found[what]
                reached = value >= limit if side == "at least" else value <= limit
                told = "reached" if reached else "NOT reached"
                lines.append(f"- {row}: {what} {found[what]:.3f}, {side} {limit:.3f}: {told}")
    return lines


def by_pair(cells: Sequence[Cell], others: Sequence[Cell]) -> list[float]:
    """Return the distance of each pair's renders, of all seeds, as a share of another row's."""

    def distances(found: Sequence[Cell], pair: str) -> float:
        return _mean(value for cell in found if cell["pair"] == pair for value in cell["windows"])

    return [distances(cells, pair) / distances(others, pair) for pair in sorted({cell["pair"] for cell in cells})]


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))
