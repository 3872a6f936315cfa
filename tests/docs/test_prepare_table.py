"""Tests with the table of docs/prepare.md: it has every outcome, is good, and (long) is what really happens."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests"))

import prepare_table  # noqa: E402 (found by the line above)

REASONS = {"no_face", "small_face", "several_faces", "other_person", "silent", "not_speaking", "out_of_sync"}
REASONS |= {"short", "blurred", "duplicate", "damaged"}
ROW = re.compile(r"^\| `?(\w+)`? \| (\d+) \| (\d+) \| ([\d.]+|-) \| ([\d.]+|-) \|$", re.M)


def rows(text: str) -> dict[str, tuple[float, ...]]:
    """Return outcome -> how often it was true and found, precision, recall."""
    return {name: tuple(float(each.strip("-") or 0) for each in numbers) for name, *numbers in ROW.findall(text)}


def written() -> str:
    page = prepare_table.PAGE.read_text(encoding="utf-8")
    return page.partition(prepare_table.BEGIN)[2].partition(prepare_table.END)[0]


def test_the_table_has_every_outcome_and_most_are_found() -> None:
    found = rows(written())
    assert set(found) == REASONS | {"kept"}
    assert all(true >= 1 for true, *_ in found.values())
    _, _, precision, recall = found["kept"]
    assert precision >= 0.95 and recall >= 0.9
    right = sum(true * recall for true, _, _, recall in found.values()) / sum(true for true, *_ in found.values())
    assert right >= 0.9
    errors = re.findall(r"largest error ([\d.]+) pictures", written())
    assert len(errors) == 2 and all(float(error) <= 1 for error in errors)


@pytest.mark.long
def test_the_table_is_what_happens(tmp_path: Path) -> None:
    """Other machines round in other ways: shares may differ by one recording."""
    score = prepare_table.Score()
    for seed in prepare_table.SEEDS:
        prepare_table.measured(tmp_path, seed, score)
    now, then = rows(prepare_table.table(score)), rows(written())
    assert set(now) == set(then)
    for name, (true, found, _, _) in now.items():
        assert true == then[name][0] and abs(found - then[name][1]) <= 1, (name, score.wrong)
