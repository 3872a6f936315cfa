"""Test helper: run command lines from stdin, each in a forked copy of a process that has imported everything.

A render of a second would spend three more on imports; a fork has them done. A request is a JSON object: ``argv``,
``folder`` (where to run), ``environment`` (variables to add), ``log`` (both streams), ``fault`` (none, kill, full),
``at`` (which write meets it: 1 is the first) and ``over_gloo`` (training/gloo.py). With ``members``, several run at once,
each with what its member says.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any


def child(request: dict[str, Any]) -> int:
    """Run one command line with its fault; return the exit status."""
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    log = os.open(request["log"], os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = ["avatarctl", *request["argv"]]
    from avatarctl.cli import main

    if request.get("over_gloo"):
        from training.gloo import over_gloo

        over_gloo()

    writes_seen = plant(request)
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.pwrite(request["count"], b"%d" % writes_seen(), 0)
    return 0


def plant(request: dict[str, Any]) -> Callable[[], int]:
    """Let the n-th write inside the case's folder meet the fault.

    ``kill`` dies right before a file is opened for writing, renamed, removed, or a folder is made or removed: whatever a
    SIGKILL can leave on the disk, it leaves between two of these. ``full`` fails as a full disk does, when a file is
    made, grows (told at the latest by fsync), or gets another name. Lock files hold nothing, and filelock tries again when
    it can't open one: they don't count. Return a function that returns how many writes there were.
    """
    fault, inside = request["fault"], request["folder"] + os.sep
    if fault == "none":
        return lambda: 0
    seen = 0

    def met() -> None:
        nonlocal seen
        if by_filelock():
            return
        seen += 1
        if seen != request["at"]:
            return
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def audit(event: str, details: tuple[Any, ...]) -> None:
        if fault in WRITES.get(event, ()) and writes(event, details, inside):
            met()

    sys.addaudithook(audit)
    if fault == "full":
        os.fsync = before(os.fsync, met)
    return lambda: seen


WRITES = {
    "open": ("kill", "full"),
    "os.rename": ("kill", "full"),
    "os.mkdir": ("kill", "full"),
    "os.remove": ("kill",),
    "os.rmdir": ("kill",),
}


def by_filelock() -> bool:
    """Return whether it is filelock that opens or flushes a file now."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not frame.f_globals.get("__name__", "").startswith("filelock"):
        frame = frame.f_back
    return frame is not None


def writes(event: str, details: tuple[Any, ...], inside: str) -> bool:
    """Return whether an audited event changes something in the folder."""
    if not isinstance(details[0], str | os.PathLike):
        return False
    path = os.fspath(details[0])
    if not path.startswith(os.sep):
        return True  # trees are removed by names relative to an open folder
    if event == "open":
        changes = bool(details[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    else:
        changes = os.path.lexists(path) != (event == "os.mkdir")  # else it finds its work done already
    return changes and path.startswith(inside)


def before(function: Callable[..., Any], first: Callable[[], None]) -> Callable[..., Any]:
    """Return a function that calls another one first."""

    def both(*args: Any) -> Any:
        first()
        return function(*args)

    return both


def serve() -> None:
    """Answer requests until stdin ends."""
    import avatarctl.networks.kinds
    import avatarctl.render.engine
    import avatarctl.training.loop
    from avatarctl.audio.source import ffmpeg

    ffmpeg()
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    modules = (avatarctl.networks.kinds, avatarctl.render.engine, avatarctl.training.loop)
    loaded = [module.__name__ for module in modules]
    print(json.dumps({"loaded": loaded}), file=answer, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        request["count"] = count = os.memfd_create("writes")
        # One process, or those of a launcher, each with what is its own.
        members = request.pop("members", None) or [{}]
        pids = [forked({**request, **member}) for member in members]
        print(json.dumps({"pids": pids}), file=answer, flush=True)
        statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        writes_seen = int(os.pread(count, 20, 0) or 0)
        os.close(count)
        print(json.dumps({"statuses": statuses, "writes": writes_seen}), file=answer, flush=True)


def forked(request: dict[str, Any]) -> int:
    """Run a request in a copy of this process; return its number."""
    pid = os.fork()
    if not pid:
        status = 70
        try:
            status = child(request)
        finally:
            os._exit(status)
    return pid


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    serve()
