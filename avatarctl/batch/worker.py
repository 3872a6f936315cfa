"""A worker process: read items as lines on a pipe, report progress and outcomes, load the weights once."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import asdict
from queue import SimpleQueue
from typing import IO, TYPE_CHECKING, Any

from avatarctl import console
from avatarctl.batch.items import Item
from avatarctl.networks import lean
from avatarctl.networks.devices import may_compile
from avatarctl.settings.render import RenderJob

if TYPE_CHECKING:
    from avatarctl.render.networks import LoadedNetworks

REPORT_EVERY_S = 0.5


def to_line(item: Item, redo: bool) -> str:
    """Return an item as a line."""
    content = {"index": item.index, "name": item.name, "where": item.where, "redo": redo}
    return json.dumps({**content, "job": json.loads(item.job.model_dump_json())})


def from_line(line: str) -> tuple[Item, bool]:
    """Return the item of a line, and whether to make it anew."""
    content = json.loads(line)
    job = RenderJob.model_validate_json(json.dumps(content["job"]))
    return Item(content["index"], content["name"], job, content["where"]), content["redo"]


def main() -> None:
    """Make items until the pipe ends; when it ends in the middle of one, save and stop."""
    # The pipes get numbers of their own, so that nothing that is run or written meanwhile meets them.
    orders = os.fdopen(os.dup(0), encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    waiting: SimpleQueue[str | None] = SimpleQueue()
    busy, ended = threading.Event(), threading.Event()
    threading.Thread(target=_listen, args=(orders, waiting, busy, ended), daemon=True).start()
    lean.allow()
    loaded: LoadedNetworks | None = None
    while (line := waiting.get()) is not None:
        item, redo = from_line(line)
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
            outcome = make_video(item, redo, loaded, Reports(answers, item.index))
        busy.clear()
        _say(answers, {"item": item.index, "outcome": asdict(outcome)})
        if outcome.state == "stopped":
            break


def _listen(orders: IO[str], waiting: SimpleQueue[str | None], busy: threading.Event, ended: threading.Event) -> None:
    """Pass on lines; the end of the pipe, by the driver's will or death, ends this process too."""
    for line in orders:
        waiting.put(line)
    ended.set()
    waiting.put(None)
    if busy.is_set():
        os.kill(os.getpid(), signal.SIGTERM)  # a render saves what it has and stops


def _say(answers: IO[str], content: dict[str, Any]) -> None:
    try:
        answers.write(json.dumps(content) + "\n")
        answers.flush()
    except BrokenPipeError:  # the driver is gone: the end of the other pipe stops this process
        return


class Reports:
    """Progress of one item, passed on twice a second."""

    def __init__(self, answers: IO[str], index: int) -> None:
        self._answers, self._index, self._last = answers, index, 0.0

    def __call__(self, done: int, total: int, **facts: Any) -> None:
        """Pass on that ``done`` of ``total`` window steps are done, and the stage; ``total`` 0: a stage began."""
        now = time.monotonic()
        begins = not total and "fraction" not in facts
        if begins or (total and (now - self._last >= REPORT_EVERY_S or done == total)):
            self._last = self._last if begins else now
            stage = str(facts.get("stage", ""))
            _say(self._answers, {"item": self._index, "done": done, "total": total, "stage": stage})


if __name__ == "__main__":
    main()
