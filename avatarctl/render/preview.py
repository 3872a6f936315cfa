"""Keep a playable file of what is finished of a video, while the rest is computed."""

from __future__ import annotations

import subprocess
import time

from avatarctl.render import marks
from avatarctl.render.encoding import segment_file
from avatarctl.render.folder import RenderFolder
from avatarctl.render.guard import guarded
from avatarctl.render.join import join
from avatarctl.render.ours import PREVIEW
from avatarctl.settings.render import RenderJob

EVERY_S = 10.0
SHARE = 20  # it may cost a twentieth of the time


class Preview:
    """The preview of a render, joined anew now and then."""

    def __init__(self, job: RenderJob, folder: RenderFolder) -> None:
        self._job, self._folder = job, folder
        self._name = f"{PREVIEW}{job.video.suffix}"
        folder.valid(self._name)  # a damaged one is reported and joined again
        self._cost_s = self._at = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._given_up = False

    def join(self, segments: int) -> None:
        """Join the first segments to a playable file, seldom enough that it costs little."""
        since_s = time.monotonic() - self._at
        if not segments or not self._job.render.preview or since_s < max(SHARE * self._cost_s, EVERY_S):
            return
        began = time.monotonic()
        ready = [self._folder.path / segment_file(s, self._job.video) for s in range(segments)]
        part = self._folder.new_part(self._name)
        manifest = self._folder.manifest()
        with guarded(self._folder.path, self._folder.path):
            join(ready, part, None, self._job.video, marks.tags_of(manifest, self._job.video), started=self._started)
            marks.append_xmp(manifest, self._job.video, part)
        self._folder.adopt(part, self._name)
        self._at = time.monotonic()
        self._cost_s = self._at - began

    def give_up(self) -> None:
        """End the joining that is under way, if any, from another thread; it fails there. None begins any more."""
        self._given_up = True
        if self._process is not None:
            self._process.kill()

    def _started(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        if self._given_up:
            process.kill()
