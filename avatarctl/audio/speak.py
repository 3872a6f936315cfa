"""Text to spoken sound with the time of every phoneme, by espeak-ng in a process of its own."""

from __future__ import annotations

import ctypes.util
import importlib.util
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from avatarctl.errors import UsageError

RATE_HZ = 16000
CHILD = Path(__file__).with_name("espeak_child.py")
# The program's names of voices that the library knows under another one.
ALIASES = {"fr-fr": "fr", "en-gb": "en"}
LONGEST_S = 60.0


@dataclass(frozen=True)
class Phoneme:
    """A sound of speech by espeak-ng's name, and from when to when it is heard, in seconds."""

    start_s: float
    stop_s: float
    name: str

    def moved(self, seconds: float) -> Phoneme:
        """Return the same phoneme so much later."""
        return Phoneme(self.start_s + seconds, self.stop_s + seconds, self.name)


def library() -> tuple[str, str | None]:
    """Return espeak-ng's library and the folder of its data (None: the library knows where).

    The one of an installed espeak-ng, else the one in the package ``espeakng-loader`` (the extra ``say``).
    Raises ``UsageError`` with the ways to install one.
    """
    if program := shutil.which("espeak-ng"):
        beside = sorted(Path(program).resolve().parents[1].glob("lib/libespeak-ng.*"))
        found = ctypes.util.find_library("espeak-ng") or (str(beside[0]) if beside else None)
        if found:
            return found, None
    package = importlib.util.find_spec("espeakng_loader")  # found, not imported: importing would load the library
    if package is not None and package.origin is not None:
        folder = Path(package.origin).parent
        names = [path for path in sorted(folder.iterdir()) if "espeak" in path.name and path.is_file()]
        libraries = [path for path in names if path.suffix in (".so", ".dylib", ".dll") or ".so." in path.name]
        if libraries:
            return str(libraries[0]), str(folder / "espeak-ng-data")
    raise UsageError(
        "espeak-ng: not found, it makes the voices",
        "apt-get install espeak-ng, or brew install espeak-ng, or pip install 'avatarctl[say]'",
    )


def speak(
    text: str, voice: str = "en-us", speed_wpm: int = 160, pitch: int = 50
) -> tuple[NDArray[np.float32], list[Phoneme]]:
    """Return spoken text (T,) at 16 kHz, full scale 1, and its phonemes. The same words always sound the same.

    Raises ``UsageError`` without espeak-ng, and for a voice that it does not have.
    """
    path, data = library()
    language, plus, variant = voice.partition("+")
    asked = {
        "library": path,
        "data": data,
        "text": text,
        "voice": ALIASES.get(language, language) + plus + variant,
        "speed_wpm": speed_wpm,
        "pitch": pitch,
    }
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(CHILD), json.dumps(asked)], capture_output=True, check=False, timeout=LONGEST_S
    )
    head, _, sound = done.stdout.partition(b"\n")
    facts: dict[str, Any] = json.loads(head) if head else {"error": done.stderr.decode(errors="replace").strip()[-300:]}
    if "error" in facts or not facts["count"]:
        problem = facts.get("error", "no sound came")
        raise UsageError(
            f"espeak-ng: can't say it with voice {voice} ({problem})", "`espeak-ng --voices` lists the voices there are"
        )
    samples = np.frombuffer(sound, "<i2").astype(np.float32) / 32768
    starts = [at for at, _ in facts["phonemes"]]
    stops = [*starts[1:], facts["count"] / facts["rate_hz"]]
    names = [name for _, name in facts["phonemes"]]
    phonemes = [Phoneme(a, b, name) for a, b, name in zip(starts, stops, names, strict=True)]
    return np.asarray(soxr.resample(samples, facts["rate_hz"], RATE_HZ), np.float32), phonemes
