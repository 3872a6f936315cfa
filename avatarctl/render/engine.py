"""The whole render of a job, top to bottom, one call per stage. READ THIS FILE FIRST."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from avatarctl.console import Progress
from avatarctl.networks.placement import decide
from avatarctl.networks.vae import Tiling
from avatarctl.render import frontier, marks
from avatarctl.render.conditions import make_conditions
from avatarctl.render.contact_sheet import contact_sheet
from avatarctl.render.estimate import remember_speed
from avatarctl.render.finite import require_finite_latents
from avatarctl.render.folder import RenderFolder
from avatarctl.render.frames import Frames, save_final, segment_file, window_file
from avatarctl.render.inputs import Checked, Rendered
from avatarctl.render.join import join
from avatarctl.render.networks import LoadedNetworks, Networks
from avatarctl.render.ours import PREVIEW
from avatarctl.render.prepare import own_device
from avatarctl.render.sound import Sound, decode_audio, start_of
from avatarctl.render.stop import Stop, no_grad_on, stopping
from avatarctl.render.subtitles import SoftTrack, lay_out
from avatarctl.sampling.denoise import Sampler
from avatarctl.sampling.predict import Conditions, Predictor, make_sampler
from avatarctl.sampling.team import GO, SAVE, STOP, Team, join_team
from avatarctl.sampling.windows import Plan
from avatarctl.settings.render import RenderJob

TELL_EVERY_S = 0.25  # of pictures that are decoded


def run(checked: Checked, folder: RenderFolder, show: Progress, loaded: LoadedNetworks | None = None) -> Rendered:
    """Render inside a folder that is held and has its manifest, from wherever it stands, to the finished video.

    ``loaded``: networks of earlier renders in this process, which may serve again.
    """
    job, began = checked.job, time.monotonic()
    folder.event("resumed" if folder.listed("windows") or folder.listed("frontier") else "started")
    with stopping() as stop, no_grad_on(job):
        placement = decide(own_device(job.placement))
        team = join_team(placement.device)
        show(0, 0, stage="sound")
        sound, plan = decode_audio(checked, folder, lambda: stop.check(folder))
        tracks = lay_out(job, folder, start_of(checked, folder), plan.video_frames / plan.fps)
        show(0, 0, stage="loading")
        networks = (loaded or LoadedNetworks()).of(checked, placement)
        show(0, 0, stage="conditions")
        conditions = make_conditions(checked, networks, folder, plan)
        stop.check(folder)
        team.share(None)  # the others read what is in the folder now
        work = Work(job, folder, plan, networks, conditions, team, show, stop)
        steps = work.sample()
        work.finish_segments()
        show(0, 0, stage="joining")
        sheet = deliver(job, folder, sound, tracks, work.frames.count, plan)
    folder.event("finished", wall_s=round(time.monotonic() - began, 3))
    if steps:
        remember_speed(job, checked.weights, work.step_s())
    video_s = float(plan.video_frames / plan.fps)
    return Rendered(job.output, video_s, plan.video_frames, steps, time.monotonic() - began, sheet)


def run_follower(checked: Checked, folder: RenderFolder) -> None:
    """Run this process's windows of a render that process 0 leads, from the files that it laid ready, to the end."""
    job = checked.job
    with stopping(), no_grad_on(job):
        placement = decide(own_device(job.placement))
        team = join_team(placement.device)
        networks = LoadedNetworks().of(checked, placement)
        team.share(None)
        folder.look()
        torch.set_num_threads(folder.manifest().get("threads", torch.get_num_threads()))  # the bits of one process
        _, plan = decode_audio(checked, folder)
        conditions = make_conditions(checked, networks, folder, plan)
        saved = team.share(None)
        sampler, predictor = begin(job, plan, networks, conditions, saved, team)
        for finals in sampler.run():
            for final in finals:
                predictor.forget(final.window)
            word = team.tell(GO)
            if word != GO:
                sampler.gather()
            if word == STOP:
                return


def begin(
    job: RenderJob,
    plan: Plan,
    networks: Networks,
    conditions: Conditions,
    saved: frontier.Frontier,
    team: Team,
) -> tuple[Sampler, Predictor]:
    """Return the sampler as the saved frontier left it."""
    return make_sampler(
        networks.residency.use(networks.transformer),
        conditions,
        plan,
        job.render,
        windows=saved.windows,
        first=saved.first,
        precompute=networks.placement.memory in ("full", "model"),
        team=team,
    )


