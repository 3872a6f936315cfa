"""Join segments to one video without encoding them again, with the sound of the recording beside them."""

from __future__ import annotations

from pathlib import Path

from avatarctl.render.ffmpeg import BITEXACT, check, start
from avatarctl.render.sound import Sound
from avatarctl.settings.formats import VideoFormat

AUDIO_KBIT_S_PER_CHANNEL = 96  # and 192 for one channel
# What a player needs to begin and to seek stands at the front.
FASTSTART, CUES = ("-movflags", "+faststart"), ("-cues_to_front", "1")
PLAYS_WHILE_LOADING = {"mp4": FASTSTART, "mov": FASTSTART, "matroska": CUES, "webm": CUES}


def join(segments: list[Path], target: Path, sound: Sound | None, video: VideoFormat) -> None:
    """Join segments without encoding again, with the recording's sound beside them, into a video at ``target``.

    The segments' names must be plain (they are the render folder's own). Sound and picture end together: sound is cut
    or padded with silence to the picture's length, to the sample.
    """
    # Plain names, seen from their folder: no listing can hold every name that a folder may have.
    listing = "ffconcat version 1.0\n" + "".join(f"file 'file:{path.name}'\n" for path in segments)
    source = ["-f", "concat", "-safe", "0", "-protocol_whitelist", "file,pipe,fd", "-i", "pipe:0"]
    command = [*source]
    if sound is not None:
        command += [*sound.source(), "-map", "0:v:0", "-map", "1:a:0"]
        bit_rate = f"{AUDIO_KBIT_S_PER_CHANNEL * max(sound.channels_out, 2)}k"
        rate = () if video.sound.startswith("pcm") else ("-b:a", bit_rate)
        command += ["-af", sound.filter(), "-c:a", video.sound, *rate]
    else:
        command += ["-map", "0:v:0"]
    command += ["-c:v", "copy", *PLAYS_WHILE_LOADING.get(video.container.muxer, ()), *BITEXACT]
    command += ["-f", video.container.muxer, "-y", f"file:{target.absolute()}"]
    process = start(command, folder=segments[0].parent)
    _, log = process.communicate(listing.encode())
    check(process.returncode, log)
