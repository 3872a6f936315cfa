"""From measurements of drawn persons' videos to a report: goals, tables, diagrams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from avatarctl.evaluation.report import Goal, Panel, markdown_table
from avatarctl.evaluation.sync import shuffled
from avatarctl.puppet.world.drive import FPS

Found = Mapping[str, Any]
ONSET = 25  # pictures: all voices begin within them, so that there any voice agrees with any other
ENOUGH_PAIRS = 10  # of fewer voices some agree by chance
SHOWN = ("correlation", "amplitude", "width_correlation", "recall", "precision", "openings_per_vowel", "distance")
# Of students beside the base: what is shown, and its name.
TAUGHT = {
    "correlation": "opening corr.",
    "recall": "closures found",
    "precision": "right",
    "openings_per_vowel": "openings per vowel",
    "width_correlation": "width corr.",
    "amplitude": "amplitude",
    "shuffled": "other voices",
    "own_iris": "irises",
    "saturation_first": "saturation",
    "blinks_per_minute": "blinks a minute",
    "distance": "distance",
    "wall_s": "seconds",
}
HEADERS = ("opening corr.", "amplitude", "width corr.", "closures found", "right", "openings per vowel", "distance")


def of_pairs(pairs: Sequence[Found]) -> dict[str, Any]:
    """Return what the held-out pairs show."""
    own, asked = ([np.array(pair[name]) for pair in pairs] for name in ("opening", "expected"))
    blinking = [pair["blink_pictures"] for pair in pairs if pair["blink_pictures"] is not None]
    return {
        "pairs": len(pairs),
        **_means(pairs),
        "lowest_correlation": round(min(pair["correlation"] for pair in pairs), 4),
        "correlations": [round(pair["correlation"], 4) for pair in pairs],
        "largest_lag": max(abs(pair["lag"]) for pair in pairs),
        "onset_lag": _median(pairs, "onset_lag"),
        "shuffled": round(shuffled(own, asked, ONSET), 4),
        "blinks_per_minute": _mean(pairs, "blinks_per_minute"),
        "blink_pictures": round(float(np.mean(blinking)), 2) if blinking else 0.0,
        "saturation_first": _mean(pairs, "saturation_first"),
        "flash": _median(pairs, "flash"),
        "first_change": _median(pairs, "first_change"),
        "own_iris": round(sum(pair["own_iris"] for pair in pairs) / len(pairs), 4),
        "nearest_of_20_faces": sum(pair["nearest_of_20_faces"] for pair in pairs),
        "wall_s": _mean(pairs, "wall_s"),
    }


def of_long(found: Found, minutes: int) -> dict[str, Any]:
    """Return what the long render shows."""
    return {
        "minutes": minutes,
        **_means([found]),
        "lag": found["lag"],
        "blinks_per_minute": round(found["blinks_per_minute"], 2),
        "borders": {name: round(value, 4) for name, value in found["borders"].items()},
        "drift": {name: [round(bound, 4) for bound in bounds] for name, bounds in found["drift"].items()},
        "wall_s": found["wall_s"],
    }


def of_lora(base: Sequence[Found], dressed: Sequence[Found]) -> dict[str, Any]:
    """Return what a LoRA of the look does to the same pairs."""
    before, after = _mean(base, "look"), _mean(dressed, "look")
    return {
        "pairs": len(dressed),
        "look_before": before,
        "look_after": after,
        "ratio": round(after / before, 4),
        **_means(dressed),
        "largest_lag": max(abs(pair["lag"]) for pair in dressed),
    }


def row(found: Sequence[Found]) -> dict[str, Any]:
    """Return one line of a table over settings."""
    return {
        **_means(found),
        "border_ratio": round(float(np.mean([each["borders"]["whole"] for each in found])), 4),
        "lag": max((each["lag"] for each in found), key=abs),
        "wall_s": _mean(found, "wall_s"),
    }


def goals_of(report: Found) -> list[Goal]:
    """Return the goals of what was measured."""
    pairs = report["held_out"]
    goals = [
        Goal("mouth: correlation of the opening", pairs["correlation"], "at least", 0.80),
        Goal("mouth: closures at m b p that are found", pairs["recall"], "at least", 0.60),
        Goal("mouth: closures that are right", pairs["precision"], "at least", 0.85),
        Goal("mouth: openings for every vowel", pairs["openings_per_vowel"], "at least", 0.6),
        Goal("mouth: lag of the onset, pictures (median)", abs(pairs["onset_lag"]), "at most", 1),
        Goal("first picture: saturation, of the reference's", pairs["saturation_first"], "at least", 0.97),
        Goal("first pictures: distance in colour, of later spread (median)", pairs["flash"], "at most", 1.0),
        Goal("eyes: share of irises nearest to their own colour", pairs["own_iris"], "at least", 0.9),
        Goal("eyes: pictures of a blink", pairs["blink_pictures"], "at least", 3),
        Goal("eyes: blinks a minute, least", pairs["blinks_per_minute"], "at least", 8),
        Goal("eyes: blinks a minute, most", pairs["blinks_per_minute"], "at most", 30),
    ]
    if pairs["pairs"] >= ENOUGH_PAIRS:
        name = "mouth: correlation with other voices, after the first second"
        goals.append(Goal(name, abs(pairs["shuffled"]), "at most", 0.15))
    if long := report.get("long"):
        for name, (low, high) in long["drift"].items():
            # How far 0 lies outside of the interval.
            goals.append(Goal(f"drift of {name}: slope's interval misses 0 by", max(low, -high, 0.0), "at most", 0.0))
        goals.append(Goal("windows: difference at borders", long["borders"]["whole"], "at most", 1.5))
    if lora := report.get("lora"):
        goals.append(Goal("LoRA: distance to the look, of the base's", lora["ratio"], "at most", 0.5))
        goals.append(Goal("LoRA: correlation of the opening", lora["correlation"], "at least", 0.75))
    return goals


def to_markdown(report: Found) -> str:
    """Return the report's numbers as tables."""
    goals = [
        (
            each["name"],
            f"{each['value']:.3g}",
            f"{each['bound']} {each['limit']:.3g}",
            "yes" if each["reached"] else "no",
        )
        for each in report["goals"]
    ]
    pairs = report["held_out"]
    facts = [
        ("pairs of a face and a voice", pairs["pairs"]),
        ("correlation of the opening, lowest pair", pairs["lowest_correlation"]),
        ("correlation of the width", pairs["width_correlation"]),
        ("amplitude of the opening (1: as driven)", pairs["amplitude"]),
        ("openings for every vowel, as driven", pairs["openings_per_vowel_driven"]),
        ("largest lag, pictures", pairs["largest_lag"]),
        ("change among the first pictures, of later ones (median)", pairs["first_change"]),
        ("distance of the face to the reference, grey levels", pairs["distance"]),
        ("faces nearest to their own reference among 20", f"{pairs['nearest_of_20_faces']} of {pairs['pairs']}"),
        ("seconds a render", pairs["wall_s"]),
    ]
    parts = [
        markdown_table(("goal", "measured", "asked for", "reached"), goals),
        markdown_table(("held-out pairs", ""), facts),
    ]
    if students := report.get("students"):
        lines = {"as the preset has it": pairs, **students}
        cells = [(name, line["passes"], *(line[key] for key in TAUGHT)) for name, line in lines.items()]
        parts.append(markdown_table(("held-out pairs", "passes", *TAUGHT.values()), cells))
    for table, rows in report.get("tables", {}).items():
        cells = [(name, *(line[key] for key in (*SHOWN, "border_ratio", "wall_s"))) for name, line in rows.items()]
        parts.append(markdown_table((table, *HEADERS, "border ratio", "seconds"), cells))
    return "\n\n".join(parts) + "\n"


