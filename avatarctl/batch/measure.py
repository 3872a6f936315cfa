"""Measure the videos of a batch that are there, each once: a row that was kept is read again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from avatarctl import durable
from avatarctl.batch.history import record_path
from avatarctl.batch.items import Item
from avatarctl.batch.tally import Tally
from avatarctl.errors import AvatarError
from avatarctl.paths import derived
from avatarctl.progress import Progress
from avatarctl.render.crop import framing_in
from avatarctl.render.guard import guarded

VERSION = 1  # of how videos are measured: another number measures them again


def measure(items: Sequence[Item], tally: Tally, show: Progress) -> None:
    """Add the row of every video that is there to its item's row in the summary."""
    for item in items:
        record = durable.unsealed(record_path(item))
        if record is None or not item.job.output.is_file():
            continue  # failed, or stopped
        kept_at = derived(record_path(item), after=".evaluation")
        kept = durable.unsealed(kept_at)
        if kept is None or kept.get("sha256") != record["sha256"] or kept.get("version") != VERSION:
            try:
                kept = {"version": VERSION, "sha256": record["sha256"], "row": _row(item, record, show)}
            except AvatarError as error:
                tally.measured(item, None, error.message)
                continue
            with guarded(kept_at.parent):
                durable.replace(kept_at, durable.sealed(kept))
        tally.measured(item, {**kept["row"], "path": str(item.job.output)}, "")


def _row(item: Item, record: dict[str, Any], show: Progress) -> dict[str, Any]:
    from avatarctl.evaluation.renders import evaluate_render

    def report(done: int, total: int, **_: Any) -> None:
        show(0, 0, stage="measuring", item=item.name, **({"fraction": done / total} if total else {}))

    return evaluate_render(item.job, int(record["pictures"]), framing_in(record["manifest"]), report)
