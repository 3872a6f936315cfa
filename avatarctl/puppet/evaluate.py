"""Evaluate weights of the puppet on held-out pairs, over minutes, and by settings. READ FIRST in this folder."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from avatarctl import __version__, durable
from avatarctl.evaluation.identity import Drift, drift
from avatarctl.evaluation.report import Goal, Panel, markdown_table, write_curves
from avatarctl.evaluation.sync import shuffled
from avatarctl.progress import Progress
from avatarctl.puppet.dataset import EVALUATION_SEED, FPS
from avatarctl.puppet.measure import Bench, Pair, for_tuning, held_out, mean_of, measured
from avatarctl.puppet.world2 import report as second
from avatarctl.settings.render import RenderSettings

REPORT, TABLES, CURVES = "report.json", "report.md", "report.png"
TUNING_PAIRS = 6
LOOK_PAIRS = 10  # of the held-out ones, for a LoRA
ONSET = 25  # frames: all voices begin within them, so that there any voice agrees with any other
ENOUGH_PAIRS = 10  # of fewer voices some agree by chance
LONG_SEED = EVALUATION_SEED + 2**21
GOAL_SYNC, GOAL_LAG, GOAL_SHUFFLED, GOAL_BORDERS, GOAL_LOOK, GOAL_LOOK_SYNC = 0.8, 1, 0.15, 1.5, 0.5, 0.75
SHOWN = ("correlation", "amplitude", "width_correlation", "colour", "geometry_px")
HEADERS = ("opening corr.", "amplitude", "width corr.", "colour", "geometry px", "border ratio", "lag")
# What is compared: title, settings, and the rows that change one of them.
TABLE_ROWS: dict[str, dict[str, dict[str, Any]]] = {
    "guidance": {
        "none": {"guidance": "none"},
        "cfg, audio 1.25": {"guidance": "cfg", "audio_scale": 1.25},
        "cfg, audio 1.5": {"guidance": "cfg", "audio_scale": 1.5},
        "cfg, audio 2": {"guidance": "cfg", "audio_scale": 2.0},
        "cfg, audio 3": {"guidance": "cfg", "audio_scale": 3.0},
        "cfg, audio 5": {"guidance": "cfg", "audio_scale": 5.0},
        "cfg, audio 1.5, text 3": {"guidance": "cfg", "audio_scale": 1.5, "text_scale": 3.0},
        "native, 0.25 + 0.25": {"guidance": "native", "native_audio_weight": 0.25, "native_token_weight": 0.25},
        "native, 1 + 1": {"guidance": "native", "native_audio_weight": 1.0, "native_token_weight": 1.0},
        "native, 2 + 2": {"guidance": "native", "native_audio_weight": 2.0, "native_token_weight": 2.0},
    },
    "overlap": {str(overlap): {"overlap": overlap} for overlap in (2, 5, 10)},
    "blend": {
        f"{blend}, overlap {overlap}": {"blend": blend, "overlap": overlap}
        for overlap in (5, 10)
        for blend in ("linear", "log")
    },
    "steps": {str(steps): {"steps": steps} for steps in (4, 6, 8, 10, 16, 25, 50)},
}


@dataclass(frozen=True)
class Asked:
    """What is to be measured."""

    pairs: int = 20
    minutes: int = 5  # of the long render; 0 leaves it out
    tables: bool = True
    lora: tuple[Path, float] | None = None


@dataclass(frozen=True)
class Judge:
    """How a world's measurements become a report."""

    of_pairs: Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]
    of_long: Callable[[Mapping[str, Any], int], dict[str, Any]]
    row: Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]
    goals_of: Callable[[Mapping[str, Any]], list[Goal]]
    to_markdown: Callable[[Mapping[str, Any]], str]
    panels_of: Callable[[Mapping[str, Any], Sequence[Mapping[str, Any]]], list[Panel]]


def judge_of(world: int) -> Judge:
    """Return what judges videos of a world."""
    if world == 2:
        return Judge(second.of_pairs, second.of_long, second.row, second.goals_of, second.to_markdown, second.panels_of)
    return Judge(_of_pairs, _of_long, _row, goals_of, to_markdown, panels_of)


