"""Run window steps from where a render stands: finals are saved and written as segments, checkpoints are made meanwhile."""

from __future__ import annotations

import time

from torch import Tensor

from avatarctl.errors import AvatarError
from avatarctl.interrupts import Stop
from avatarctl.networks.full import is_full
from avatarctl.progress import Progress
from avatarctl.render import frontier
from avatarctl.render.checkpoints import Checkpoints
from avatarctl.render.finite import require_finite_latents
from avatarctl.render.folder import RenderFolder
from avatarctl.render.frames import save_final
from avatarctl.render.networks import Networks
from avatarctl.render.processes import Processes
from avatarctl.render.segments import Segments
from avatarctl.render.starting_point import find_starting_point
from avatarctl.render.stop import check
from avatarctl.sampling.denoise import Final, Sampler
from avatarctl.sampling.predict import Conditions, Predictor, batch_of, make_sampler
from avatarctl.sampling.team import Team, TeamBroken
from avatarctl.sampling.windows import Plan
from avatarctl.settings.render import RenderJob

SPEED_OVER = 20  # window steps whose mean is the speed that is told


def begin(
    job: RenderJob,
    plan: Plan,
    networks: Networks,
    conditions: Conditions,
    saved: frontier.Frontier,
    team: Team,
    batch: int,
) -> tuple[Sampler, Predictor]:
    """Return the sampler as the saved frontier left it; up to ``batch`` windows share a pass."""
    return make_sampler(
        networks.residency.use(networks.transformer),
        conditions,
        plan,
        job.render,
        windows=saved.windows,
        first=saved.first,
        precompute=networks.placement.memory in ("full", "model"),
        team=team,
        batch=batch,
    )


class SamplingLoop:
    """The window steps that are left of a render."""

    def __init__(
        self,
        job: RenderJob,
        folder: RenderFolder,
        plan: Plan,
        networks: Networks,
        conditions: Conditions,
        segments: Segments,
        processes: Processes | None,
        show: Progress,
        stop: Stop,
    ) -> None:
        self._job, self._folder, self._plan, self._networks = job, folder, plan, networks
        self._segments, self._processes, self._show, self._stop = segments, processes, show, stop
        self._start = find_starting_point(folder, plan, job.render.steps, segments.needed_windows())
        self._conditions = conditions
        self._team = Team()
        self._sampler, self._predictor = self._begin()
        self._total = plan.count * job.render.steps
        self._began_with = self._sampler.progress.steps_done()
        self._step_s: list[float] = []
        self._checkpoints = Checkpoints(folder, job.render.checkpoint_every_s)

    def _begin(self) -> tuple[Sampler, Predictor]:
        """Return the sampler; it shares windows with other processes, where there are any and something is left for them."""
        job, plan, networks, saved = self._job, self._plan, self._networks, self._start.saved
        transformer = networks.residency.use(networks.transformer)
        batch = batch_of(job.render, transformer, self._conditions, plan)
        if self._processes is not None and saved.first == plan.count:
            self._processes.end()
        elif self._processes is not None:
            self._processes.tell(
                "start", samples=plan.samples, first=saved.first, last_lost=self._start.last_lost, batch=batch
            )
            self._team = self._processes.join(lambda: check(self._stop, self._folder))
            try:
                self._team.share_windows(saved.windows)
            except TeamBroken as broken:
                raise self._processes.lost() from broken
        return begin(job, plan, networks, self._conditions, saved, self._team, batch)

    def run(self) -> int:
        """Run the window steps that are left, then write the segments that are left; return the number of steps."""
        if not self._sampler.progress.finished():
            self._show(0, 0, stage="sampling")
        with self._checkpoints:
            try:
                self._sample()
            except TeamBroken as broken:
                raise self._lost() from broken
        self._segments.finish()
        self._stop_if_asked()
        return self.steps()

    def steps(self) -> int:
        """Return the number of window steps that were run."""
        return self._sampler.progress.steps_done() - self._began_with

    def _sample(self) -> None:
        try:
            self._run_steps()
        except (RuntimeError, MemoryError) as error:
            if is_full(error):  # a step that fails leaves the windows as they were
                self._checkpoint(now=True)
            raise

    def _run_steps(self) -> None:
        progress = self._sampler.progress
        done, began = progress.steps_done(), time.monotonic()
        for finals in self._sampler.run(self._job.render.order):
            together, done = progress.steps_done() - done, progress.steps_done()
            self._step_s = [*self._step_s[1 - SPEED_OVER :], (time.monotonic() - began) / together]
            self._save(finals)
            due = self._checkpoints.due()
            # A signal that any process has got stops all of them, with the state of the same round; one that comes after
            # this line is for the next round.
            asked = self._team.agree(self._stop.signal)
            if asked or due:
                self._checkpoint(now=asked != 0)
            if asked:
                self._stop.signal = asked
                self._interrupt()
            self._segments.check()
            if finals:
                self._write_segments(finals[-1].window)
            self._report()
            began = time.monotonic()
            if finals and finals[-1].window >= self._start.last_lost:
                break  # what is to the right is there already

    def _lost(self) -> AvatarError:
        """Save the windows in flight, which are whole here, and return the error of a process that is gone."""
        assert self._processes is not None
        error = self._processes.lost()
        self._checkpoint(now=True)
        error.message += f"; {self._sampler.progress.steps_done()} of {self._total} passes are saved"
        return error

    def step_s(self) -> float:
        """Return the seconds of a window step, over the last ones."""
        return sum(self._step_s) / max(len(self._step_s), 1)

    def _save(self, finals: list[Final]) -> None:
        """Save the final latents of windows, where they aren't in the folder yet."""
        for final in finals:
            self._predictor.forget(final.window)
            self._require_finite(final.window, final.latents)
            if final.window >= self._start.write_from:
                save_final(self._folder, final)
                self._folder.event("window done", window=final.window)

    def _checkpoint(self, now: bool) -> None:
        """Save the windows in flight: only finite ones, since all that follows from others is lost."""
        for index, window in self._sampler.windows.items():
            self._require_finite(index, window.latents)
        progress = self._sampler.progress
        self._checkpoints.save(self._sampler.windows, progress.first, progress.steps_done(), now)

    def _require_finite(self, window: int, latents: Tensor) -> None:
        require_finite_latents(latents, window, self._job, self._plan, self._networks.files)

    def _write_segments(self, last_final: int) -> None:
        progress = self._sampler.progress
        sampled = 1.0 if progress.finished() else progress.steps_done() / self._total
        self._segments.write_ready(last_final, sampled)
        if not progress.finished():
            self._networks.residency.use(self._networks.transformer)

    def _stop_if_asked(self) -> None:
        """Stop once every window is final: what is missing is decoded from the folder."""
        if self._stop.asked:
            self._interrupt()

    def _report(self) -> None:
        done, step_s = self._sampler.progress.steps_done(), self.step_s()
        left_s = step_s * (self._total - done)
        times = {"step_s": round(step_s, 4), "left_s": round(left_s, 1), "video_s": round(self._segments.video_s(), 2)}
        self._show(done, self._total, stage="sampling", **times)

    def _interrupt(self) -> None:
        done = self._sampler.progress.steps_done()
        check(self._stop, self._folder, f"{done} of {self._total} passes are saved")
