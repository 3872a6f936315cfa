"""Notes of a worker about one item, as files that outlive the worker and its driver: progress, outcome, and what to stop for."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avatarctl import durable
from avatarctl.render.ours import EVENTS

if TYPE_CHECKING:
    from avatarctl.batch.work import Outcome

PROGRESS, OUTCOME, RENDER_EVENTS = "progress.json", "outcome.json", "render-events.jsonl"
# Whoever lays one of these into the folder stops the item: it saves what it has.
STOPS = ("paused.json", "cancelled.json", "removing.json")
LOOK_EVERY_S = 0.25


class Notes:
    """The notes of one item, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stopped = False

    def told(self) -> bool:
        """Return whether somebody asks, or asked, for this item to be stopped."""
        return self._stopped or any((self.folder / name).exists() for name in STOPS)

    @contextmanager
    def stopping_when_told(self) -> Iterator[None]:
        """Let a render inside save what it has and stop, once somebody asks for it."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(LOOK_EVERY_S):
                # Only a render at work watches for the signal; before and after it would end the process.
                if self.told() and signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, signal.SIG_IGN, None):
                    self._stopped = True
                    os.kill(os.getpid(), signal.SIGTERM)
                    return

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()

    def progress(self, facts: dict[str, Any]) -> None:
        """Write how far the item is; a torn or missing file costs nothing."""
        content = json.dumps({**facts, "pid": os.getpid(), "at": round(time.time(), 3)})
        part = durable.part_of(self.folder / PROGRESS)
        with suppress(OSError):  # a full disk: the render itself says so
            part.write_text(content, encoding="utf-8")
            part.replace(self.folder / PROGRESS)

    def keep_events(self, render: Path) -> None:
        """Keep the events of a finished render, whose folder is about to be removed."""
        with suppress(OSError):
            durable.replace(self.folder / RENDER_EVENTS, (render / EVENTS).read_bytes(), make=False)

    def ended(self, outcome: Outcome) -> None:
        """Write how the item ended; where even that can't be written, the next driver looks at the render itself."""
        content = durable.sealed({**asdict(outcome), "notes": list(outcome.notes), "at": round(time.time(), 3)})
        with suppress(OSError):
            durable.replace(self.folder / OUTCOME, content, make=False)