# -- The work: window steps, finals, checkpoints, segments ------------------------------------------------------------


class Work:
    """Window steps from the saved frontier on; what becomes final is saved, decoded and encoded while the rest goes on."""

    def __init__(
        self,
        job: RenderJob,
        folder: RenderFolder,
        plan: Plan,
        networks: Networks,
        conditions: Conditions,
        team: Team,
        show: Progress,
        stop: Stop,
    ) -> None:
        self.job, self.folder, self.plan, self.stop = job, folder, plan, stop
        self.networks, self.residency, self.team, self.show = networks, networks.residency, team, show
        tiling = Tiling() if job.placement.vae_tiling else None
        self.frames = Frames(folder, plan, job.render, networks.vae, tiling, job.frames, job.video)
        self.preview = f"{PREVIEW}{job.video.suffix}"
        self.missing = self.frames.missing()
        folder.valid(self.preview)  # a damaged one is reported and joined anew
        saved, self.write_from = self._where_to_begin()
        self.sampler, self.predictor = begin(job, plan, networks, conditions, team.share(saved), team)
        self.total = plan.count * job.render.steps
        self._step_s: list[float] = []
        self._preview_cost_s = self._preview_at = self._told_at = 0.0

    def _where_to_begin(self) -> tuple[frontier.Frontier, int]:
        """Return the state to go on from, and the first window whose final latents have to be written.

        When final latents that are still needed are lost, or the frontier is, sampling begins again so many windows
        earlier that what is missing to its left can't reach the first lost one: ``reach`` windows per step.
        """
        saved = frontier.load(self.folder)
        needed = sorted({window for segment in self.missing for window in self.frames.needed_windows(segment)})
        if self.folder.finished():  # and kept: made whole again, also where the video needs it no more
            needed = list(range(self.plan.count))
            self.folder.forget_damaged(frontier.FOLDER)
        lost = [window for window in needed if not self.folder.valid(window_file(window))]
        self.last_lost = lost[-1] if lost else -1
        if not lost:
            return frontier.Frontier({}, self.plan.count), self.plan.count
        if saved is not None and lost[0] >= saved.first:
            return saved, lost[0]
        origin = max(lost[0] - self.plan.reach * self.job.render.steps - 1, 0)
        if self.folder.listed("windows"):
            self.folder.event("again", window=origin, lost=lost[:8])
        self.folder.forget_all(self.folder.listed(frontier.FOLDER))
        return frontier.Frontier({}, origin), lost[0]

    def sample(self) -> int:
        """Run the window steps that are left; return their number."""
        saved_at = time.monotonic()
        if not self.sampler.progress.finished():
            self.show(0, 0, stage="sampling")
        began_with = done = self.sampler.progress.steps_done()
        began = time.monotonic()
        for finals in self.sampler.run(self.job.render.order):
            together, done = self.sampler.progress.steps_done() - done, self.sampler.progress.steps_done()
            self._step_s = [*self._step_s[-19:], (time.monotonic() - began) / together]
            for final in finals:
                self.predictor.forget(final.window)
                self._require_finite(final.window, final.latents)
                if final.window >= self.write_from:
                    save_final(self.folder, final)
                    self.folder.event("window done", window=final.window)
            due = time.monotonic() - saved_at >= self.job.render.checkpoint_every_s
            word = self.team.tell(STOP if self.stop.asked else SAVE if due else GO)
            if word != GO:
                self.sampler.gather()
                self.checkpoint()
                saved_at = time.monotonic()
            if word == STOP:
                self._interrupt()
            if finals:
                self._segments(finals[-1].window)
            self._report()
            began = time.monotonic()
            if finals and finals[-1].window >= self.last_lost and self.team.size == 1:
                break  # what is to the right is there already
        return done - began_with

    def step_s(self) -> float:
        """Return the seconds of a window step, over the last ones."""
        return sum(self._step_s) / max(len(self._step_s), 1)

    def checkpoint(self) -> None:
        """Save the windows in flight: only finite ones, since all that follows from others is lost."""
        for index, window in self.sampler.windows.items():
            self._require_finite(index, window.latents)
        frontier.save(self.folder, frontier.Frontier(self.sampler.windows, self.sampler.progress.first))
        self.folder.event("checkpoint", window_steps=self.sampler.progress.steps_done())

    def _require_finite(self, window: int, latents: Tensor) -> None:
        require_finite_latents(latents, window, self.job, self.plan, self.networks.files)

    def finish_segments(self) -> None:
        """Decode and encode what is still missing."""
        self._segments(self.plan.count - 1)

    def _segments(self, last_final: int) -> None:
        while self.missing and self.frames.needed_windows(self.missing[0]).stop - 1 <= last_final:
            self.residency.use(self.networks.vae)
            segment = self.missing.pop(0)
            self.frames.write_segment(segment, self._decoded)
            self.folder.event("segment", segment=segment)
            self._preview()
            if self.stop.asked and self.sampler.progress.finished():
                self._interrupt()  # nothing is in flight any more: what is missing is decoded again from the folder
        self.residency.use(self.networks.transformer)

    def _preview(self) -> None:
        """Join what is finished to a playable file, seldom enough that it costs less than a twentieth of the time."""
        if not self.job.render.preview or time.monotonic() - self._preview_at < max(20 * self._preview_cost_s, 10.0):
            return
        begin = time.monotonic()
        ready = [self.folder.path / segment_file(s, self.job.video) for s in range(self._segments_done())]
        if ready:
            part = self.folder.new_part(self.preview)
            manifest = self.folder.manifest()
            join(ready, part, None, self.job.video, marks.tags_of(manifest, self.job.video))
            marks.append_xmp(manifest, self.job.video, part)
            self.folder.adopt(part, self.preview)
        self._preview_at = time.monotonic()
        self._preview_cost_s = self._preview_at - begin

    def _decoded(self, pictures: int) -> None:
        """Report, now and then, how many pictures of the video are decoded."""
        if time.monotonic() - self._told_at < TELL_EVERY_S:
            return
        self._told_at = time.monotonic()
        progress = self.sampler.progress
        fraction = pictures / self.plan.video_frames if progress.finished() else progress.steps_done() / self.total
        video_s, of_s = (round(float(count / self.plan.fps), 2) for count in (pictures, self.plan.video_frames))
        self.show(0, 0, stage="decoding", fraction=round(fraction, 4), video_s=video_s, of_s=of_s)

    def _segments_done(self) -> int:
        return self.missing[0] if self.missing else self.frames.count

    def _report(self) -> None:
        done = self.sampler.progress.steps_done()
        step_s = self.step_s()
        latents = min(self._segments_done() * self.job.render.segment_latent_frames, self.plan.latent_frames)
        pictures = min(4 * (latents - 1) + 1 if latents else 0, self.plan.video_frames)
        video_s = float(pictures / self.plan.fps)
        left_s = step_s * (self.total - done)
        times = {"step_s": round(step_s, 4), "left_s": round(left_s, 1), "video_s": round(video_s, 2)}
        self.show(done, self.total, stage="sampling", **times)

    def _interrupt(self) -> None:
        done = self.sampler.progress.steps_done()
        self.stop.check(self.folder, f"{done} of {self.total} passes are saved")


# -- The finished video ---------------------------------------------------------------------------------------------


def deliver(
    job: RenderJob, folder: RenderFolder, sound: Sound | None, tracks: Sequence[SoftTrack], segments: int, plan: Plan
) -> Path | None:
    """Join segments, sound, subtitles and marks to the video, and put it in its place; return the contact sheet, if any."""
    names = [segment_file(segment, job.video) for segment in range(segments)]
    part = folder.new_part(f"video{job.video.suffix}")
    manifest = folder.manifest()
    join([folder.path / name for name in names], part, sound, job.video, marks.tags_of(manifest, job.video), tracks)
    marks.append_xmp(manifest, job.video, part)
    folder.hand_over(part, job.output)
    if job.render.contact_sheet_every_s is None:
        return None
    sheet = job.output.with_suffix(".jpg")
    part = folder.new_part("sheet.jpg")
    contact_sheet(job.output, part, job.render.contact_sheet_every_s, plan)
    folder.hand_over(part, sheet)
    return sheet
