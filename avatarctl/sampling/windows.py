"""Plan the windows of a recording: which latent frames and which samples each one covers.

Words: latent frame 0 is video frame 0, latent frame k > 0 is video frames 4k - 3 … 4k; a window is ``F`` latent frames
denoised together; neighbours share ``V`` of them (overlap) and start ``S = F - V`` apart (stride). Plain arithmetic on
rational numbers, no torch: the dry run uses it too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from avatarctl.errors import UsageError

SAMPLE_RATE_HZ = 16_000  # of the waveform that the speech encoder hears
PER_LATENT = 4  # video frames per latent frame, after the first
TOKENS_AT_ONCE = 32_768  # from about here on one window keeps a GPU busy (480x832x81 has 32,760)

Tail = Literal["full", "reference"]
AudioSpan = Literal["exact", "reference"]


def sample_of(video_frame: int, fps: Fraction) -> int:
    """Return the 16 kHz sample at which a video frame begins: rational, rounded once, so nothing drifts over hours."""
    return round(video_frame * SAMPLE_RATE_HZ / fps)


def video_frames_of(samples: int, fps: Fraction, rate_hz: int = SAMPLE_RATE_HZ) -> int:
    """Count the video frames that hold ``samples`` of sound: rounded up, so that no sound is cut, at least one."""
    return max(-(-samples * fps.numerator // (rate_hz * fps.denominator)), 1)


def latent_frames_of(video_frames: int) -> int:
    """Count the latent frames that hold ``video_frames`` pictures."""
    return -(-(video_frames - 1) // PER_LATENT) + 1


def pictures_of(latent_frames: int) -> int:
    """Count the pictures that ``latent_frames`` decode to."""
    return PER_LATENT * (latent_frames - 1) + 1


@dataclass(frozen=True)
class Window:
    """One window: latent frames ``start`` … ``stop - 1``, samples ``first_sample`` … ``last_sample - 1`` at 16 kHz.

    ``final_stop``: where the next window starts; the frames before it are final when this window and those to its right
    are done. ``overlap``: latent frames shared with the window before (0 for the first).
    """

    index: int
    start: int
    stop: int
    final_stop: int
    overlap: int
    first_sample: int
    last_sample: int

    @property
    def frames(self) -> int:
        """The number of latent frames."""
        return self.stop - self.start


@dataclass(frozen=True)
class Plan:
    """All windows of a video, computed when asked for: the plan of a day is as small as that of a minute.

    ``video_frames`` pictures are kept of ``latent_frames``; what is decoded past them is cut off.
    """

    video_frames: int
    fps: Fraction
    latent_frames: int
    window: int
    overlap: int
    tail: Tail = "full"
    audio_span: AudioSpan = "exact"
    samples: int = 0  # of the whole waveform; needed by audio_span "reference" alone

    @property
    def stride(self) -> int:
        """Latent frames from one window's start to the next."""
        return self.window - self.overlap

    @property
    def count(self) -> int:
        """The number of windows."""
        return max(-(-(self.latent_frames - self.window) // self.stride), 0) + 1

    def start_of(self, index: int) -> int:
        """Return the first latent frame of a window; the last window is moved left until it is full (tail ``full``)."""
        start = index * self.stride
        if self.tail == "full":
            start = min(start, max(self.latent_frames - self.window, 0))
        return start

    def stop_of(self, index: int) -> int:
        """Return the latent frame after the last one of a window."""
        return min(self.start_of(index) + self.window, self.latent_frames)

    def get(self, index: int) -> Window:
        """Return one window; raises ``IndexError`` outside the plan."""
        if not 0 <= index < self.count:
            raise IndexError(f"window {index} of {self.count}")
        start, stop = self.start_of(index), self.stop_of(index)
        last = index == self.count - 1
        first_sample, last_sample = self._samples_of(start, stop, last)
        return Window(
            index=index,
            start=start,
            stop=stop,
            final_stop=stop if last else self.start_of(index + 1),
            overlap=self._shared(index, start) if index else 0,
            first_sample=first_sample,
            last_sample=last_sample,
        )

    def owner(self, latent_frame: int) -> int:
        """Return the window whose final latents hold a latent frame: the last one that covers it."""
        last = self.count - 1
        return last if latent_frame >= self.start_of(last) else latent_frame // self.stride

    @property
    def reach(self) -> int:
        """The most windows to the right that share latent frames with one.

        One, unless the overlap is more than half, or the last window is moved so far left that it meets two.
        """
        return max(-(-self.window // self.stride) - 1, len(self.left_of(self.count - 1)))

    def windows(self) -> Iterator[Window]:
        """Go through all windows from left to right."""
        return (self.get(index) for index in range(self.count))

    def left_of(self, index: int) -> list[int]:
        """Return the earlier windows that share latent frames with ``index``, from left to right."""
        start = self.start_of(index)
        first = index
        while first and self.stop_of(first - 1) > start:
            first -= 1
        return list(range(first, index))

    def right_of(self, index: int) -> list[int]:
        """Return the later windows that share latent frames with ``index``, from left to right."""
        stop = self.stop_of(index)
        last = index
        while last + 1 < self.count and self.start_of(last + 1) < stop:
            last += 1
        return list(range(index + 1, last + 1))

    def _shared(self, index: int, start: int) -> int:
        # The released code always blends the first ``overlap`` frames, also those of a shorter last window.
        return self.overlap if self.tail == "reference" else self.stop_of(index - 1) - start

    def _samples_of(self, start: int, stop: int, last: bool) -> tuple[int, int]:
        if self.audio_span == "exact":
            # Latent frame ``start`` of a window is its first picture: it stands for video frame 4 * start alone.
            first = PER_LATENT * start
            return sample_of(first, self.fps), sample_of(first + pictures_of(stop - start), self.fps)
        per_frame = int(SAMPLE_RATE_HZ / self.fps)
        first_sample = PER_LATENT * start * per_frame
        if last:
            return first_sample, self.samples
        return first_sample, first_sample + PER_LATENT * (stop - start) * per_frame


def plan_windows(
    samples: int,
    fps: Fraction,
    window: int = 21,
    overlap: int = 5,
    tail: Tail = "full",
    audio_span: AudioSpan = "exact",
) -> Plan:
    """Plan the windows of ``samples`` of sound at 16 kHz.

    Sound shorter than a window is padded with silence to one window (whoever reads past ``samples`` hears silence), and the
    padding's pictures are cut. ``tail`` and ``audio_span`` ``reference`` reproduce the released code: a short last window,
    ``4 * F`` frames of sound per window and rounded samples per frame. Raises ``UsageError`` for an overlap that doesn't
    fit, for no sound, and in ``reference`` for sound shorter than a window (where the released code never ends).
    """
    if not 2 <= overlap < window:
        raise UsageError(f"overlap: got {overlap}, expected 2 to {window - 1} latent frames (window: {window})")
    if samples < 1:
        raise UsageError("recording: got no samples, expected sound")
    if audio_span == "reference":
        video_frames = max(samples // int(SAMPLE_RATE_HZ / fps), 1)
        latent_frames = (video_frames - 1) // PER_LATENT + 1
    else:
        video_frames = video_frames_of(samples, fps)
        latent_frames = latent_frames_of(video_frames)
    if latent_frames < window:
        if tail == "reference":
            raise UsageError(
                f"tail reference: got {latent_frames} latent frames, expected a window of {window} at least",
                "use tail full for short recordings",
            )
        latent_frames = window
    return Plan(video_frames, fps, latent_frames, window, overlap, tail, audio_span, samples)
