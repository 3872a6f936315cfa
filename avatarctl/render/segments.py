"""Decode and encode what has become final, segment by segment, and keep a playable preview of it."""

from __future__ import annotations

import time
from collections.abc import Callable

from avatarctl.networks.vae import Tiling
from avatarctl.progress import Progress
from avatarctl.render import marks
from avatarctl.render.folder import RenderFolder
from avatarctl.render.frames import Frames, segment_file
from avatarctl.render.join import join
from avatarctl.render.networks import Networks
from avatarctl.render.ours import PREVIEW
from avatarctl.sampling.windows import Plan
from avatarctl.settings.render import RenderJob

TELL_EVERY_S = 0.25  # of pictures that are decoded
PREVIEW_EVERY_S = 10.0
PREVIEW_SHARE = 20  # a preview may cost a twentieth of the time


class Segments:
    """The segments of a render that are still missing, in order."""

    def __init__(self, job: RenderJob, folder: RenderFolder, plan: Plan, networks: Networks, show: Progress) -> None:
        self._job, self._folder, self._plan, self._networks, self._show = job, folder, plan, networks, show
        tiling = Tiling() if job.placement.vae_tiling else None
        self._frames = Frames(folder, plan, job.render, networks.vae, tiling, job.frames, job.video)
        self.missing = self._frames.missing()
        self._preview = f"{PREVIEW}{job.video.suffix}"
        folder.valid(self._preview)  # a damaged one is reported and joined again
        self._preview_cost_s = self._preview_at = self._told_at = 0.0

    @property
    def count(self) -> int:
        """How many segments the video has."""
        return self._frames.count

    def needed_windows(self) -> list[int]:
        """Return the windows whose final latents the missing segments are decoded from."""
        return sorted({window for segment in self.missing for window in self._frames.needed_windows(segment)})

    def write_ready(self, last_final: int, sampled: float, after_each: Callable[[], None]) -> None:
        """Write the segments whose windows are final up to ``last_final``.

        ``sampled``: share of the passes that is done, for the report; ``after_each`` is called after each segment.
        """
        while self.missing and self._frames.needed_windows(self.missing[0]).stop - 1 <= last_final:
            self._networks.residency.use(self._networks.vae)
            segment = self.missing.pop(0)
            self._frames.write_segment(segment, lambda pictures: self._tell(pictures, sampled))
            self._folder.event("segment", segment=segment)
            self._join_preview()
            after_each()

    def video_s(self) -> float:
        """Return the seconds of video that are finished."""
        latents = min(self._done() * self._job.render.segment_latent_frames, self._plan.latent_frames)
        pictures = min(4 * (latents - 1) + 1 if latents else 0, self._plan.video_frames)
        return float(pictures / self._plan.fps)

    def _done(self) -> int:
        return self.missing[0] if self.missing else self.count

    def _tell(self, pictures: int, sampled: float) -> None:
        """Report, now and then, how many pictures of the video are decoded."""
        if time.monotonic() - self._told_at < TELL_EVERY_S:
            return
        self._told_at = time.monotonic()
        fraction = pictures / self._plan.video_frames if sampled >= 1 else sampled
        video_s, of_s = (round(float(count / self._plan.fps), 2) for count in (pictures, self._plan.video_frames))
        self._show(0, 0, stage="decoding", fraction=round(fraction, 4), video_s=video_s, of_s=of_s)

    def _join_preview(self) -> None:
        """Join what is finished to a playable file, seldom enough that it costs little."""
        since_s = time.monotonic() - self._preview_at
        if not self._job.render.preview or since_s < max(PREVIEW_SHARE * self._preview_cost_s, PREVIEW_EVERY_S):
            return
        began = time.monotonic()
        ready = [self._folder.path / segment_file(s, self._job.video) for s in range(self._done())]
        if ready:
            part = self._folder.new_part(self._preview)
            manifest = self._folder.manifest()
            join(ready, part, None, self._job.video, marks.tags_of(manifest, self._job.video))
            marks.append_xmp(manifest, self._job.video, part)
            self._folder.adopt(part, self._preview)
        self._preview_at = time.monotonic()
        self._preview_cost_s = self._preview_at - began
