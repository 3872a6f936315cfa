"""Spoken sentences: samples that repeat, phonemes where they are heard, and mistakes that are told."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import types
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr

from avatarctl.audio import speak as speaking
from avatarctl.audio.speak import RATE_HZ, speak
from avatarctl.errors import UsageError

needs_library = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")


@needs_library
def test_the_same_words_always_sound_the_same() -> None:
    first, phonemes = speak("Good morning", "en-us+f2", 150, 40)
    speak("something else in between", "de+m1")
    again, others = speak("Good morning", "en-us+f2", 150, 40)
    assert np.array_equal(first, again) and phonemes == others
    assert 0.5 < len(first) / RATE_HZ < 3 and np.abs(first).max() <= 1


@needs_library
def test_phonemes_are_told_with_their_times() -> None:
    samples, phonemes = speak("mama", "en-us", 120)
    lips = [each for each in phonemes if each.name == "m"]
    assert len(lips) == 2
    assert all(a.stop_s == b.start_s for a, b in itertools.pairwise(phonemes))
    assert phonemes[-1].stop_s == pytest.approx(len(samples) / RATE_HZ, abs=1e-3)
    # An m is heard where it is said to be: no energy above 1 kHz, unlike in the vowel that follows.
    middle = [
        round((each.start_s + each.stop_s) / 2 * RATE_HZ) for each in (lips[1], phonemes[phonemes.index(lips[1]) + 1])
    ]
    spectra = [np.abs(np.fft.rfft(samples[m - 256 : m + 256] * np.hanning(512))) ** 2 for m in middle]
    bright = [spectrum[64:].sum() / spectrum.sum() for spectrum in spectra]  # from 2 kHz on
    level = [spectrum.sum() for spectrum in spectra]
    assert level[1] > 2 * level[0] and bright[0] < 0.1


@needs_library
def test_the_library_says_what_the_program_says(tmp_path: Path) -> None:
    file = tmp_path / "said.wav"
    subprocess.run(["espeak-ng", "-v", "en-us", "-s", "160", "-p", "50", "-w", file, "Hello there"], check=True)
    with wave.open(str(file)) as said:
        samples = np.frombuffer(said.readframes(said.getnframes()), "<i2").astype(np.float32) / 32768
        wanted = soxr.resample(samples, said.getframerate(), RATE_HZ)
    got, _ = speak("Hello there", "en-us", 160, 50)
    assert len(got) == len(wanted) and np.abs(got - wanted).max() < 1e-3


@needs_library
def test_a_voice_that_is_none_is_told() -> None:
    with pytest.raises(UsageError, match="voice klingon-of-the-moon"):
        speak("hello", "klingon-of-the-moon")


def test_without_a_library_the_ways_to_one_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(speaking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="espeak-ng: not found") as caught:
        speaking.library()
    assert "apt-get install espeak-ng" in caught.value.hint and "avatarctl[say]" in caught.value.hint


def test_the_bundled_library_serves_where_the_system_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "espeakng_loader"
    package.mkdir()
    for name in ("__init__.py", "libespeak-ng.so"):
        (package / name).touch()
    found = types.SimpleNamespace(origin=str(package / "__init__.py"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(speaking.importlib.util, "find_spec", lambda name: found)
    assert speaking.library() == (str(package / "libespeak-ng.so"), str(package / "espeak-ng-data"))


@needs_library
def test_the_library_never_lives_in_this_process() -> None:
    code = (
        "from avatarctl.audio.speak import speak; speak('hello'); print('libespeak' in open('/proc/self/maps').read())"
    )
    if not Path("/proc/self/maps").exists():
        pytest.skip("needs /proc")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@needs_library
def test_a_sound_that_breaks_off_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        return types.SimpleNamespace(stdout=b"", stderr=b"Segmentation fault")

    monkeypatch.setattr(speaking.subprocess, "run", broken)
    with pytest.raises(UsageError, match="Segmentation fault"):
        speak("hello")
