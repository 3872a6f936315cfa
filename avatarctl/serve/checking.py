"""Look at what strangers sent in a process of its own, with little memory, a time limit and low priority.

The process reads a line per question and answers with one. One that dies of a file, or hangs, costs that file its place and
is replaced; the server and the renders notice nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from avatarctl import console
from avatarctl.errors import AvatarError, InputFileError
from avatarctl.serve.answers import CODES
from avatarctl.settings.render import RenderJob

MEMORY_BYTES, CPU_S, PATIENCE_S = 3 << 30, 600, 60.0
PREVIEW_PX = 1024
LONG_S = 600.0
FAMILIES = {kind.__name__: kind for kind, _, _ in CODES}


class Checker:
    """Asks the process that looks; one question at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._answers: SimpleQueue[str | None] = SimpleQueue()

    def look(self, path: Path, expected: str | None, preview: Path | None = None) -> dict[str, Any]:
        """Return ``kind`` (image or audio) and ``facts`` of a file, by reading it; writes a preview of a picture.

        ``expected``: the kind that it has to be, if any.
        """
        asked = {"path": str(path), "expected": expected, "preview": str(preview) if preview else None}
        return self._ask({"verb": "look", **asked}, path.name)

    def check(self, job: RenderJob) -> dict[str, Any]:
        """Check a job as the start of its render does; return ``estimate`` and ``notes``, or raise what it would raise."""
        return self._ask({"verb": "check", "job": json.loads(job.model_dump_json())}, job.output.name)

    def _ask(self, question: dict[str, Any], what: str) -> dict[str, Any]:
        with self._lock:
            process = self._process
            if process is None or process.poll() is not None:
                process = self._process = self._start()
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps(question) + "\n")
                process.stdin.flush()
                line = self._answers.get(timeout=PATIENCE_S)
            except (BrokenPipeError, Empty):
                line = None
            if line is None:
                self._end()
                raise InputFileError(
                    f"{what}: got a file that takes too much memory or time to look at",
                    "save it again with another program, at a usual size",
                )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            told = answer["error"]
            raise FAMILIES.get(told["family"], AvatarError)(told["message"], told["hint"])
        return answer

    def _start(self) -> subprocess.Popen[str]:
        root = str(Path(__file__).parents[2])
        search = os.pathsep.join(part for part in (os.environ.get("PYTHONPATH"), root) if part)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "avatarctl.serve.checking"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": search},
            start_new_session=True,
        )
        answers: SimpleQueue[str | None] = SimpleQueue()
        self._answers = answers

        def pass_on() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                answers.put(line)
            answers.put(None)

        threading.Thread(target=pass_on, daemon=True).start()
        return process

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()


# -- In the process of its own --------------------------------------------------------------------------------------------


def main() -> None:
    """Answer questions until the pipe ends."""
    _humble()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    verbs: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"look": _look, "check": _check}
    for line in sys.stdin:
        question = json.loads(line)
        try:
            with console.warnings_as_notes():
                answer = verbs[question["verb"]](question)
        except AvatarError as error:
            family = next(
                name for name, kind in {**FAMILIES, "AvatarError": AvatarError}.items() if isinstance(error, kind)
            )
            answer = {"error": {"family": family, "message": error.message, "hint": error.hint}}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _humble() -> None:
    """Limit memory and time of this process and of what it starts, and let renders go first."""
    if os.name != "posix":
        return
    import resource

    os.nice(5)
    for limit, most in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_CPU, CPU_S)):
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _look(question: dict[str, Any]) -> dict[str, Any]:
    path, expected = Path(question["path"]), question["expected"]
    if expected == "audio":
        return _sound(path)
    try:
        return _picture(path, question["preview"])
    except InputFileError:
        with path.open("rb") as file:
            start = file.read(16)
        if expected == "image" or start.startswith((b"\x89PNG", b"\xff\xd8", b"GIF8")) or start[8:12] == b"WEBP":
            raise
    try:
        return _sound(path)
    except InputFileError as error:
        raise InputFileError(
            f"{path.name}: got a file that is neither a picture nor a recording",
            "send PNG, JPEG, WebP or HEIC, and WAV, MP3, M4A, FLAC, OGG, WebM or a video with sound",
        ) from error


def _sound(path: Path) -> dict[str, Any]:
    from avatarctl.audio.decode import probe

    found = probe(path)
    facts = {"duration_s": found.duration_s, "codec": found.codec, "rate_hz": found.rate_hz, "tracks": found.tracks}
    return {"kind": "audio", "facts": facts}


def _picture(path: Path, preview: str | None) -> dict[str, Any]:
    from avatarctl.networks.images import look_at

    seen = look_at(path)
    if preview is not None:
        small = seen.image.copy()
        small.thumbnail((PREVIEW_PX, PREVIEW_PX))
        try:
            small.save(preview, "JPEG", quality=88)
        except OSError:  # a full disk: the page does without
            Path(preview).unlink(missing_ok=True)
    width, height = seen.image.size
    notes = [note.replace(str(path), "the picture") for note in seen.notes]
    return {"kind": "image", "facts": {"width": width, "height": height, "notes": notes}}


def _check(question: dict[str, Any]) -> dict[str, Any]:
    from avatarctl.render.estimate import estimate
    from avatarctl.render.inputs import check
    from avatarctl.render.rehearse import samples_of
    from avatarctl.render.room import check_room, disks_of, needs_of

    job = RenderJob.model_validate_json(json.dumps(question["job"]))
    checked = check(job)
    # A short recording is decoded to its end; of a long one the render says what is wrong with it.
    short = (checked.audio.duration_s or LONG_S) < LONG_S
    planned = estimate(checked, samples_of(checked) if short else None)
    check_room(disks_of(needs_of(job, planned, checked.audio)))
    return {"estimate": planned.to_json(), "notes": list(checked.notes)}


if __name__ == "__main__":
    main()
