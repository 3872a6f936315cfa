"""The whole render of a job, top to bottom, one call per stage. READ THIS FILE FIRST."""

from __future__ import annotations

import time

import torch

from avatarctl.errors import Ended, InputFileError
from avatarctl.interrupts import Stop, stopping
from avatarctl.networks.placement import decide
from avatarctl.progress import Progress
from avatarctl.render.conditions import make_conditions
from avatarctl.render.deliver import deliver
from avatarctl.render.estimate import remember_speed
from avatarctl.render.folder import RenderFolder
from avatarctl.render.frontier import Frontier
from avatarctl.render.inputs import Checked, Rendered, plan_of
from avatarctl.render.networks import LoadedNetworks
from avatarctl.render.numbers import settle
from avatarctl.render.prepare import own_device
from avatarctl.render.processes import Processes
from avatarctl.render.sampling_loop import SamplingLoop, begin
from avatarctl.render.segments import Segments
from avatarctl.render.sound import decode_audio, start_of
from avatarctl.render.stop import check, no_grad_on
from avatarctl.render.subtitles import lay_out
from avatarctl.sampling.team import TeamBroken


def run(
    checked: Checked,
    folder: RenderFolder,
    show: Progress,
    loaded: LoadedNetworks | None = None,
    processes: Processes | None = None,
) -> Rendered:
    """Render inside a folder that is held and has its manifest, from wherever it stands, to the finished video.

    ``loaded``: networks of earlier renders in this process, which may serve again. ``processes``: those of a launcher, which
    join when sampling begins.
    """
    job, began = checked.job, time.monotonic()
    folder.event("resumed" if folder.listed("windows") or folder.listed("frontier") else "started")
    with stopping() as stop, no_grad_on(job):
        placement = decide(own_device(job.placement))
        settle(job, folder, placement, 1 if processes is None else processes.size)
        show(0, 0, stage="sound")
        sound, plan = decode_audio(checked, folder, lambda: check(stop, folder))
        tracks = lay_out(job, folder, start_of(checked, folder), plan.video_frames / plan.fps)
        show(0, 0, stage="loading")
        networks = (loaded or LoadedNetworks()).of(checked, placement)
        show(0, 0, stage="conditions")
        conditions = make_conditions(checked, networks, folder, plan)
        check(stop, folder)
        segments = Segments(job, folder, plan, networks, show)
        loop = SamplingLoop(job, folder, plan, networks, conditions, segments, processes, show, stop)
        steps = loop.run()
        show(0, 0, stage="joining")
        sheet = deliver(job, folder, sound, tracks, segments.count, plan)
    folder.event("finished", wall_s=round(time.monotonic() - began, 3))
    if steps and processes is None:
        remember_speed(job, checked.weights, loop.step_s())
    video_s = float(plan.video_frames / plan.fps)
    return Rendered(job.output, video_s, plan.video_frames, steps, time.monotonic() - began, sheet)


def run_follower(checked: Checked, folder: RenderFolder, processes: Processes) -> None:
    """Run this process's windows of a render that process 0 leads, from the files that it laid ready, to the end."""
    job = checked.job
    if not folder.exists():
        raise InputFileError(
            f"process {processes.rank}: {folder.path} is not to be seen here, expected the folder of process 0",
            "put it on a disk that all machines share: --work-dir",
        )
    with no_grad_on(job):
        placement = decide(own_device(job.placement))
        networks = LoadedNetworks().of(checked, placement)
        networks.residency.use(networks.transformer)  # while process 0 makes ready what is told in `start`
        start = processes.hear("start")
        folder.look()
        torch.set_num_threads(folder.manifest().get("threads", torch.get_num_threads()))  # the bits of one process
        plan = plan_of(job.render, start["samples"])
        conditions = make_conditions(checked, networks, folder, plan)
        with stopping() as stop:
            team = processes.join(lambda: leave_on(stop))
            try:
                windows = team.share_windows({})
                saved = Frontier(windows, start["first"])
                sampler, predictor = begin(job, plan, networks, conditions, saved, team, start["batch"])
                for finals in sampler.run():
                    for final in finals:
                        predictor.forget(final.window)
                    if signal := team.agree(stop.signal):
                        raise processes.stopped(signal)
                    if finals and finals[-1].window >= start["last_lost"]:
                        return
            except TeamBroken as broken:
                raise processes.lost() from broken


def leave_on(stop: Stop) -> None:
    """End a process that has nothing to save, if it was asked to stop."""
    if stop.asked:
        raise Ended(128 + stop.signal)
