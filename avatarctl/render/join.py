"""Join segments to one video without encoding them again, with the sound of the recording beside them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from avatarctl.render.ffmpeg import BITEXACT, check, start
from avatarctl.render.quicktime import write_languages
from avatarctl.render.sound import Sound
from avatarctl.render.subtitles import SoftTrack
from avatarctl.settings.formats import VideoFormat
from avatarctl.settings.languages import language_in

FORMATS = {"srt": "srt", "vtt": "webvtt"}
AUDIO_KBIT_S_PER_CHANNEL = 96  # and 192 for one channel
# What a player needs to begin and to seek stands at the front.
FASTSTART, CUES = ("-movflags", "+faststart"), ("-cues_to_front", "1")
PLAYS_WHILE_LOADING = {"mp4": FASTSTART, "mov": FASTSTART, "matroska": CUES, "webm": CUES}


def join(
    segments: list[Path],
    target: Path,
    sound: Sound | None,
    video: VideoFormat,
    tags: Mapping[str, str] = MappingProxyType({}),
    subtitles: Sequence[SoftTrack] = (),
    started: Callable[[subprocess.Popen[bytes]], None] = lambda _: None,
) -> None:
    """Join segments without encoding again, with the recording's sound beside them, into a video at ``target``.

    The segments' names must be plain (they are the render folder's own). Sound and picture end together: sound is cut
    or padded with silence to the picture's length, to the sample. ``tags`` are written as they are; of ``subtitles`` none is
    shown until somebody asks for it. ``started`` hears of the process that joins.
    """
    # Plain names, seen from their folder: no listing can hold every name that a folder may have.
    listing = "ffconcat version 1.0\n" + "".join(f"file 'file:{path.name}'\n" for path in segments)
    source = ["-f", "concat", "-safe", "0", "-protocol_whitelist", "file,pipe,fd", "-i", "pipe:0"]
    inputs, result = [*source], ["-map", "0:v:0"]
    if sound is not None:
        inputs += sound.source()
        result += ["-map", "1:a:0", *encoding(sound, video)]
    for number, track in enumerate(subtitles):
        inputs += ["-protocol_whitelist", "file", "-f", FORMATS[track.kind], "-i", f"file:{track.path.absolute()}"]
        result += ["-map", f"{number + (1 if sound is None else 2)}:s:0"]
        result += [f"-metadata:s:s:{number}", f"language={language_in(video.container.muxer, track.language)}"]
    result += ["-c:s", video.container.text, "-disposition:s", "0"] if subtitles else []
    result += [word for name, text in tags.items() for word in ("-metadata", f"{name}={text}")]
    result += ["-c:v", "copy", *PLAYS_WHILE_LOADING.get(video.container.muxer, ()), *BITEXACT]
    result += ["-f", video.container.muxer, "-y", f"file:{target.absolute()}"]
    process = start([*inputs, *result], folder=segments[0].parent)
    started(process)
    _, log = process.communicate(listing.encode())
    check(process.returncode, log)
    if video.suffix == ".mov" and subtitles:
        write_languages(target, 1 if sound is None else 2, [track.language for track in subtitles])


def encoding(sound: Sound, video: VideoFormat) -> list[str]:
    """Return ffmpeg's options that cut and encode the sound of a video."""
    bit_rate = f"{AUDIO_KBIT_S_PER_CHANNEL * max(sound.channels_out, 2)}k"
    rate = () if video.sound.startswith("pcm") else ("-b:a", bit_rate)
    return ["-af", sound.filter(), "-c:a", video.sound, *rate]


def write_sound(sound: Sound, target: Path, video: VideoFormat) -> None:
    """Write the sound of a video alone, encoded as in the video, as MP4."""
    process = start(
        [*sound.source(), *encoding(sound, video), *BITEXACT, "-f", "mp4", "-y", f"file:{target.absolute()}"]
    )
    _, log = process.communicate()
    check(process.returncode, log)
