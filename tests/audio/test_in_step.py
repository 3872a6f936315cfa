"""Property test: whatever a recording is like, a player plays in the video what the lips heard, at the same time."""

from __future__ import annotations

import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from recordings import (
    JOINABLE,
    MOST_CHANNELS,
    RATE_HZ,
    RATES,
    SOUND_ALONE,
    STAMPED,
    TOLD_DELAY,
    WITH_PICTURES,
    Recording,
    make,
    played,
    voice,
    worst_lag_s,
)

from avatarctl.audio.decode import probe, waveform_16k
from avatarctl.errors import InputFileError
from avatarctl.render.folder import RenderFolder
from avatarctl.render.inputs import Checked
from avatarctl.render.join import join
from avatarctl.render.segment import SegmentWriter
from avatarctl.render.sound import WAVEFORM, decode_audio
from avatarctl.settings.render import RenderJob, RenderSettings

ALL = sorted({(ending, codec) for ending, codecs in SOUND_ALONE.items() for codec in codecs}) + sorted(
    {(ending, codec) for ending, (_, codecs) in WITH_PICTURES.items() for codec in codecs}
)


@st.composite
def recordings(draw: Any) -> Recording:
    """Draw a recording that ffmpeg can make."""
    ending, codec = draw(st.sampled_from(ALL))
    rates = RATES.get(codec, (16000, 22050, 24000, 44100, 48000))
    rate_hz = 44100 if ending == "flv" else draw(st.sampled_from(rates))
    channels = draw(st.sampled_from([c for c in (1, 2, 6) if c <= MOST_CHANNELS.get(codec, 6)]))
    channels = min(channels, 2) if ending in ("flv", "3gp", "au") or codec == "libopus" else channels
    pictures = ending in WITH_PICTURES and (ending == "webm" or draw(st.booleans()) or ending in ("avi", "flv"))
    joined = ending in JOINABLE and codec != "flac" * (ending == "ogg") and draw(st.booleans())
    hole = None
    if ending in STAMPED and draw(st.booleans()):
        first = draw(st.integers(5, 40))
        hole = (first, first + draw(st.integers(0, 25)))
    return Recording(
        ending,
        codec,
        rate_hz,
        channels,
        pictures,
        draw(st.sampled_from([0.0, 0.0, 0.08, 0.31, 0.77])) if pictures else 0.0,
        hole,
        joined,
        joined and codec in ("libmp3lame", "flac", "libvorbis", "pcm_s16le") and draw(st.booleans()),
        draw(st.sampled_from([1.3, 2.0, 2.9])),
        draw(st.integers(0, 2**20)),
    )


@st.composite
def cases(draw: Any) -> tuple[Recording, RenderSettings, str]:
    """Draw a recording, settings, and the suffix of the video."""
    recording = draw(recordings())
    start_s = draw(st.sampled_from([0.0, 0.0, 0.1234, 0.5]))
    duration_s = draw(st.sampled_from([None, None, 0.7, 0.333]))
    level = {"loudness_dbfs": draw(st.sampled_from([None, None, -20.0]))}
    trim = draw(st.booleans())
    fps = draw(st.sampled_from([Fraction(25), Fraction(30000, 1001), Fraction(24)]))
    suffix = draw(st.sampled_from([".mp4", ".mp4", ".mov", ".mkv", ".webm"]))
    chosen = {"start_s": start_s, "duration_s": duration_s, "trim_silence": trim, "fps": fps, **level}
    return recording, RenderSettings(**chosen), suffix


def check(folder: Path, recording: Recording, render: RenderSettings, suffix: str) -> None:
    """Make a recording, hear it, put a video of as many grey pictures beside its sound, and compare."""
    source = make(folder, recording)
    job = RenderJob(image=source, audio=source, output=folder / f"video{suffix}", render=render)
    checked = Checked(job, probe(source), weights=None)  # type: ignore[arg-type]
    place = RenderFolder(job.folder)
    with place.held():
        try:
            sound, plan = decode_audio(checked, place)
        except InputFileError as refused:
            # Right where the stretch that was drawn lies within a hole, or before late sound.
            assert "silence" in refused.message
            assert np.abs(waveform_16k(source, render.start_s, render.duration_s)).max() < 0.02
            return
        assert sound is not None
        heard = np.fromfile(job.folder / WAVEFORM, "<f4")
        segment = job.folder / f"segment{job.video.segment_suffix}"
        with SegmentWriter(segment, 32, 32, plan.fps, job.video) as writer:
            writer.write(np.full((plan.video_frames, 32, 32, 3), 128, np.uint8))
        join([segment], job.output, sound, job.video)
    there = played(job.output)

    picture_s = float(1 / plan.fps)
    length_s = float(plan.video_frames / plan.fps)
    assert length_s - picture_s <= len(heard) / RATE_HZ <= length_s + 1e-9
    assert abs(len(there) / RATE_HZ - length_s) <= picture_s
    scale = np.sqrt(np.mean(heard**2) / max(np.mean(there[: len(heard)] ** 2), 1e-12))
    lag_s = worst_lag_s(heard, there * np.float32(scale))
    note(f"lag {lag_s * 1000:.2f} ms over {len(heard) / RATE_HZ:.3f} s")
    assert abs(lag_s) < 0.02

    # And what lips hear is what was said at that time, where the format tells it.
    lost = (
        recording.hole is not None and recording.ending == "mov" and recording.codec.startswith("pcm")
    )  # by ffmpeg's muxer
    if recording.ending in TOLD_DELAY and not render.trim_silence and not lost:
        said = np.concatenate([np.zeros(round(recording.offset_s * RATE_HZ), np.float32), _said(recording)])
        off_s = worst_lag_s(heard, said[round(render.start_s * RATE_HZ) :])
        assert abs(off_s) < 0.027, "beyond what counts as a hole"


def _said(recording: Recording) -> np.ndarray:
    return voice(recording.seconds, recording.seed)


def _settings(examples: int) -> settings:
    quiet = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    # Found examples are told as they are: each takes a second, and to shrink one takes minutes.
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=quiet,
        phases=[Phase.explicit, Phase.generate],
    )


@_settings(30)
@given(cases())
def test_lips_and_sound_are_in_step(case: tuple[Recording, RenderSettings, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(Path(folder), *case)


@pytest.mark.long
@_settings(320)
@given(cases())
def test_lips_and_sound_are_in_step_for_many_recordings(case: tuple[Recording, RenderSettings, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(Path(folder), *case)
