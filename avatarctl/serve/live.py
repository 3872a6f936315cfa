"""Show what is finished of a video while the rest is rendered: an HLS playlist of fragments with sound, nothing encoded twice.

The pictures are those of the render's segments, or of the finished video, cut at the same places: a player that began with
the one continues with the other. The sound is encoded once, as it will be in the video.
"""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path

from avatarctl import durable
from avatarctl.errors import AvatarError
from avatarctl.render.join import write_sound
from avatarctl.render.sound import sound_of
from avatarctl.sampling.windows import pictures_of
from avatarctl.serve import mp4
from avatarctl.serve.answers import Refused
from avatarctl.serve.jobs import Job
from avatarctl.settings.formats import VideoFormat

SOUND = "live.m4a"
KNOWN = 8  # finished videos whose tables are kept in memory
_lock, _encoding = threading.Lock(), threading.Lock()
_finished: dict[Path, tuple[int, Live]] = {}


@dataclass(frozen=True)
class Live:
    """What there is to see of a job: the stretches of pictures that are finished, in files; and its sound."""

    fps: Fraction
    stretches: tuple[tuple[Path, int, int], ...]
    """Of each fragment: the file, its first sample in it, and the one after its last."""
    sound: Path | None
    ended: bool
    video: mp4.Track
    audio: mp4.Track | None
    first: tuple[int, ...]
    """Of each fragment: the number of its first picture in the video; one more for the end."""

    def tracks(self) -> list[mp4.Track]:
        """Return the tracks in the order of their numbers."""
        return [self.video, *([self.audio] if self.audio else [])]

    def codecs(self) -> str:
        """Return the codecs as browsers name them."""
        return ",".join(mp4.codec_of(track) for track in self.tracks())

    def init(self) -> bytes:
        """Return the initial part."""
        rates = [mp4.timescale_of(self.fps)[0], *([self.audio.rate] if self.audio else [])]
        return mp4.init(self.tracks(), rates)

    def fragment(self, number: int) -> bytes:
        """Return a fragment, from 0."""
        path, begin, end = self.stretches[number]
        video = self.video if len({each for each, _, _ in self.stretches}) == 1 else mp4.read_tracks(path)["vide"]
        _scale, duration = mp4.timescale_of(self.fps)
        pictures = video.samples[begin:end]
        pieces = [mp4.Piece(1, path, pictures, self.first[number] * duration, duration)]
        if self.audio is not None and self.sound is not None:
            one, two = self._packet(self.first[number]), self._packet(self.first[number + 1])
            packets = self.audio.samples[self.audio.skip + one : self.audio.skip + two]
            pieces.append(mp4.Piece(2, self.sound, packets, one * mp4.AAC_SAMPLES, mp4.AAC_SAMPLES))
        return mp4.fragment(number + 1, pieces)

    def _packet(self, picture: int) -> int:
        """Return the first packet of sound at or after a picture."""
        assert self.audio is not None
        return ceil(picture / self.fps * self.audio.rate / mp4.AAC_SAMPLES)

    def playlist(self) -> str:
        """Return the media playlist."""
        lengths = [(after - before) / self.fps for before, after in zip(self.first, self.first[1:], strict=False)]
        longest = ceil(max(lengths, default=1))
        rows = ["#EXTM3U", "#EXT-X-VERSION:7", f"#EXT-X-TARGETDURATION:{longest}", "#EXT-X-MEDIA-SEQUENCE:0"]
        rows += ["#EXT-X-PLAYLIST-TYPE:EVENT", "#EXT-X-INDEPENDENT-SEGMENTS", '#EXT-X-MAP:URI="init.mp4"']
        for number, length in enumerate(lengths):
            rows += [f"#EXTINF:{float(length):.6f},", f"{number}.m4s"]
        return "\n".join([*rows, *(["#EXT-X-ENDLIST"] if self.ended else [])]) + "\n"

    def master(self) -> str:
        """Return the playlist that names the codecs, for players that choose by them."""
        size = f"{self.video.width}x{self.video.height}"
        rate = f"{float(self.fps):.3f}"
        about = f'BANDWIDTH=2000000,CODECS="{self.codecs()}",RESOLUTION={size},FRAME-RATE={rate}'
        return f"#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-INDEPENDENT-SEGMENTS\n#EXT-X-STREAM-INF:{about}\nmedia.m3u8\n"


def live_of(job: Job) -> Live:
    """Return what there is to see of a job; raises ``Refused`` where there is nothing (yet)."""
    render = job.render_job
    if render.video.suffix not in (".mp4", ".mov") or render.video.codec == "prores":
        raise Refused(
            409,
            f"{job.id}: got a video of {render.video.codec} in {render.video.suffix}, which has no live view",
            "its content can be had when it is finished; codec h264 has a live view",
        )
    for _ in range(3):  # the render may be finished, and its folder removed, in the middle of this
        try:
            if job.outcome.get("state") == "done" or job.output.is_file():
                return _of_video(job)
            return _of_segments(job, render.video)
        except FileNotFoundError:
            continue
    raise Refused(425, f"{job.id}: got nothing to see yet", "try again in a moment", {"Retry-After": "2"})


def _of_video(job: Job) -> Live:
    stamp = job.output.stat().st_mtime_ns
    with _lock:
        known = _finished.get(job.output)
    if known is not None and known[0] == stamp:
        return known[1]
    tracks = mp4.read_tracks(job.output)
    video, audio = tracks["vide"], tracks.get("soun")
    settings = job.render_job.render
    first = _firsts(settings.segment_latent_frames, len(video.samples))
    stretches = tuple((job.output, begin, end) for begin, end in itertools.pairwise(first))
    made = Live(settings.fps, stretches, job.output if audio else None, True, video, audio, first)
    with _lock:
        while len(_finished) >= KNOWN:
            del _finished[next(iter(_finished))]
        _finished[job.output] = (stamp, made)
    return made


def _of_segments(job: Job, video: VideoFormat) -> Live:
    render = job.render_job
    folder = render.folder / "segments"
    paths: list[Path] = []
    while (path := folder / f"{len(paths):06d}{video.segment_suffix}").is_file():
        paths.append(path)
    found = sound_of(render.folder, render.render) if paths else None
    if found is None:
        raise Refused(425, f"{job.id}: got nothing to see yet", "try again in a moment", {"Retry-After": "2"})
    sound, plan = found
    whole = _firsts(render.render.segment_latent_frames, plan.video_frames)
    first = whole[: len(paths) + 1]
    stretches = tuple((path, 0, end - begin) for path, begin, end in zip(paths, first, first[1:], strict=False))
    audio, track = None, job.folder / SOUND
    if sound is not None:
        with _encoding:
            if not track.is_file():
                try:
                    with durable.beside(track) as part:
                        write_sound(sound, part, video)
                except AvatarError as error:
                    raise Refused(
                        503, f"{job.id}: the sound of the live view can't be made ({error.message})"
                    ) from error
        audio = mp4.read_tracks(track)["soun"]
    return Live(
        render.render.fps, stretches, track if audio else None, False, mp4.read_tracks(paths[0])["vide"], audio, first
    )


def _firsts(latents: int, pictures: int) -> tuple[int, ...]:
    """Return the first picture of each segment of a video, and the number of its pictures."""
    found, number = [0], 1
    while (first := pictures_of(number * latents)) < pictures:
        found.append(first)
        number += 1
    return (*found, pictures)
