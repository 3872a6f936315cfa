"""Report what became of footage: a line of JSON per candidate, a summary, a table, a sheet with pictures and scores."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from avatarctl import durable, jsontext
from avatarctl.console import clock, table
from avatarctl.data.discover import REPORTS
from avatarctl.data.prepare.records import Home, Record
from avatarctl.data.prepare.scan import FPS, Scan
from avatarctl.data.prepare.sources import Source

MOST_ON_SHEET = 200
TILE_PX, LABEL_PX = 200, 30
GREEN, RED, YELLOW = (40, 200, 60), (230, 60, 50), (250, 220, 60)
# Reasons as people read them.
WORDS = {
    "no_face": "no face",
    "small_face": "small face",
    "several_faces": "several faces",
    "other_person": "another person",
    "silent": "silent",
    "not_speaking": "not speaking",
    "out_of_sync": "out of sync",
    "short": "short",
    "blurred": "blurred",
    "duplicate": "duplicate",
    "damaged": "damaged",
}
FULL = "free some space and run the same command again: what is finished is kept"


@dataclass
class Summary:
    """What became of all footage. ``seconds``: of all candidates; ``kept_s``: of those that were kept."""

    files: int = 0
    candidates: int = 0
    kept: int = 0
    seconds: float = 0.0
    kept_s: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)
    warnings: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    damaged: list[tuple[str, str]] = field(default_factory=list)

    def in_words(self) -> str:
        """Return the summary in a sentence."""
        reasons = ", ".join(f"{count} {WORDS[name]}" for name, count in self.reasons.items())
        kept = f"kept {self.kept} of {self.candidates} candidates ({clock(self.kept_s)} of {clock(self.seconds)})"
        return f"{kept}: {reasons}" if reasons else kept


def summed(records: list[Record]) -> Summary:
    """Return the summary of records."""
    rows = [row for record in records for row in record.rows]
    lengths = [row["end_s"] - row["start_s"] for row in rows]
    reasons = Counter(row["reason"] for row in rows if row["reason"])
    return Summary(
        len(records),
        len(rows),
        sum(row["kept"] for row in rows),
        round(sum(lengths), 3),
        round(sum(length for row, length in zip(rows, lengths, strict=True) if row["kept"]), 3),
        dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        dict(sorted(Counter(text for row in rows for text in row["warnings"]).items())),
        [note for record in records for note in record.notes],
        [(record.name, row["detail"]) for record in records for row in record.rows if row["reason"] == "damaged"],
    )


def shown(summary: Summary) -> str:
    """Return the summary as a table."""
    rows = [("kept", str(summary.kept), clock(summary.kept_s))]
    rows += [(f"dropped: {WORDS[name]}", str(count), "") for name, count in summary.reasons.items()]
    rows += [(f"kept or not, {name}", str(count), "") for name, count in summary.warnings.items()]
    rows += [("all candidates", str(summary.candidates), clock(summary.seconds))]
    return f"{table(('FOOTAGE', 'COUNT', 'LENGTH'), rows)}\n\n{summary.in_words()}"


def write_reports(clips: Path, records: list[Record], settings: dict[str, Any]) -> Summary:
    """Write prepare.jsonl and summary.json; return the summary."""
    summary = summed(records)
    lines = [jsontext.dumps(public(row, record, clips)) for record in records for row in record.rows]
    jsonl, summary_file, _ = REPORTS
    with durable.guarded(clips, full=FULL, elsewhere="choose another --output"):
        durable.replace(clips / jsonl, "".join(f"{line}\n" for line in lines).encode())
        content = {**vars(summary), "damaged": [list(each) for each in summary.damaged], "settings": settings}
        durable.replace(clips / summary_file, durable.to_json(content))
    return summary


def public(row: dict[str, Any], record: Record, clips: Path) -> dict[str, Any]:
    """Return a candidate as prepare.jsonl has it."""
    clip = str((clips / row["clip"]).absolute()) if row["clip"] else None
    return {"source": record.source, **row, "clip": clip}


# -- Contact sheet -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tile:
    """A candidate on the sheet: its picture (JPEG), face and lips as boxes in shares of it, what is said of it."""

    jpg: bytes
    boxes: list[list[float]]
    kept: bool
    lines: tuple[str, str]


def tiles_of(home: Home, rows: Sequence[tuple[Record, dict[str, Any]]]) -> Iterator[Tile]:
    """Return the tiles of candidates, which are ordered by file."""
    name, scan = "", None
    for record, row in rows:
        if record.name != name:
            name, scan = record.name, home.look_back(Source(record.name, Path(record.source)).key)
        yield _tile(scan, record, row)


def _tile(scan: Scan | None, record: Record, row: dict[str, Any]) -> Tile:
    """Return a candidate's tile, of the picture that was kept nearest to its middle."""
    scores = row["scores"]
    what = "kept" if row["kept"] else WORDS[row["reason"]]
    told = f"{what}, lips {scores['lips_correlation']:.2f}" if "lips_correlation" in scores else what
    lines = f"{record.name} {row['start_s']:.1f}s", told
    if scan is None or not len(scan.thumb_rows):
        return Tile(b"", [], row["kept"], lines)
    picture, jpg = scan.thumb(round((row["start_s"] + row["end_s"]) / 2 * float(FPS)))
    which = (scan.column("picture") == picture) & (
        scan.column("track") == (-1 if row["track"] is None else row["track"])
    )
    width, height = scan.size
    boxes = [
        [float(scan.column(name, which)[0]) / (width if name[-2] == "x" else height) for name in names]
        for names in (("x0", "y0", "x1", "y1"), ("lips_x0", "lips_y0", "lips_x1", "lips_y1"))
        if which.any()
    ]
    return Tile(jpg, boxes, row["kept"], lines)


