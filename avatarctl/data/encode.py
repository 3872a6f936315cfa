"""Encode clips that are new or changed into a cache, shared by any number of processes. READ FIRST in this folder."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from avatarctl.audio.track import Through
from avatarctl.data import cache as caches
from avatarctl.data.ahead import ahead, batched
from avatarctl.data.clips import (
    WHOLE,
    Film,
    Window,
    clip_film,
    in_step,
    nearest_size,
    shots_of,
    stream,
    windows,
)
from avatarctl.data.compact import grey_of, pack
from avatarctl.data.discover import Clip, discover, is_prepared, made_of, passed_over
from avatarctl.data.encoders import Encoders
from avatarctl.data.guards import full_device, interruptible, reading
from avatarctl.data.masks import at_latent_size, mask_films
from avatarctl.data.shard_writer import ShardWriter
from avatarctl.data.shards import ClipEntry, Index, Sample, null_text_file
from avatarctl.data.shot_latents import ShotLatents
from avatarctl.data.sound import decoded_sound, separation
from avatarctl.data.thumbs import thumb
from avatarctl.errors import InputFileError
from avatarctl.networks.images import read_image
from avatarctl.networks.placement import DTYPES
from avatarctl.networks.vae import TEMPORAL
from avatarctl.progress import Progress
from avatarctl.sampling.windows import video_frames_of
from avatarctl.settings.encode import EncodeJob

WINDOWS_AHEAD = 2  # decoded while one is encoded


@dataclass
class Encoded:
    """What became of the clips of a SOURCE. ``skipped`` and ``failed``: (name, reason) each, also of earlier runs."""

    cache: Path
    clips: int
    encoded: int = 0
    known: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    new_samples: int = 0
    samples: int = 0
    wall_s: float = 0.0
    notes: list[str] = field(default_factory=list)
    """What the user should know of clips that were encoded now."""
    passed_over: list[str] = field(default_factory=list)
    """Files of the SOURCE that belong to no clip."""

    def note(self, clip: Clip, status: str, reason: str) -> None:
        """Count a clip."""
        if status in ("skipped", "failed"):
            getattr(self, status).append((clip.name, reason))
        else:
            setattr(self, status, getattr(self, status) + 1)


def encode(job: EncodeJob, show: Progress) -> Encoded:
    """Encode the clips of a SOURCE that the cache doesn't hold yet, or no longer as they are now.

    Any number of processes may do so on one cache at once; each takes the clips that no other has. A kill loses the clip
    that was being encoded. Raises ``ChangedError`` for a cache made with other settings or weights, ``InputFileError`` for
    a SOURCE without a clip, ``DeviceError`` for a full disk or device, ``Interrupted`` after Ctrl-C or SIGTERM.
    """
    began = time.monotonic()
    clips = discover(job.source, job.settings.pictures)
    weights = caches.encoder_files(job)
    about = caches.about(job, weights)
    if not job.force:
        caches.check_same(job.cache, about)
    with interruptible(), full_device():
        work = Work(job, weights, caches.recipe_of(about))
        caches.begin(job, about, work.null_text)
        with ShardWriter(job.cache, job.settings.shard_mb * 1_000_000) as work.writer:
            done = work.run(clips, show)
    done.samples = len(work.index.samples())
    done.passed_over = passed_over(job.source, clips)
    done.wall_s = time.monotonic() - began
    return done


def plan(job: EncodeJob) -> dict[str, Any]:
    """Count what an encoding would find, without doing it: clips in all, known, new or changed; and what it passes over."""
    clips = discover(job.source, job.settings.pictures)
    about = caches.about(job, caches.encoder_files(job))
    there = not job.force and caches.check_same(job.cache, about)
    known = 0
    if there:
        work = Work(job, {}, caches.recipe_of(about))
        known = sum(work.known(clip) is not None for clip in clips)
    counts = {"clips": len(clips), "known": known, "to_encode": len(clips) - known}
    return {**counts, "passed_over": passed_over(job.source, clips)}


class Work:
    """One process's part of an encoding: its index, its writer, and the networks once they are needed."""

    writer: ShardWriter

    def __init__(self, job: EncodeJob, weights: Mapping[str, Path], recipe: str) -> None:
        self.job, self.settings, self.weights, self.recipe = job, job.settings, weights, recipe
        self.dtype = DTYPES[job.settings.store_dtype]
        self._grey: dict[tuple[int, ...], Tensor] = {}

    @cached_property
    def index(self) -> Index:
        """What the cache holds."""
        return Index(self.job.cache)

    @cached_property
    def encoders(self) -> Encoders:
        """The frozen networks."""
        return Encoders(self.weights, self.job.device, self.settings.text_len)

    @cached_property
    def through(self) -> Through | None:
        """What takes the voice out of the music, where it is asked for."""
        return separation(self.weights["separator"]) if self.settings.separate_vocals else None

    def null_text(self) -> bytes:
        """Return the file with the states of the empty and the negative prompt."""
        prompts = {"empty": "", "negative": self.settings.negative_prompt}
        return null_text_file({name: self.encoders.text(text).to(self.dtype) for name, text in prompts.items()})

    # -- Clip by clip --------------------------------------------------------------------------------------------------

    def run(self, clips: list[Clip], show: Progress) -> Encoded:
        """Take the clips one by one: first those that nobody holds, then wait for those that others held."""
        began, done, left = time.monotonic(), Encoded(self.job.cache, len(clips)), clips
        for wait in (False, True):
            held = []
            for clip in left:
                with caches.claimed(self.job.cache, clip.key, wait) as ours:
                    if not ours:
                        held.append(clip)
                        continue
                    status, reason = self.take(clip, done)
                done.note(clip, status, reason)
                count = done.encoded + done.known + len(done.skipped) + len(done.failed)
                rate = {"left_s": (time.monotonic() - began) / count * (len(clips) - count)} if done.encoded else {}
                show(count, len(clips), **rate)
            left = held
        self.index.look()
        return done

    def take(self, clip: Clip, done: Encoded) -> tuple[str, str]:
        """Encode a clip that nobody else has, unless it is known; give what became of it, and why."""
        self.index.look()
        old = self.index.clips.get(clip.key)
        stamp, made = clip.stamp(), ""
        known = self.known(clip)
        if known is not None:
            status = known.facts["status"]
            return ("known" if status == "encoded" else status), known.facts.get("reason", "")
        facts = {"name": clip.name, "source": str(clip.path.absolute()), "stamp": stamp, "status": "encoded"}
        generation = old.generation + 1 if old is not None else 0
        try:
            with reading(clip.path):
                if not clip.path.exists():
                    raise InputFileError(f"{clip.path}: got no such file, expected a video or a clip folder")
                prompt = clip.prompt(self.settings)
                made = made_of(clip, prompt, self.recipe)
                if old is not None and old.samples and is_another(clip, Path(old.facts["source"])):
                    raise InputFileError(
                        f"another clip of this name is in the cache: {old.facts['source']}; give a folder above both as "
                        "SOURCE, or choose another --output"
                    )
                film = clip_film(clip, self.settings.fps) if clip.sound is not None else None
            begun = self.index.begun.get(clip.key)
            before = begun.samples if begun is not None and begun.made_of == made else ()
            reason = "no sound"
            if clip.is_picture or (film is not None and film.sound):
                there = {sample.key for sample in before}
                samples = self.samples(clip, film, prompt, facts, there) if film else self.picture(clip, prompt)
                with closing(samples):
                    first = next(samples, None)
                    if first is not None or before:
                        new = chain([first], samples) if first is not None else iter(())
                        entry = self.writer.add(clip.key, made, new, generation, facts, before)
                        done.new_samples += len(entry.samples)
                        done.notes += facts.get("notes", [])
                        return "encoded", ""
                reason = f"shorter than a window of {self.settings.frames} pictures"
            facts |= {"status": "skipped", "reason": reason}
        except InputFileError as problem:
            facts |= {"status": "failed", "reason": problem.message}
            if old is not None and old.samples:
                return (
                    "failed",
                    problem.message,
                )  # what was encoded stays: a disk that is away for a while costs nothing
        self.writer.add(clip.key, made, [], generation, facts)
        return facts["status"], facts["reason"]

    def known(self, clip: Clip) -> ClipEntry | None:
        """Return the clip's entry while files, settings and weights are those it was made of."""
        entry = self.index.clips.get(clip.key)
        if entry is None:
            return None
        if entry.facts.get("stamp") == clip.stamp():
            return entry
        if not entry.made_of:
            return None
        try:
            with reading(clip.path):
                same = made_of(clip, clip.prompt(self.settings), self.recipe) == entry.made_of
        except InputFileError:
            return None  # it can't be read any more: taking it will say why
        return entry if same else None

    # -- Samples of a clip ---------------------------------------------------------------------------------------------

    def samples(
        self, clip: Clip, film: Film, prompt: str, facts: dict[str, Any], there: Collection[str] = ()
    ) -> Generator[Sample, None, None]:
        """Encode a clip window by window; what the user should know of it goes into ``facts``.

        Pictures are decoded ahead in a thread. Windows whose keys are ``there`` already aren't encoded.
        """
        settings = self.settings
        with reading(clip.path), ExitStack() as stack:
            masks, notes = mask_films(clip, film)
            notes = [film.colours.note, *notes] if film.colours.note else notes
            assert film.fps is not None and clip.sound is not None
            fps = settings.rate_of(film.fps)
            size = nearest_size(film, settings.sizes)
            shots = shots_of(film, fps) if settings.split_at_cuts and not is_prepared(clip.path) else [WHOLE]
            if notes := [*notes, *resampled(film, fps, settings.fps), *split(clip, len(shots) - 1)]:
                facts["notes"] = notes
            sound = stack.enter_context(decoded_sound(clip.sound, self.through))
            pictures = stack.enter_context(closing(stream(film, size, fps)))
            mask_streams = [
                stack.enter_context(closing(stream(mask, size, fps, like=film))) if mask is not None else None
                for mask in masks
            ]
            rows = in_step(pictures, mask_streams, slack=fps != film.fps)
            length, stride = settings.frames, settings.stride or settings.frames
            pictures_heard = video_frames_of(sound.count, fps)
            to_end = settings.starts != "fixed"
            first = first_start(clip, stride) if settings.starts == "random" else 0
            of_clip = self.encoders.of_shots() if settings.latents_of == "clip" else None
            step = 1 if of_clip is None else TEMPORAL
            found = windows(rows, length, stride, pictures_heard, settings.short, shots, to_end, first, step)
            # Entered last, so ended first: the thread reads what is closed after it.
            decoded = stack.enter_context(closing(ahead(found, WINDOWS_AHEAD)))
            new = self.not_there(clip, decoded, there, of_clip)
            for several in batched(new, 1 if of_clip is not None else self.batch):
                sounds = [
                    sound.of_pictures(window.start, length, fps, window.frames if len(shots) > 1 else None)
                    for window in several
                ]
                yield from self.encoded(clip, prompt, several, sounds, size, fps, of_clip)

    def not_there(
        self, clip: Clip, found: Iterator[Window], there: Collection[str], of_clip: ShotLatents | None
    ) -> Iterator[Window]:
        """Return the windows that aren't in the cache; of a whole clip, the pictures of the others are encoded all the same."""
        for window in found:
            if key_of(clip, window) not in there:
                yield window
            elif of_clip is not None:
                self.encoders.passed(of_clip, window, window.pictures())

    @cached_property
    def batch(self) -> int:
        """How many windows are encoded together."""
        return self.job.batch or (2 if self.encoders.placement.device.type == "cuda" else 1)

    def encoded(
        self,
        clip: Clip,
        prompt: str,
        several: Sequence[Window],
        sounds: Sequence[NDArray[np.float32]],
        size: tuple[int, int],
        fps: Fraction,
        of_clip: ShotLatents | None = None,
    ) -> Iterator[Sample]:
        """Encode windows of one size together; ``of_clip``: one, whose latents are cut out of the clip's."""
        names = [key_of(clip, window) for window in several] if self.settings.latents == "sample" else []
        latents = partial(of_clip.of, several[0]) if of_clip is not None else None
        found = self.encoders.pictures([window.pictures() for window in several], names, latents)
        for window, sound, tensors in zip(several, sounds, found, strict=True):
            yield self.sample(clip, prompt, window, {**tensors, "speech": self.encoders.speech(sound)}, size, fps)

    def picture(self, clip: Clip, prompt: str) -> Generator[Sample, None, None]:
        """Encode a picture file: one latent frame, no speech, no reference."""
        with reading(clip.path):
            shown = read_image(clip.pictures)
            film = Film(clip.pictures, shown.width, shown.height, None, (clip.pictures,))
            size = nearest_size(film, self.settings.sizes)
            rate = Fraction(25)  # of nothing: its length in counts is one picture
            with closing(stream(film, size, rate)) as pictures:
                window = Window(0, 1, ((next(pictures), None, None),))
        [tensors] = self.encoders.pictures([window.pictures()])
        yield self.sample(clip, prompt, window, tensors, size, rate)

    def sample(
        self,
        clip: Clip,
        prompt: str,
        window: Window,
        encoded: Mapping[str, Tensor],
        size: tuple[int, int],
        fps: Fraction,
    ) -> Sample:
        """Return the sample of a window whose pictures and sound are encoded."""
        width, height = size
        tensors = {**encoded, "text": self.encoders.text(prompt)}
        reference = tensors.pop("reference", None)
        _, face, lip = (list(each) for each in zip(*window.rows, strict=True))
        given = [name for name, mask in (("face", face[0]), ("lip", lip[0])) if mask is not None]
        masks = {f"{name}_mask": at_latent_size({"face": face, "lip": lip}[name], height, width) for name in given}
        tensors = pack({**tensors, **masks}, reference, self.grey(tuple(tensors["latents"].shape), size), self.dtype)
        meta = {
            "source": clip.name,
            "kind": clip.kind,
            "start_frame": window.start,
            "frames": window.frames,
            "fps": str(fps),
            "width": width,
            "height": height,
            "prompt": prompt,
            "masks": given,
            "has_masks": len(given) == 2,
        }
        return Sample(key_of(clip, window), tensors, meta, thumb(window.rows[0]))

    def grey(self, shape: tuple[int, ...], size: tuple[int, int]) -> Tensor:
        """Return the latents of grey pictures of a sample's shape, which the cache holds."""
        if shape not in self._grey:
            encode_grey = partial(self.encoders.grey, size, shape[1])
            with caches.guarded(self.job.cache):
                self._grey[shape] = grey_of(self.job.cache, shape, encode_grey, self.dtype)
        return self._grey[shape]


def key_of(clip: Clip, window: Window) -> str:
    """Return the name of a window's sample."""
    return f"{clip.key}-{window.start:06d}"


def first_start(clip: Clip, stride: int) -> int:
    """Return where the first of randomly placed windows begins: somewhere within a stride, the same every time."""
    return int.from_bytes(hashlib.sha256(f"start/{clip.key}".encode()).digest()[:4], "big") % stride


def resampled(film: Film, fps: Fraction, asked: Fraction | None) -> list[str]:
    """Return what the user should know of a clip whose rate isn't kept."""
    if asked is not None or fps == film.fps or film.fps is None:
        return []
    return [
        f"{film.path}: got {float(film.fps):g} pictures a second, resampled to {float(fps):g}; --fps keeps another rate"
    ]


def split(clip: Clip, cuts: int) -> list[str]:
    """Return what the user should know of a clip of several shots."""
    return [f"{clip.path}: got {cuts} cut{'s' * (cuts > 1)}, no sample shows two shots"] if cuts else []


def is_another(clip: Clip, source: Path) -> bool:
    """Return whether the clip that was encoded from ``source`` is still there and another one; else it was moved."""
    return source.exists() and not source.samefile(clip.path)
