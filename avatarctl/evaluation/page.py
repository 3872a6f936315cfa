"""Write the report of evaluated videos: one page that needs no network and no other file, and the numbers as JSON."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from avatarctl import __version__, durable
from avatarctl.evaluation.curves import Curve, Diagram, svg
from avatarctl.evaluation.evaluate import Evaluated
from avatarctl.evaluation.gate import AT_LEAST, AT_MOST, value_of
from avatarctl.evaluation.names import NUMBERS, PAGE
from avatarctl.faces.identity import SAME_PERSON
from avatarctl.jsontext import dumps

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1320px; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 1em 0; } td, th { padding: .2em .8em; text-align: right; }
td:first-child, th:first-child { text-align: left; } tr:nth-child(even) { background: #f4f4f4; } th { font-weight: 600; }
figure { display: inline-block; margin: .5em; vertical-align: top; } figcaption { font-size: 13px; color: #555; }
svg { width: 600px; max-width: 100%; } svg text { font: 10px system-ui, sans-serif; fill: #555; }
polyline { fill: none; stroke-width: 1.2; } .axis { stroke: #999; } .mark { stroke: #ddd; }
.level { stroke: #777; stroke-dasharray: 3 3; } .sheet img { max-width: 200px; display: block; } .found { color: #a02020; }
.note { color: #666; }
"""


def write_report(folder: Path, found: Sequence[Evaluated], data: dict[str, Any]) -> list[Path]:
    """Write page and numbers into a folder; each is whole or not there. Return both paths."""
    durable.make_folder(folder)
    page, numbers = folder / PAGE, folder / NUMBERS
    durable.replace(numbers, (dumps({"avatarctl": __version__, **data}, indent=1) + "\n").encode())
    durable.replace(page, page_of(found).encode(errors="replace"))
    return [page, numbers]


def page_of(found: Sequence[Evaluated]) -> str:
    """Return the page."""
    rows = [each.row for each in found]
    sections = "".join(_section(each) for each in found)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Evaluation</title><style>{STYLE}</style></head>'
        f"<body><h1>Evaluation</h1>{_table(rows)}{sections}<p class=note>avatarctl {__version__}. Lip-envelope correlation: "
        "the opening of the mouth against the level of the voice between 300 and 3400 Hz, at the best lag; it is not Sync-C. "
        "Zero: the same voice, shifted by seconds, 20 times.</p></body></html>\n"
    )


def _table(rows: Sequence[dict[str, Any]]) -> str:
    head = "".join(f"<th>{escape(Path(row['path']).name)}</th>" for row in rows)
    keys = [key for key in (*AT_LEAST, *AT_MOST) if any(value_of(row, key) is not None for row in rows)]
    keys.sort(
        key=lambda key: (
            ["face", "lips", "syncnet", "identity", "picture", "sound"].index(key.split(".")[0]) if "." in key else -1
        )
    )
    body = ""
    for key in keys:
        values = [value_of(row, key) for row in rows]
        body += f"<tr><td>{key}</td>" + "".join(f"<td>{'–' if v is None else f'{v:g}'}</td>" for v in values) + "</tr>"
    return f"<table><tr><th>measure</th>{head}</tr>{body}</table>"


def _section(each: Evaluated) -> str:
    row = each.row
    told = [f'<li class="found">{escape(one["text"])}</li>' for one in row["findings"]]
    told += [f'<li class="found">missed: {escape(one)}</li>' for one in row.get("missed", ())]
    told += [f'<li class="note">{escape(note)}</li>' for note in row["notes"]]
    diagrams = "".join(svg(diagram) for diagram in _diagrams(each))
    reference = f"reference: {escape(row['reference'])}; " if row["reference"] else ""
    return (
        f"<h2>{escape(row['path'])}</h2><p class=note>{reference}measured by {escape(row['measured_by'])}</p>"
        f"<ul>{''.join(told)}</ul>{diagrams}<div class=sheet>{_sheet(each)}</div>"
    )


def _sheet(each: Evaluated) -> str:
    fps = float(each.seen.fps)
    images = []
    for number, jpeg in each.seen.sheet.pictures():
        code = base64.b64encode(jpeg).decode()
        minutes, seconds = divmod(number / fps, 60)
        caption = f"{int(minutes)}:{seconds:04.1f}"
        images.append(
            f'<figure><img alt="{caption}" src="data:image/jpeg;base64,{code}"><figcaption>{caption}</figcaption></figure>'
        )
    return "".join(images)


def _diagrams(each: Evaluated) -> list[Diagram]:
    curves, lips, fps = each.scored.curves, each.row["lips"], float(each.seen.fps)
    times: Curve = np.arange(each.seen.pictures) / np.float64(fps)
    found = []
    if "opening" in curves:
        shown = {"opening of the mouth": (times, _scaled(curves["opening"]))}
        if "level_db" in curves:
            count = len(curves["level_db"])
            shown["level of the voice"] = (times[:count], _scaled(curves["level_db"]))
        found.append(Diagram("Mouth and voice, each between its lowest and highest", "s", shown))
    if "by_lag" in curves:
        half = len(curves["by_lag"]) // 2
        lags: Curve = np.arange(-half, half + 1) / np.float64(fps)
        levels = {"95 % of shifted voices": lips["shifted_q95"]}
        title = f"Lip-envelope correlation by lag: {lips['correlation']:.2f} at {lips['lag_s']:+.3f} s"
        found.append(Diagram(title, "s", {"correlation": (lags, curves["by_lag"])}, levels))
    for name, title, levels in (
        ("identity", "Distance of the face to the reference", {"another person": SAME_PERSON}),
        ("colour", "Distance of the face's colour to the reference (Lab)", {}),
        ("sharpness", "Sharpness of the face, of the reference's", {}),
    ):
        if name in curves:
            found.append(Diagram(title, "s", {name: (_middles(curves[name]), curves[name])}, levels))
    marks = [place / fps for place in each.scored.borders]
    found.append(
        Diagram(
            "Change from picture to picture, grey levels; lines: where windows join",
            "s",
            {"change": (times[1:], curves["steps"][1:])},
            marks=marks,
        )
    )
    return found


def _middles(seconds_S: Curve) -> Curve:
    """Return the middles of seconds."""
    return np.arange(len(seconds_S), dtype=np.float64) + 0.5


def _scaled(curve: Curve) -> Curve:
    low, high = np.nanquantile(curve, [0.01, 0.99]) if np.isfinite(curve).any() else (0.0, 1.0)
    return np.clip((curve - low) / max(high - low, 1e-9), 0, 1)
