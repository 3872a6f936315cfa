"""Render one item and write its record; the same code on this machine and in a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from avatarctl.batch.history import item_state, lock_path, write_record
from avatarctl.batch.items import Item
from avatarctl.batch.plan import checked_of
from avatarctl.errors import AvatarError, BusyError, ChangedError, Interrupted, UsageError
from avatarctl.progress import Progress
from avatarctl.render.folder import RenderFolder
from avatarctl.render.guard import guarded
from avatarctl.render.journey import journey
from avatarctl.render.ours import is_render, is_vacant

if TYPE_CHECKING:
    from avatarctl.render.networks import LoadedNetworks

# A worker whose driver was killed ends after its window step; whoever comes next waits for it.
PATIENCE_S = 600.0


@dataclass(frozen=True)
class Outcome:
    """How an item ended: done (with numbers), failed (with the error), or stopped (all saved)."""

    state: str  # done, failed, stopped
    wall_s: float = 0.0
    window_steps: int = 0
    video_s: float = 0.0
    message: str = ""
    hint: str = ""
    exit_code: int = 0
    out_of_memory: bool = False
    notes: Sequence[str] = ()


def make_video(
    item: Item,
    redo: bool,
    loaded: LoadedNetworks,
    show: Progress,
    before_tidy: Callable[[Path], None] = lambda _: None,
) -> Outcome:
    """Render an item from wherever it stands, unless it is finished; an error becomes an outcome.

    ``before_tidy`` is called with the render folder of a finished item before that folder is removed.
    """
    began = time.monotonic()
    try:
        steps, video_s, notes = _make(item, redo, loaded, show, before_tidy)
    except Interrupted as error:
        return Outcome("stopped", message=error.message, hint=error.hint, exit_code=error.exit_code)
    except AvatarError as error:
        memory = _is_memory(error.__cause__)
        loaded.clear()  # after an error on the device what is loaded may be spoiled, and is in the way
        wall_s = round(time.monotonic() - began, 3)
        return Outcome("failed", wall_s, 0, 0.0, error.message, error.hint, error.exit_code, memory)
    return Outcome("done", round(time.monotonic() - began, 3), steps, round(video_s, 3), notes=notes)


def _make(
    item: Item, redo: bool, loaded: LoadedNetworks, show: Progress, before_tidy: Callable[[Path], None]
) -> tuple[int, float, Sequence[str]]:
    job = item.job
    lock = lock_path(item)
    for folder in (lock.parent, job.output.parent):
        with guarded(folder):
            folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=PATIENCE_S):
            stands = item_state(item, checked_of(item))
            if stands.state == "finished":
                before_tidy(job.folder)
                tidy(item)
                return 0, 0.0, ()
            if stands.state == "changed" and not redo:
                raise ChangedError(f"{item.name}: {stands.why}", "render it again with --redo")
            if stands.state == "foreign" and not redo:
                raise UsageError(stands.why, "choose another --output, or render it again with --redo")
            # The folder is removed after the record is written, not before: a kill between them would cost the video.
            force = stands.state in ("changed", "foreign")
            rendered = journey(job.model_copy(update={"keep": True}), force, show, loaded)
            assert rendered is not None, "a worker is no follower of a launcher"
            write_record(item, rendered)
            before_tidy(job.folder)
            tidy(item)
            return rendered.window_steps, rendered.video_s, rendered.notes
    except Timeout as error:
        raise BusyError(
            f"{item.name}: another process makes this video", "wait for it, or stop that process"
        ) from error


def tidy(item: Item) -> None:
    """Remove the render folder of a finished item, if a kill left one."""
    folder = RenderFolder(item.job.folder)
    if folder.path.is_dir() and (is_vacant(folder.path) or is_render(folder.path)):  # else it is the user's
        with folder.held():
            folder.remove()


def _is_memory(cause: BaseException | None) -> bool:
    from avatarctl.networks.full import is_full

    return is_full(cause)


def lower_memory(mode: Any) -> str | None:
    """Return the memory mode that needs less than ``mode``, if there is one.

    After auto, whatever the render tried by itself, the next attempt begins lower: the first may have met another program.
    """
    return {"auto": "model", "full": "model", "model": "group", "group": "sequential"}.get(str(mode))