def write_sheet(target: Path, tiles: list[Tile]) -> None:
    """Write a JPEG with a tile per candidate: green what is kept, red what is dropped, yellow the lips."""
    pictures = [_drawn(tile) for tile in tiles]
    tall = max((picture.height for picture in pictures), default=0)
    columns, height = max(math.ceil(math.sqrt(len(tiles))), 1), tall + LABEL_PX
    sheet = Image.new("RGB", (columns * TILE_PX, math.ceil(len(tiles) / columns) * height), "white")
    pen = ImageDraw.Draw(sheet)
    for place, (tile, picture) in enumerate(zip(tiles, pictures, strict=True)):
        left, top = place % columns * TILE_PX, place // columns * height
        sheet.paste(picture, (left + (TILE_PX - picture.width) // 2, top))
        pen.rectangle([left, top + tall + 2, left + 4, top + height - 3], fill=GREEN if tile.kept else RED)
        for line, text in enumerate(tile.lines):
            while pen.textlength(text) > TILE_PX - 10 and len(text) > 4:
                text = f"{text[: len(text) // 2 - 2]}...{text[len(text) // 2 + 2 :]}"
            pen.text((left + 8, top + tall + 2 + 14 * line), text.encode("ascii", "replace").decode(), fill="black")
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=88)
    with durable.guarded(target.parent, full=FULL, elsewhere="choose another --output"):
        durable.replace(target, buffer.getvalue())


def _drawn(tile: Tile) -> Image.Image:
    """Return a tile's picture with its boxes; grey where there is none."""
    if not tile.jpg:
        return Image.new("RGB", (TILE_PX - 4, TILE_PX // 3), "lightgrey")
    with Image.open(io.BytesIO(tile.jpg)) as picture:
        small = picture.convert("RGB")
    small.thumbnail((TILE_PX - 4, TILE_PX - 4))
    draw = ImageDraw.Draw(small)
    for box, colour in zip(tile.boxes, (GREEN if tile.kept else RED, YELLOW), strict=False):
        draw.rectangle([edge * small.size[at % 2] for at, edge in enumerate(box)], outline=colour, width=2)
    return small