def evaluate(bench: Bench, settings: RenderSettings, asked: Asked, show: Progress) -> dict[str, Any]:
    """Measure what was asked for and write report.json, report.md and report.png; return the report.

    What was measured before in the same folder, with the same weights and settings, is kept. ``goals`` in the report
    says what is reached. Raises ``UsageError`` without espeak-ng, which speaks the held-out voices.
    """
    rows = [(table, name, change) for table, rows in TABLE_ROWS.items() for name, change in rows.items()]
    total = asked.pairs + bool(asked.minutes) + asked.tables * len(rows) * TUNING_PAIRS + LOOK_PAIRS * bool(asked.lora)
    done = 0
    judge = judge_of(bench.world)

    def measure(pair: Pair, settings: RenderSettings, bench: Bench = bench) -> dict[str, Any]:
        nonlocal done
        found = measured(bench, pair, settings)
        done += 1
        show(done, total)
        return found

    pairs = [measure(held_out(number), settings) for number in range(asked.pairs)]
    report: dict[str, Any] = {
        "avatarctl": __version__,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "settings": settings.model_dump(mode="json"),
        "weights": bench.made_with()["weights"],
        "held_out": judge.of_pairs(pairs),
    }
    if asked.minutes:
        long = Pair("long", LONG_SEED, "speech", 60.0 * asked.minutes, True)
        report["long"] = judge.of_long(measure(long, settings), asked.minutes)
    if asked.tables:
        tables: dict[str, dict[str, Any]] = {}
        for table, name, change in rows:
            changed = RenderSettings.model_validate({**settings.model_dump(), **change})
            found = [measure(for_tuning(number), changed) for number in range(TUNING_PAIRS)]
            tables.setdefault(table, {})[name] = judge.row(found)
        report["tables"] = tables
    if asked.lora:
        with_lora = replace(bench, lora=(asked.lora,))
        dressed = [measure(held_out(number), settings, with_lora) for number in range(min(LOOK_PAIRS, asked.pairs))]
        report["lora"] = _of_lora(pairs[: len(dressed)], dressed)
    report["goals"] = [goal.to_json() for goal in judge.goals_of(report)]
    durable.replace(bench.folder / REPORT, durable.to_json(report))
    durable.replace(bench.folder / TABLES, judge.to_markdown(report).encode())
    write_curves(judge.panels_of(report, pairs), bench.folder / CURVES)
    return report


def goals_of(report: Mapping[str, Any]) -> list[Goal]:
    """Return the goals of what was measured."""
    pairs = report["held_out"]
    goals = [
        Goal("sync: correlation of the mouth's opening", pairs["correlation"], "at least", GOAL_SYNC),
        Goal("sync: largest lag of best correlation, frames", pairs["largest_lag"], "at most", GOAL_LAG),
    ]
    if pairs["pairs"] >= ENOUGH_PAIRS:
        name = "sync: correlation with other voices, after the first second"
        goals.append(Goal(name, abs(pairs["shuffled"]), "at most", GOAL_SHUFFLED))
    if long := report.get("long"):
        for name in ("colour", "geometry"):
            moved = long[name]
            goals.append(
                Goal(f"drift of {name} within the first minute's spread", moved["moved"], "at most", moved["spread"])
            )
        goals.append(Goal("windows: difference at borders", long["borders"]["whole"], "at most", GOAL_BORDERS))
    if lora := report.get("lora"):
        goals.append(Goal("LoRA: distance to the look, of the base's", lora["ratio"], "at most", GOAL_LOOK))
        goals.append(Goal("LoRA: correlation of the mouth's opening", lora["correlation"], "at least", GOAL_LOOK_SYNC))
    return goals


# -- From measurements to numbers -----------------------------------------------------------------------------------------


