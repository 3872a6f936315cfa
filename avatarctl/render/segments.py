"""Decode and encode what has become final, segment by segment, beside sampling, and keep a playable preview of it.

Pictures are encoded, hashed and listed by a thread, and the preview is joined there, while the next ones are decoded or the
next window steps run. Decoding has a thread too where the VAE is beside the transformer and there is room for both: memory on a
GPU, a core to spare on a CPU; elsewhere it takes turns with window steps. Neither the order nor a bit depends on what runs where.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d

from avatarctl import threads
from avatarctl.interrupts import Stop
from avatarctl.networks.full import during
from avatarctl.networks.placement import Placement
from avatarctl.progress import Progress
from avatarctl.render.beside import Abandoned, Beside
from avatarctl.render.encoding import Encoding
from avatarctl.render.folder import RenderFolder
from avatarctl.render.frames import Frames
from avatarctl.render.networks import Networks
from avatarctl.render.preview import Preview
from avatarctl.sampling.windows import Plan
from avatarctl.settings.render import RenderJob

TELL_EVERY_S = 0.25  # of pictures that are decoded
AT_ONCE = 32  # latent frames whose pictures may wait to be encoded: 120 MB at 480x832


class Segments:
    """The segments of a render that are still missing, in order. Inside ``with``: on the way out the threads are ended."""

    def __init__(
        self, job: RenderJob, folder: RenderFolder, plan: Plan, networks: Networks, show: Progress, stop: Stop
    ) -> None:
        self._job, self._folder, self._plan, self._networks = job, folder, plan, networks
        self._show, self._stop = show, stop
        self._encoding = Encoding(folder, job.render, job.video, job.frames)
        length, placement = job.render.segment_latent_frames, networks.placement
        aside = networks.residency.together and beside(placement)
        self._frames = Frames(folder, plan, length, networks.vae, placement.tiling, rests=not aside)
        count = range(self._frames.count)
        self._undecoded = [s for s in count if not self._encoding.is_there(s, self._frames.pictures_of(s))]
        self._unwritten = list(self._undecoded)
        self._preview = Preview(job, folder)
        self._encoder = Beside("encoder", min(length, AT_ONCE))
        # Which segments are to be decoded is a list of numbers: their latents lie in the folder.
        self._decoder = Beside("decoder", self._frames.count) if aside else None
        # One for all segments: the memory of a stream is its own.
        self._stream = torch.cuda.Stream(placement.device) if aside and placement.device.type == "cuda" else None
        self._leaving = False
        self._decoded = 0
        self._told_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._leaving = True
        self._preview.give_up()
        try:
            if self._decoder is not None:
                self._decoder.end()
        finally:
            self._encoder.end()
            self._encoding.drop()

    @property
    def count(self) -> int:
        """How many segments the video has."""
        return self._frames.count

    def needed_windows(self) -> list[int]:
        """Return the windows whose final latents the missing segments are decoded from."""
        return sorted({window for segment in self._undecoded for window in self._frames.needed_windows(segment)})

    def write_ready(self, last_final: int, sampled: float) -> None:
        """Decode the segments whose windows are final up to ``last_final``, or let the thread do it.

        ``sampled``: share of the passes that is done, for the report. Returns early when a stop is asked for.
        """
        with suppress(Abandoned):
            while self._undecoded and self._frames.needed_windows(self._undecoded[0]).stop - 1 <= last_final:
                self._leave()
                segment = self._undecoded.pop(0)
                if self._decoder is not None:
                    self._decoder.hand(partial(self._decode, segment))
                else:
                    with during("decoding"):
                        self._networks.residency.use(self._networks.vae)
                    self._decode(segment, lambda: self._tell(sampled))

    def finish(self) -> None:
        """Return when every segment is there, once all windows are final, or when a stop is asked for."""
        self.write_ready(self._plan.count - 1, 1.0)
        self._tell(1.0)  # also where the thread needs no longer than until the next report
        with suppress(Abandoned):
            while not self._all_there():
                self._leave()
                self._tell(1.0)

    def check(self) -> None:
        """Raise what went wrong in a thread, if anything did."""
        with suppress(Abandoned):  # a stop is asked for
            if self._decoder is not None:
                self._decoder.check()
            self._encoder.check()

    def video_s(self) -> float:
        """Return the seconds of video that are finished."""
        latents = min(self._done() * self._job.render.segment_latent_frames, self._plan.latent_frames)
        pictures = min(4 * (latents - 1) + 1 if latents else 0, self._plan.video_frames)
        return float(pictures / self._plan.fps)

    def _all_there(self) -> bool:
        if self._decoder is not None and not self._decoder.done(TELL_EVERY_S):
            return False
        return self._encoder.done(TELL_EVERY_S)

    def _done(self) -> int:
        return self._unwritten[0] if self._unwritten else self.count

    def _decode(self, segment: int, after_each: Any = lambda: None) -> None:
        """Decode a segment and hand its pictures to the encoder; raises ``Abandoned`` when that shall end."""
        pictures = self._frames.pictures_of(segment)
        self._decoded = pictures.start
        self._encoder.hand(partial(self._encoding.begin, segment, pictures))
        with during("decoding"), _on(self._stream), _between_layers(self._networks.vae, self._leave):
            for decoded in self._frames.decode(segment):
                self._encoder.hand(partial(self._encoding.add, decoded))
                self._decoded += len(decoded)
                after_each()
        self._encoder.hand(partial(self._end, segment))

    def _leave(self) -> None:
        if self._leaving or self._stop.asked:
            raise Abandoned

    def _end(self, segment: int) -> None:
        """Take a segment that is encoded into the render (in the encoder's thread)."""
        self._encoding.end(segment)
        self._unwritten.remove(segment)
        self._folder.event("segment", segment=segment)
        self._preview.join(self._done())

    def _tell(self, sampled: float) -> None:
        """Report, now and then, how many pictures of the video are decoded."""
        if time.monotonic() - self._told_at < TELL_EVERY_S:
            return
        self._told_at = time.monotonic()
        fraction = self._decoded / self._plan.video_frames if sampled >= 1 else sampled
        video_s, of_s = (round(float(count / self._plan.fps), 2) for count in (self._decoded, self._plan.video_frames))
        self._show(0, 0, stage="decoding", fraction=round(fraction, 4), video_s=video_s, of_s=of_s)


def beside(placement: Placement) -> bool:
    """Return whether pictures are decoded while window steps run: with room for both on a GPU, with a core to spare on a CPU."""
    if placement.device.type == "cuda":
        return placement.beside
    return threads.usable_cores() > torch.get_num_threads()


@contextmanager
def _on(stream: torch.cuda.Stream | None) -> Iterator[None]:
    """Compute on a stream of one's own, after what this thread's has to do: both keep the GPU busy."""
    if stream is None:
        yield
        return
    stream.wait_stream(torch.cuda.current_stream(stream.device))
    with torch.cuda.stream(stream):
        yield


@contextmanager
def _between_layers(vae: Any, check: Any) -> Iterator[None]:
    """Call ``check`` before each layer of the decoder: a latent frame of large pictures takes a minute on a CPU."""
    layers = [module for module in vae.decoder.modules() if isinstance(module, WanCausalConv3d)]
    handles = [layer.register_forward_pre_hook(lambda *_: check()) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
