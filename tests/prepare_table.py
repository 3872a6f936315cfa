"""Write the table of docs/prepare.md from what really happens: `python tests/prepare_table.py [FOLDER]` after a change.

Takes some twenty minutes on one core. FOLDER keeps recordings and clips, so that it can be stopped and continued.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "data")]

from filmed import Recording, Truth, rotated, scenes, write  # noqa: E402 (found by the line above)
from truth import Score, rows_of  # noqa: E402

from avatarctl.data.prepare.run import prepare  # noqa: E402
from avatarctl.settings.prepare import PrepareJob, PrepareSettings  # noqa: E402

PAGE = ROOT / "docs" / "prepare.md"
BEGIN, END = "<!-- table: written by tests/prepare_table.py -->", "<!-- end of table -->"
SEEDS = (1,)  # voices, people and rooms that no threshold was chosen with
SPOILT = {"zz-copy": "duplicate", "zz-cut-off": "damaged"}  # made of the first recording


def made(folder: Path, seed: int, names: tuple[str, ...] = ()) -> list[Recording]:
    """Write the recordings of a seed that aren't there yet; return them."""
    wanted = [each for each in [*scenes(seed), rotated(seed)] if not names or each.name in names]
    for each in wanted:
        if not (folder / f"{each.name}.mp4").exists():
            write(each, folder)
    whole = (folder / f"{wanted[0].name}.mp4").read_bytes()
    (folder / "zz-copy.mp4").write_bytes(whole)
    (folder / "zz-cut-off.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    return wanted


def measured(folder: Path, seed: int, score: Score, names: tuple[str, ...] = ()) -> None:
    """Prepare the recordings of a seed, and add what was found to the score."""
    wanted = made(folder / f"raw-{seed}", seed, names)
    clips = folder / f"clips-{seed}"
    raw, settings = (folder / f"raw-{seed}",), PrepareSettings(speech="energy")
    prepare(PrepareJob(raw=raw, clips=clips, settings=settings, device="cpu", dry_run=True), lambda *_, **__: None)
    rows = rows_of(clips)
    for each in wanted:
        score.add(each, rows.get(each.name, []))
    for name, reason in SPOILT.items():
        truth = Truth(((0.0, wanted[0].seconds, reason),))
        score.add(Recording(name, wanted[0].show, None, wanted[0].seconds, truth), rows.get(name, []))


def table(score: Score) -> str:
    """Return the score as a table of Markdown."""
    lines = [("outcome", "true", "found", "precision", "recall"), ("---",) * 5]
    for name in ("kept", *sorted(set(score.expected) - {"kept"})):
        expected, found, both = score.expected[name], score.found[name], score.both[name]
        lines.append(
            (
                f"`{name}`" if name != "kept" else name,
                str(expected),
                str(found),
                share(both, found),
                share(both, expected),
            )
        )
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    lags, cuts = score.lag_errors, score.cut_errors
    facts = [
        f"offsets of -0.2 to 0.2 s: {len(lags)} found, largest error {max(lags):.1f} pictures of 0.04 s",
        f"cuts: {len(cuts)} found, largest error {max(cuts):.0f} pictures",
        *(f"warnings of {name}: {count} of {len(SEEDS)}" for name, count in sorted(score.warned.items())),
    ]
    return text + "\n\n" + "\n".join(f"- {fact}" for fact in facts)


def share(part: int, whole: int) -> str:
    """Return a share with two digits."""
    return f"{part / whole:.2f}" if whole else "-"


def main() -> None:
    """Write the table."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, score = Path(sys.argv[1] if len(sys.argv) > 1 else temporary), Score()
        for seed in SEEDS:
            measured(folder, seed, score)
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(score)}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    sys.stderr.write("\n".join(score.wrong) + "\n")


if __name__ == "__main__":
    main()
