"""Show the rows of videos as a table of 80 columns, with what is remarkable below it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from avatarctl import console
from avatarctl.evaluation.gate import value_of

WIDTH, NAME = 80, 20
HEADERS = ("VIDEO", "FACE", "LIPS", "ZERO", "LAG", "STILL", "WHO", "WORST", "SHARP", "COLOUR")
# What a column shows: the measure and its form.
COLUMNS = (
    ("face.share", "{:.0%}"),
    ("lips.correlation", "{:.2f}"),
    ("lips.shifted_q95", "{:.2f}"),
    ("lips.lag_s", "{:+.2f}"),
    ("lips.still_in_speech", "{:.0%}"),
    ("identity.mean", "{:.2f}"),
    ("identity.worst", "{:.2f}"),
    ("picture.sharpness", "{:.2f}"),
    ("picture.colour_slope_per_minute", "{:.2f}"),
)
LEGEND = (
    "LIPS: lip-envelope correlation with the voice; ZERO: what 19 of 20 shifted\n"
    "voices stay below; LAG: seconds, + when lips come late; STILL: share of speech\n"
    "with a still mouth; WHO, WORST: distance to reference; COLOUR: drift a minute"
)


def table_of(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as text; what couldn't be measured is a dash."""
    cells = []
    for row in rows:
        found = [_cell(value_of(row, key), form) for key, form in COLUMNS]
        cells.append(
            (_short(row["path"]), *(cell.rjust(len(header)) for cell, header in zip(found, HEADERS[1:], strict=True)))
        )
    lines = [console.table(HEADERS, cells), "", LEGEND]
    told = [f"{_short(row['path'])}: {each['text']}" for row in rows for each in row["findings"]]
    told += [f"{_short(row['path'])}: {_syncnet(row['syncnet'])}" for row in rows if row.get("syncnet")]
    told += [f"{_short(row['path'])}: missed: {each}" for row in rows for each in row.get("missed", ())]
    return "\n".join([*lines, *([""] if told else []), *(_wrapped(each) for each in told)])


def _syncnet(found: dict[str, Any]) -> str:
    if found["lse_c"] is None:
        return "SyncNet wasn't asked"
    return (
        f"LSE-C {found['lse_c']:.2f} at {found['lag_s']:+.2f} s, LSE-D {found['lse_d']:.2f}; the voice of another moment "
        f"{found['shifted_lse_c']:.2f}, {found['shifted_lse_d']:.2f}"
    )


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _short(path: str) -> str:
    name = path.rpartition("/")[2]
    return name if len(name) <= NAME else f"…{name[-NAME + 1 :]}"


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_long_words=False))