def _of_pairs(pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    own, asked = ([np.array(pair[name]) for pair in pairs] for name in ("opening", "expected"))
    return {
        "pairs": len(pairs),
        **{name: round(mean_of(pairs, name), 4) for name in SHOWN},
        "lowest_correlation": round(min(pair["correlation"] for pair in pairs), 4),
        "largest_lag": max(abs(pair["lag"]) for pair in pairs),
        "lags": [pair["lag"] for pair in pairs],
        "correlations": [round(pair["correlation"], 4) for pair in pairs],
        "shuffled": round(shuffled(own, asked, ONSET), 4),
        "shuffled_from_the_start": round(shuffled(own, asked), 4),
        "shuffled_truth": round(shuffled(asked, asked), 4),
        "nearest_of_20_faces": sum(pair["nearest_of_20_faces"] for pair in pairs),
        "wall_s": round(mean_of(pairs, "wall_s"), 2),
    }


def _of_long(found: Mapping[str, Any], minutes: int) -> dict[str, Any]:
    per_second = round(FPS)
    result: dict[str, Any] = {
        "minutes": minutes,
        "correlation": round(found["correlation"], 4),
        "lag": found["lag"],
        "borders": {name: round(value, 4) for name, value in found["borders"].items()},
        "wall_s": found["wall_s"],
    }
    for name in ("colour", "geometry"):
        values = _filled(found[f"{name}_curve"])
        moved = drift(values, 60 * per_second, per_second)
        seconds = values[: len(values) // per_second * per_second].reshape(-1, per_second).mean(1)
        result[name] = {**_rounded(moved), "per_second": [round(float(value), 3) for value in seconds]}
    return result


def _rounded(moved: Drift) -> dict[str, Any]:
    return {"moved": round(moved.moved, 4), "spread": round(moved.spread, 4), "within": moved.within}


def _filled(curve: Sequence[float | None]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return a curve whose gaps (shut eyes) are bridged by straight lines."""
    values = np.array([np.nan if value is None else value for value in curve])
    known = np.isfinite(values)
    return np.interp(np.arange(len(values)), np.flatnonzero(known), values[known])


def _row(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        **{name: round(mean_of(found, name), 4) for name in SHOWN},
        "border_ratio": round(float(np.mean([each["borders"]["whole"] for each in found])), 4),
        "lag": max((each["lag"] for each in found), key=abs),
        "wall_s": round(mean_of(found, "wall_s"), 2),
    }


def _of_lora(base: Sequence[Mapping[str, Any]], dressed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    before, after = mean_of(base, "look"), mean_of(dressed, "look")
    return {
        "pairs": len(dressed),
        "look_before": round(before, 4),
        "look_after": round(after, 4),
        "ratio": round(after / before, 4),
        **{name: round(mean_of(dressed, name), 4) for name in SHOWN},
        "largest_lag": max(abs(pair["lag"]) for pair in dressed),
    }


# -- For people -------------------------------------------------------------------------------------------------------------


def to_markdown(report: Mapping[str, Any]) -> str:
    """Return the report's numbers as tables."""
    goals = [
        (
            goal["name"],
            f"{goal['value']:.3g}",
            f"{goal['bound']} {goal['limit']:.3g}",
            "yes" if goal["reached"] else "no",
        )
        for goal in report["goals"]
    ]
    pairs = report["held_out"]
    facts = [
        ("pairs of a face and a voice", pairs["pairs"]),
        ("correlation of the mouth's opening, mean", pairs["correlation"]),
        ("the same, lowest pair", pairs["lowest_correlation"]),
        ("correlation with other voices, from the start", pairs["shuffled_from_the_start"]),
        ("the same of the curves asked for", pairs["shuffled_truth"]),
        ("correlation of the mouth's width", pairs["width_correlation"]),
        ("amplitude of the opening (1: as driven)", pairs["amplitude"]),
        ("colour distance to the reference, grey levels", pairs["colour"]),
        ("distance of the eyes' measures, pixels of 64", pairs["geometry_px"]),
        ("faces nearest to their own reference among 20", f"{pairs['nearest_of_20_faces']} of {pairs['pairs']}"),
    ]
    parts = [
        markdown_table(("goal", "measured", "asked for", "reached"), goals),
        markdown_table(("held-out pairs", ""), facts),
    ]
    for table, rows in report.get("tables", {}).items():
        cells = [(name, *(row[key] for key in (*SHOWN, "border_ratio")), row["lag"]) for name, row in rows.items()]
        parts.append(markdown_table((table, *HEADERS), cells))
    return "\n\n".join(parts) + "\n"


def panels_of(report: Mapping[str, Any], pairs: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """Return the diagrams: three pairs' curves, all correlations, the long render, and the tables."""
    seconds = [frame / 25 for frame in range(len(pairs[0]["opening"]))]
    panels = [
        Panel(
            f"held-out pair {number}: correlation {pairs[number]['correlation']:.2f}",
            "seconds",
            "opening",
            {"rendered": (seconds, pairs[number]["opening"]), "asked for": (seconds, pairs[number]["expected"])},
            {},
        )
        for number in range(min(3, len(pairs)))
    ]
    ranked = sorted(report["held_out"]["correlations"], reverse=True)
    numbers = list(range(1, len(ranked) + 1))
    levels = {f"goal {GOAL_SYNC}": GOAL_SYNC}
    panels.append(
        Panel("all held-out pairs, ranked", "pair", "correlation", {"opening": (numbers, ranked)}, levels, True)
    )
    if long := report.get("long"):
        for name, unit in (("colour", "grey levels"), ("geometry", "pixels")):
            curve = long[name]["per_second"]
            x = [second / 60 for second in range(len(curve))]
            title = f"distance to the reference over {long['minutes']} minutes: {name}"
            panels.append(Panel(title, "minutes", unit, {name: (x, curve)}, {}))
    for table in ("steps", "overlap"):
        if table in report.get("tables", {}):
            rows = report["tables"][table]
            x = [float(name) for name in rows]
            curves = {name: (x, [row[name] for row in rows.values()]) for name in ("correlation", "amplitude")}
            panels.append(Panel(f"by {table}", table, "opening", curves, {}, points=True))
    return panels
