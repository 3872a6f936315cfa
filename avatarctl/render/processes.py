"""The processes that a launcher started for one render: how they wait for each other, begin together, and hear how one ends.

They meet at a store of small words (the launcher's own, or one of process 0), not in collectives: whoever waits looks again
and again, without a time limit, so that process 0 may prepare a render for hours, and everybody hears at once when another
has ended and why. Only when all are ready do they form the group that windows are passed on over.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import TCPStore  # type: ignore[attr-defined]

from avatarctl import console, launcher
from avatarctl.errors import AvatarError, DeviceError, Ended, ProcessLost
from avatarctl.sampling.team import Team

LOOK_EVERY_S, BEAT_EVERY_S = 0.1, 1.0
MEET_WITHIN_S = 600.0  # the others may be started later, on other machines
TRIES = 2  # of torch's store to reach another one, each with the whole time limit
WAITING_TOLD_AFTER_S = 10.0
SILENT_S = 60.0  # without a sign of life from a process that has begun
NO_LIMIT = timedelta(days=3650)
LEADER_TELLS_WITHIN_S = 10.0  # what became of the render, when another process is lost
LEADER_SAVES_WITHIN_S = 25.0  # torchrun waits for 30
FAREWELL_S = 5.0  # that process 0 waits until the others have read its last word, where the store is its own


@cache
def _store() -> tuple[Any, list[int]]:
    """Return the store at which the processes meet, and how many renders of this process have met there."""
    host, port = launcher.meeting_place()
    own = not _launcher_has_a_store()
    limit = timedelta(seconds=MEET_WITHIN_S / TRIES)
    waits = f"process {launcher.rank()} of {launcher.size()} waits for process 0 at {host}:{port}"
    told = threading.Timer(WAITING_TOLD_AFTER_S, console.note, (f"{waits}, {MEET_WITHIN_S / 60:.0f} minutes at most",))
    told.daemon = True
    told.start()
    try:
        # Without waiting for the others: whoever dies before it comes is missed later, not waited for here.
        store = TCPStore(
            host, port, launcher.size(), own and launcher.rank() == 0, limit, wait_for_workers=False, multi_tenant=own
        )
    except RuntimeError as error:
        raise DeviceError(
            f"process {launcher.rank()} of {launcher.size()}: the others can't be reached at {host}:{port} "
            f"({str(error).splitlines()[0]})",
            "start all processes with one torchrun or accelerate launch, or check MASTER_ADDR and MASTER_PORT",
        ) from error
    finally:
        told.cancel()
    return PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store), [0]


def _launcher_has_a_store() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


class Processes:
    """This process and the others that share a render. Inside ``with``: on the way out the others hear how it ended."""

    def __init__(self, folder: Path) -> None:
        self.rank, self.size = launcher.rank(), launcher.size()
        self._folder = folder
        self._group = False
        self._before: Any = None  # what Ctrl-C did
        if self.rank and threading.current_thread() is threading.main_thread():
            # Nothing of this process's can be lost before it samples, also while it waits in code that isn't Python's.
            self._before = signal.signal(signal.SIGINT, signal.SIG_DFL)
        store, renders = _store()
        renders[0] += 1
        self._store = PrefixStore(f"avatarctl/{renders[0]}", store)
        self._beats: dict[int, tuple[int, float]] = {}
        self._places: dict[int, tuple[Any, int]] = {}
        self._last: dict[str, Any] | None = None  # the word of the first that ended, kept after the store
        self._over = threading.Event()

    def __enter__(self) -> Processes:
        self._store.set(f"place/{self.rank}", json.dumps([_pid_space(), os.getpid()]))
        threading.Thread(target=self._beat, name="alive", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        if (kind is not None or self.rank == 0) and not isinstance(error, Ended):
            self.end(0 if kind is None else _exit_code(error))
        if self._group:
            dist.destroy_process_group()  # after the word, so that whoever is cut off finds it
        with suppress(RuntimeError):  # the store may be gone with its process
            self._farewell()
        self._over.set()

    # -- Before sampling -----------------------------------------------------------------------------------------------

    def tell(self, word: str, **facts: Any) -> None:
        """Let the others continue from where they :meth:`hear` this word."""
        self._store.set(word, json.dumps(facts))

    def hear(self, word: str) -> dict[str, Any]:
        """Wait for a word of process 0, however long that takes; return its facts. Raises what :meth:`check` does."""
        self._wait([word], self.check)
        return dict(json.loads(self._store.get(word)))

    def join(self, check: Callable[[], None]) -> Team:
        """Wait until all are ready to sample, then form the group that windows are passed on over.

        ``check`` is called while waiting; raises what :meth:`check` does.
        """
        self._store.set(f"ready/{self.rank}", "")

        def look() -> None:
            check()
            self.check()

        self._wait([f"ready/{rank}" for rank in range(self.size)], look)
        # No time limit: process 0 may be busy with the video between two rounds. A lost process closes its connections.
        if dist.is_initialized():
            group = dist.new_group(backend="gloo", timeout=NO_LIMIT)
            return Team(dist.get_rank(group), dist.get_world_size(group), group)
        store = PrefixStore("group", self._store)
        dist.init_process_group("gloo", store=store, rank=self.rank, world_size=self.size, timeout=NO_LIMIT)
        self._group = True
        return Team(self.rank, self.size)

    def _wait(self, words: list[str], look: Callable[[], None]) -> None:
        began = time.monotonic()
        try:
            while not self._store.check(words):
                look()
                self._watch(began)
                time.sleep(LOOK_EVERY_S)
        except RuntimeError as error:
            raise self._error() from error

    def _beat(self) -> None:
        """Give a sign of life now and then, as long as there is a store; stop with a launcher that was killed.

        It reads the last word, too: a process that waits for windows of process 0 hears of its end when the store is gone.
        """
        try:
            self._store.add(f"alive/{self.rank}", 1)
            while not self._over.wait(BEAT_EVERY_S):
                self._store.add(f"alive/{self.rank}", 1)
                if self._told() is not None:
                    self._store.set(f"left/{self.rank}", "")
        except RuntimeError:
            if _launcher_has_a_store() and not self._over.is_set():
                os.kill(os.getpid(), signal.SIGTERM)

    def _watch(self, since: float) -> None:
        """Raise ``ProcessLost`` for a process that gives no sign of life any more, where no launcher ends the others."""
        now = time.monotonic()
        for rank in set(range(self.size)) - {self.rank}:
            beat = int(self._store.add(f"alive/{rank}", 0))
            before, at = self._beats.get(rank, (0, since))
            silent = now - at > (SILENT_S if beat else MEET_WITHIN_S)
            if beat != before:
                self._beats[rank] = (beat, now)
            elif silent or self._is_gone(rank):
                self.check()  # it may have told why just before it ended
                self.end(ProcessLost.exit_code)
                raise self._error(f"process {rank} of {self.size} gives no sign of life")

    def _is_gone(self, rank: int) -> bool:
        """Return whether a process that can be looked for from here, on this machine, runs no more."""
        if rank not in self._places:
            if not self._store.check([f"place/{rank}"]):
                return False
            self._places[rank] = tuple(json.loads(self._store.get(f"place/{rank}")))
        space, pid = self._places[rank]
        return space is not None and space == _pid_space() and _has_ended(pid)

    # -- Ends ----------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise ``Ended`` or ``ProcessLost`` when another process has ended."""
        if (told := self._told()) is not None and told["rank"] != self.rank:
            raise self._heard(told)

    def check_late(self) -> None:
        """Do as :meth:`check` once process 0 has had the time to tell of an end: it clears away before it does."""
        self._await_end(LEADER_TELLS_WITHIN_S)
        self.check()

    def end(self, code: int = 0) -> None:
        """Tell the others that this process ends, and with which exit code; the first one that does is heard.

        Process 0 dismisses the others by it where nothing is left to sample.
        """
        with suppress(RuntimeError):
            self._store.compare_set("ended", "", json.dumps({"rank": self.rank, "code": code}))

    def lost(self) -> AvatarError:
        """Return the error for when the others can't be reached any more, and let them hear of it.

        Process 0 tells the user, and the others end silently; where it is process 0 that is lost, one of them tells.
        """
        if self.rank == 0:
            if (told := self._told()) is None:
                self.end(ProcessLost.exit_code)
            return self._error() if told is None else self._heard(told)
        told = self._await_end(LEADER_TELLS_WITHIN_S)
        return self._error() if told is None else self._heard(told)

    def stopped(self, signal_number: int) -> Ended:
        """Return the error of a process that ends since all were asked to stop; process 0 is given time to save before.

        A launcher ends all processes once one has ended.
        """
        self._await_end(LEADER_SAVES_WITHIN_S)
        return Ended(128 + signal_number)

    def _await_end(self, within_s: float) -> dict[str, Any] | None:
        """Wait until a process has told that it ends; return what it told, or None."""
        until = time.monotonic() + within_s
        with suppress(RuntimeError):  # the store is gone, and process 0 with it
            while time.monotonic() < until and not self._store.check(["ended"]):
                time.sleep(LOOK_EVERY_S)
        return self._told()

    def _told(self) -> dict[str, Any] | None:
        """Return who ended first and with which exit code, or None while nobody has (or the store is gone unheard)."""
        with suppress(RuntimeError):
            if self._last is None and self._store.check(["ended"]):
                self._last = json.loads(self._store.get("ended"))
        return self._last

    def _heard(self, told: dict[str, Any]) -> AvatarError:
        if self.rank:
            return Ended(told["code"])  # whoever told it tells the user, too
        error = self._error(f"process {told['rank']} of {self.size} ended with exit code {told['code']}, and says why")
        error.exit_code = told["code"]
        return error

    def _error(self, what: str = "") -> ProcessLost:
        return ProcessLost(
            f"{what or f'one of the {self.size} processes of this render was killed or its machine is gone'}; "
            "the others stop here",
            f"resume with: avatarctl resume {shlex.quote(str(self._folder))} (with one process, or a launcher and any number)",
        )

    def _farewell(self) -> None:
        """Keep a store of one's own until the others have read the last word, or are gone."""
        if self.rank:
            self._store.set(f"left/{self.rank}", "")
        elif not _launcher_has_a_store():
            until = time.monotonic() + FAREWELL_S
            others = range(1, self.size)
            while time.monotonic() < until and not all(
                self._store.check([f"left/{rank}"]) or self._is_gone(rank) for rank in others
            ):
                time.sleep(LOOK_EVERY_S)


@cache
def _pid_space() -> list[str] | None:
    """Return what two processes share that know each other by number: machine, start of it, and container; None: unknown."""
    try:
        return [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), str(Path("/proc/self/ns/pid").readlink())]
    except OSError:
        return None


def _has_ended(pid: int) -> bool:
    """Return whether a process of this machine is gone, or dead and nobody asked how it ended yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state in "ZX"


def _exit_code(error: BaseException | None) -> int:
    if isinstance(error, AvatarError):
        return error.exit_code
    return 130 if isinstance(error, KeyboardInterrupt) else 1
