"""Decode the recording once: the waveform that lips follow, and the same samples as the track that the video plays."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from avatarctl import console
from avatarctl.audio.decode import long_enough, read_blocks
from avatarctl.audio.levels import decibel, gain_db, loudness_of, sound_in
from avatarctl.audio.track import Blocks, SoundTrack, Through, as_json, from_json, write_heard, write_samples
from avatarctl.errors import ChangedError
from avatarctl.render.ffmpeg import start
from avatarctl.render.folder import RenderFolder
from avatarctl.render.guard import guarded
from avatarctl.render.inputs import Checked, exact, plan_of
from avatarctl.render.ours import COMPUTED
from avatarctl.sampling.windows import SAMPLE_RATE_HZ, Plan
from avatarctl.settings.render import RenderSettings

WAVEFORM, TRACK, FACTS = "audio.f32", "track.f32", "track.json"
# Of as many channels where a file doesn't name its layout.
USUAL_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
MOST_NAMED = max(USUAL_LAYOUTS)
FULL_SCALE, LOSSY_FULL_SCALE = 1.0, 2.0  # decoders of lossy formats overshoot; more is a mistake of the file
TRIAL_S = 0.2
SAME_SOUND = 0.01  # of full scale: what two ways of resampling differ by


@dataclass(frozen=True)
class Sound:
    """The samples ``first`` to ``first + count`` of a track for the video, filled up with silence to ``length`` samples.

    ``layout`` is what its channels are called for the encoder; ``mix``: the ffmpeg filter that makes stereo of a layout
    that the encoder lacks.
    """

    path: Path
    rate_hz: int
    channels: int
    layout: str
    first: int
    count: int
    length: int
    gain_db: float = 0.0
    mix: str = ""

    @property
    def channels_out(self) -> int:
        """The number of channels in the video."""
        return 2 if self.mix else self.channels

    def source(self) -> list[str]:
        """Return the arguments that make the track an input of ffmpeg."""
        return [*_raw(self.rate_hz, self.layout, self.channels), "-i", f"file:{self.path.absolute()}"]

    def filter(self) -> str:
        """Return the ffmpeg filter that cuts it to the sample and pads it to the picture."""
        end = self.first + min(self.count, self.length)
        cut = f"atrim=start_sample={self.first}:end_sample={end},asetpts=PTS-STARTPTS"
        gain = f"volume={self.gain_db}dB" if self.gain_db else ""
        return ",".join(filter(None, [cut, self.mix, gain, f"apad=whole_len={self.length}"]))


def decode_audio(
    checked: Checked, folder: RenderFolder, after_each: Callable[[], None] = lambda: None
) -> tuple[Sound | None, Plan]:
    """Decode the stretch of the recording that is used, once; return the sound for the video, and the plan.

    The track and what lips hear of it lie in the folder, with their checksums. ``after_each`` is called after each piece of
    work that takes long.
    """
    settings = checked.job.render
    names = (WAVEFORM, FACTS, TRACK) if settings.with_audio else (WAVEFORM, FACTS)
    if not all(folder.valid(name) for name in names):
        _write(checked, folder, after_each)
    plan = plan_of(settings, (folder.path / WAVEFORM).stat().st_size // 4)
    if not settings.with_audio:
        return None, plan
    return _sound(folder.path, json.loads(folder.read(FACTS) or b"{}"), plan), plan


def sound_of(path: Path, settings: RenderSettings) -> tuple[Sound | None, Plan] | None:
    """Return the sound and the plan of the render in a folder that another process holds; None before it is decoded."""
    try:
        plan = plan_of(settings, (path / WAVEFORM).stat().st_size // 4)
        if not settings.with_audio:
            return None, plan
        return _sound(path, json.loads((path / FACTS).read_text(encoding="utf-8")), plan), plan
    except FileNotFoundError:
        return None


def _sound(path: Path, facts: dict[str, Any], plan: Plan) -> Sound:
    track = from_json(path / TRACK, facts["track"])
    length = round(plan.video_frames / plan.fps * track.rate_hz)
    return Sound(
        track.path,
        track.rate_hz,
        track.channels,
        facts["layout"],
        facts["first"],
        facts["count"],
        length,
        facts["gain_db"],
        facts["mix"],
    )


def start_of(checked: Checked, folder: RenderFolder) -> Fraction:
    """Return where in the recording the video begins, in seconds: where it was asked for, and after trimmed silence."""
    facts = json.loads(folder.read(FACTS) or b"{}")
    return exact(checked.job.render.start_s) + Fraction(facts["first"], facts["track"]["rate_hz"])


def _write(checked: Checked, folder: RenderFolder, after_each: Callable[[], None]) -> None:
    """Write track, waveform and what was measured into the folder."""
    job, settings = checked.job, checked.job.render
    start_s, duration_s = exact(settings.start_s), None if settings.duration_s is None else exact(settings.duration_s)
    rate_hz, channels, blocks = read_blocks(job.audio, start_s, duration_s, settings.audio_track)
    track_part, heard_part = folder.new_part(TRACK), folder.new_part(WAVEFORM)
    with guarded(folder.path):
        track = write_samples(
            job.audio, track_part, rate_hz, channels, checked.audio.layout, _watched(blocks, after_each)
        )
        first, count = _span(checked, track)
        too_loud = _too_loud(checked, track)
        gain = 1 / track.peak if too_loud else 1.0
        through = _separation(checked, after_each)
        long_enough(job.audio, write_heard(track, heard_part, first, count, gain, through))
    facts: dict[str, Any] = {"track": as_json(track), "first": first, "count": count}
    if settings.with_audio:
        facts["layout"], facts["mix"] = _layout(checked, track)
        facts["gain_db"] = _gain_db(checked, track, first, count, too_loud)
    if any(folder.listed(name) for name in COMPUTED):
        _refuse_other_sound(folder, heard_part)
    _tell(checked, track, facts, too_loud)
    folder.adopt(heard_part, WAVEFORM)
    if settings.with_audio:
        folder.adopt(track_part, TRACK)
    else:
        track_part.unlink()
    folder.write(FACTS, json.dumps(facts).encode())


def _refuse_other_sound(folder: RenderFolder, part: Path) -> None:
    """Raise ``ChangedError`` when windows were computed from other sound than the recording is heard as now.

    Renders of the first version hold no track, so that their recording is decoded again, on a clock that it had not.
    """
    if not folder.valid(WAVEFORM):
        return
    before, now = (np.memmap(path, "<f4", "r") for path in (folder.path / WAVEFORM, part))
    pieces = range(0, len(now), SAMPLE_RATE_HZ)
    if len(before) == len(now) and all(
        float(np.abs(before[at : at + SAMPLE_RATE_HZ] - now[at : at + SAMPLE_RATE_HZ]).max()) < SAME_SOUND
        for at in pieces
    ):
        return
    begun_with = folder.manifest()["avatarctl"]
    part.unlink()
    raise ChangedError(
        f"{folder.path}: avatarctl {begun_with} heard this recording otherwise (holes, late sound or several tracks in it): "
        f"{len(before) / SAMPLE_RATE_HZ:.2f} s then, {len(now) / SAMPLE_RATE_HZ:.2f} s now; the pictures done are of the "
        "sound of then",
        "start over: the same `avatarctl generate` with --force; or finish it with the version that began it",
    )


def _watched(blocks: Blocks, after_each: Callable[[], None]) -> Blocks:
    with closing(blocks):
        for block_TC in blocks:
            yield block_TC
            after_each()


def _span(checked: Checked, track: SoundTrack) -> tuple[int, int]:
    """Return the first sample that is used, and how many are."""
    if not checked.job.render.trim_silence:
        return 0, track.samples
    begin_s, length_s = sound_in(checked.job.audio, track.rate_hz, track.blocks())
    first = round(Fraction(str(round(begin_s, 3))) * track.rate_hz)
    return first, min(round(Fraction(str(round(length_s, 3))) * track.rate_hz), track.samples - first)


def _separation(checked: Checked, after_each: Callable[[], None]) -> Through | None:
    if checked.separator is None:
        return None
    from avatarctl.audio.vocals import Separator, voice_alone

    console.note("taking the voice out of the music (once)")
    separator = Separator(checked.separator)
    return lambda rate_hz, blocks: voice_alone(separator, rate_hz, blocks, after_each)


# -- Levels ----------------------------------------------------------------------------------------------------------


def _too_loud(checked: Checked, track: SoundTrack) -> bool:
    """Return whether a track goes beyond full scale by more than its format does by itself."""
    return track.peak > (FULL_SCALE if checked.audio.codec.startswith("pcm_") else LOSSY_FULL_SCALE)


def _gain_db(checked: Checked, track: SoundTrack, first: int, count: int, too_loud: bool) -> float:
    wanted = checked.job.render.loudness_dbfs
    if wanted is None:
        return -decibel(track.peak) if too_loud else 0.0
    measured = loudness_of(track.blocks(first, count))
    gain = gain_db(measured, wanted)
    if measured.dbfs + gain < wanted - 0.5:
        warnings.warn(f"loudness: {measured.dbfs + gain:.1f} dBFS is as loud as it gets without clipping", stacklevel=2)
    return gain


def _tell(checked: Checked, track: SoundTrack, facts: dict[str, Any], too_loud: bool) -> None:
    """Say what was done to a recording that nobody asked for."""
    audio, settings = checked.job.audio, checked.job.render
    if checked.audio.tracks > 1 and settings.audio_track is None:
        warnings.warn(
            f"{audio}: got {checked.audio.tracks} sound tracks: number {checked.audio.track} is used, "
            "another one with --audio-track",
            stacklevel=2,
        )
    if track.listens_to is not None:
        warnings.warn(
            f"{audio}: the channels cancel each other out (opposite phase): lips follow channel {track.listens_to + 1}, "
            "the loudest; the video keeps all",
            stacklevel=2,
        )
    if too_loud and settings.loudness_dbfs is None:
        warnings.warn(
            f"{audio}: got samples up to {track.peak:.4g} times full scale: the sound is lowered by "
            f"{decibel(track.peak):.1f} dB",
            stacklevel=2,
        )
    if facts.get("mix"):
        warnings.warn(
            f"{audio}: {track.layout} has no place in {checked.job.video.sound}: mixed to stereo in the video",
            stacklevel=2,
        )


# -- Channels --------------------------------------------------------------------------------------------------------


def _layout(checked: Checked, track: SoundTrack) -> tuple[str, str]:
    """Return what the channels are called for the encoder, and the filter that mixes them to stereo ("" if none need be)."""
    encoder, named = checked.job.video.sound, track.layout
    if re.match(r"\d+ channels", named):
        named = USUAL_LAYOUTS.get(track.channels, "")
    for layout in (named, named.replace("(side)", "")):
        if layout and encodes(encoder, track.rate_hz, layout, track.channels):
            return layout, ""
    # More channels are seldom meant as their names say, and ffmpeg's own mix leaves some of them out.
    if named and track.channels <= MOST_NAMED and not named.startswith("ambisonic"):
        downmix = "aformat=channel_layouts=stereo"
        if encodes(encoder, track.rate_hz, named, track.channels, downmix):
            return named, downmix
    return f"{track.channels}C", _pan(track)


def _pan(track: SoundTrack) -> str:
    """Return the filter that puts the mean of all channels, as loud as the loudest of them, on both sides."""
    if track.layout.startswith("ambisonic") or track.listens_to is not None:
        only = track.listens_to or 0  # the first of ambisonic ones hears all directions
        return f"pan=stereo|c0=c{only}|c1=c{only}"
    weight = min(track.peak / track.mean_peak, track.channels) / track.channels if track.mean_peak else 0.0
    mean = "+".join(f"{weight:.6f}*c{channel}" for channel in range(track.channels))
    return f"pan=stereo|c0={mean}|c1={mean}"


def encodes(encoder: str, rate_hz: int, layout: str, channels: int, through: str = "anull") -> bool:
    """Return whether ffmpeg can encode a little silence in these channels."""
    output = ["-af", through, "-c:a", encoder, "-f", "null", "-"]
    process = start([*_raw(rate_hz, layout, channels), "-i", "pipe:0", *output])
    process.communicate(bytes(4 * channels * round(TRIAL_S * rate_hz)))
    return process.returncode == 0


def _raw(rate_hz: int, layout: str, channels: int) -> list[str]:
    return ["-f", "f32le", "-ar", str(rate_hz), "-ch_layout", layout or f"{channels}C"]