def panels_of(report: Found, pairs: Sequence[Found]) -> list[Panel]:
    """Return the diagrams: three pairs' curves and all correlations."""
    panels = []
    for number in range(min(3, len(pairs))):
        seconds = [frame / float(FPS) for frame in range(len(pairs[number]["opening"]))]
        curves = {"rendered": (seconds, pairs[number]["opening"]), "asked for": (seconds, pairs[number]["expected"])}
        title = f"held-out pair {number}: correlation {pairs[number]['correlation']:.2f}"
        panels.append(Panel(title, "seconds", "opening", curves, {}))
    ranked = sorted(report["held_out"]["correlations"], reverse=True)
    numbers = list(range(1, len(ranked) + 1))
    ranks = {"opening": (numbers, ranked)}
    panels.append(Panel("all held-out pairs, ranked", "pair", "correlation", ranks, {"goal 0.8": 0.8}, True))
    return panels


def _means(found: Sequence[Found]) -> dict[str, float]:
    """Return means over videos; of closures and vowels over all of them together."""
    closures = {name: sum(each["closures"][name] for each in found) for name in ("wanted", "found", "shown", "right")}
    vowels = sum(each["vowels"] for each in found)
    return {
        **{name: _mean(found, name) for name in ("correlation", "amplitude", "width_correlation", "distance")},
        "recall": _share(closures["found"], closures["wanted"]),
        "precision": _share(closures["right"], closures["shown"]),
        "openings_per_vowel": _share(sum(each["openings"] for each in found), vowels),
        "openings_per_vowel_driven": _share(sum(each["openings_expected"] for each in found), vowels),
    }


def _share(part: float, whole: float) -> float:
    return round(part / whole, 4) if whole else float("nan")


def _mean(found: Sequence[Found], name: str) -> float:
    return round(float(np.mean([each[name] for each in found])), 4)


def _median(found: Sequence[Found], name: str) -> float:
    values = [each[name] for each in found if each[name] is not None]
    return round(float(np.median(values)), 4) if values else float("nan")
