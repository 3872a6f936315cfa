"""A worker process: read items as lines on a pipe, report progress and outcomes, load the weights once."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import IO, TYPE_CHECKING, Any

from filelock import FileLock

from avatarctl import console
from avatarctl.batch.items import Item
from avatarctl.batch.notes import Notes
from avatarctl.networks import lean
from avatarctl.networks.devices import may_compile
from avatarctl.settings.render import RenderJob

if TYPE_CHECKING:
    from avatarctl.render.networks import LoadedNetworks

REPORT_EVERY_S = 0.5
# Words of the command line. OUTLIVE: the end of the pipe lets the item at work be finished; only STOP stops it.
OUTLIVE, LOCK = "--outlive", "--lock="
STOP = "stop"


def to_line(item: Item, redo: bool, notes: Path | None = None) -> str:
    """Return an item as a line. ``notes``: a folder for what outlives the driver (see ``notes.py``)."""
    content = {"index": item.index, "name": item.name, "where": item.where, "redo": redo}
    content["notes"] = None if notes is None else str(notes)
    return json.dumps({**content, "job": json.loads(item.job.model_dump_json())})


def from_line(line: str) -> tuple[Item, bool]:
    """Return the item of a line, and whether to make it anew."""
    content = json.loads(line)
    job = RenderJob.model_validate_json(json.dumps(content["job"]))
    return Item(content["index"], content["name"], job, content["where"]), content["redo"]


def notes_of(line: str) -> Notes | None:
    """Return the notes that a line asks for."""
    folder = json.loads(line)["notes"]
    return None if folder is None else Notes(Path(folder))


def main(words: Sequence[str]) -> None:
    """Make items until the pipe ends; when it ends in the middle of one, save and stop (OUTLIVE: finish that one)."""
    # The pipes get numbers of their own, so that nothing that is run or written meanwhile meets them.
    orders = os.fdopen(os.dup(0), encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    waiting: SimpleQueue[str | None] = SimpleQueue()
    busy, ended = threading.Event(), threading.Event()
    outlives = OUTLIVE in words
    threading.Thread(target=_listen, args=(orders, waiting, busy, ended, outlives), daemon=True).start()
    # Held to this process's end: a driver that comes later sees that the place is taken.
    locks = [FileLock(word.removeprefix(LOCK)) for word in words if word.startswith(LOCK)]
    for lock in locks:
        lock.acquire()
    lean.allow()
    loaded: LoadedNetworks | None = None
    while (line := waiting.get()) is not None:
        item, redo = from_line(line)
        notes = notes_of(line)
        if loaded is None:
            if not may_compile(item.job.placement.compile, item.job.placement.device):
                lean.import_networks()
            from avatarctl.batch.work import make_video
            from avatarctl.render.networks import LoadedNetworks

            loaded = LoadedNetworks()
        console.note(f"== {item.name}")
        busy.set()
        if (
            ended.is_set()
        ):  # asked after busy is set, as the listener asks for busy after ended: one of them sees the other
            break
        with console.warnings_as_notes():
            if notes is None:
                outcome = make_video(item, redo, loaded, Reports(answers, item.index))
            else:
                with notes.stopping_when_told():
                    outcome = make_video(item, redo, loaded, Reports(answers, item.index, notes), notes.keep_events)
                notes.ended(outcome)
        busy.clear()
        _say(answers, {"item": item.index, "outcome": asdict(outcome)})
        if outcome.state == "stopped" and not (notes is not None and notes.told()):
            break


def _listen(
    orders: IO[str], waiting: SimpleQueue[str | None], busy: threading.Event, ended: threading.Event, outlives: bool
) -> None:
    """Pass on lines; the end of the pipe, by the driver's will or death, ends this process too.

    ``outlives``: an item at work is finished first, unless the driver said STOP.
    """
    told = False
    for line in orders:
        if line.strip() == STOP:
            told = True
            break
        waiting.put(line)
    if not outlives or told:
        ended.set()
    waiting.put(None)
    if busy.is_set() and ended.is_set():
        os.kill(os.getpid(), signal.SIGTERM)  # a render saves what it has and stops


def _say(answers: IO[str], content: dict[str, Any]) -> None:
    try:
        answers.write(json.dumps(content) + "\n")
        answers.flush()
    except BrokenPipeError:  # the driver is gone: the end of the other pipe stops this process
        return


class Reports:
    """Progress of one item, passed on twice a second."""

    def __init__(self, answers: IO[str], index: int, notes: Notes | None = None) -> None:
        self._answers, self._index, self._last, self._notes = answers, index, 0.0, notes

    def __call__(self, done: int, total: int, **facts: Any) -> None:
        """Pass on that ``done`` of ``total`` window steps are done, and the stage; ``total`` 0: a stage began."""
        now = time.monotonic()
        begins = not total and "fraction" not in facts
        if begins or now - self._last >= REPORT_EVERY_S or (total and done == total):
            self._last = self._last if begins else now
            content = {"done": done, "total": total, "stage": str(facts.get("stage", ""))}
            content |= {name: facts[name] for name in ("left_s", "video_s") if name in facts}
            if self._notes is not None:
                self._notes.progress(content)
            _say(self._answers, {"item": self._index, **content})


if __name__ == "__main__":
    main(sys.argv[1:])
