"""The whole render of a job, top to bottom, one call per stage. READ THIS FILE FIRST."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from avatarctl.errors import Ended, InputFileError
from avatarctl.interrupts import Stop, stopping
from avatarctl.networks.full import is_full, is_main_memory
from avatarctl.networks.memory import Workload
from avatarctl.networks.placement import Placement, decide
from avatarctl.progress import Progress
from avatarctl.render.conditions import make_conditions
from avatarctl.render.deliver import deliver
from avatarctl.render.estimate import remember_speed
from avatarctl.render.folder import RenderFolder
from avatarctl.render.frontier import Frontier
from avatarctl.render.inputs import Checked, Rendered, plan_of
from avatarctl.render.networks import LoadedNetworks, Networks
from avatarctl.render.numbers import decided_by
from avatarctl.render.place import lower, place, try_decoding
from avatarctl.render.prepare import own_device
from avatarctl.render.processes import Processes
from avatarctl.render.sampling_loop import SamplingLoop, begin
from avatarctl.render.segments import Segments
from avatarctl.render.sound import decode_audio, start_of
from avatarctl.render.stop import check, no_grad_on
from avatarctl.render.subtitles import lay_out
from avatarctl.render.workload import workload_of
from avatarctl.sampling.team import TeamBroken
from avatarctl.sampling.windows import Plan


@dataclass
class Made:
    """What was computed: window steps, seconds of each over the last ones, segments of the video."""

    steps: int = 0
    step_s: float = 0.0
    segments: int = 0


def run(
    checked: Checked,
    folder: RenderFolder,
    show: Progress,
    loaded: LoadedNetworks | None = None,
    processes: Processes | None = None,
    passes: int = 0,
) -> Rendered:
    """Render inside a folder that is held and has its manifest, from wherever it stands, to the finished video.

    ``loaded``: networks of earlier renders in this process, which may serve again. ``processes``: those of a launcher, which
    join when sampling begins. ``passes``: how many there will be, as far as the recording tells before it is decoded.
    """
    job, began = checked.job, time.monotonic()
    folder.event("resumed" if folder.listed("windows") or folder.listed("frontier") else "started")
    loaded = loaded or LoadedNetworks()
    with stopping() as stop, no_grad_on(job):
        work, _ = workload_of(checked.weights, job.render, job.render.window, passes)
        placement = place(checked, folder, work, loaded, 1 if processes is None else processes.size)
        if processes is not None:
            processes.tell("placed", **decided_by(job, placement))
        show(0, 0, stage="sound")
        sound, plan = decode_audio(checked, folder, lambda: check(stop, folder))
        tracks = lay_out(job, folder, start_of(checked, folder), plan.video_frames / plan.fps)
        made = Made()
        while True:
            try:
                _make_pictures(checked, folder, plan, loaded.of(checked, placement), work, processes, show, stop, made)
                break
            except (RuntimeError, MemoryError) as error:
                if not may_step_down(error, placement, alone=processes is None):
                    raise
                lowered = lower(job, folder, placement, work, error)
            # Out of the handler: what the error's frames held on the device is free by now.
            loaded.clear()
            placement = lowered
            loaded.remember(checked, own_device(job.placement), work, placement)
        show(0, 0, stage="joining")
        sheet = deliver(job, folder, sound, tracks, made.segments, plan)
    folder.event("finished", wall_s=round(time.monotonic() - began, 3))
    if made.steps and processes is None:
        remember_speed(job, checked.weights, made.step_s)
    video_s = float(plan.video_frames / plan.fps)
    return Rendered(job.output, video_s, plan.video_frames, made.steps, time.monotonic() - began, sheet)


def _make_pictures(
    checked: Checked,
    folder: RenderFolder,
    plan: Plan,
    networks: Networks,
    work: Workload,
    processes: Processes | None,
    show: Progress,
    stop: Stop,
    made: Made,
) -> None:
    """Make conditions, sample and write segments, from where the folder stands; memory may run out and leave the rest."""
    job = checked.job
    show(0, 0, stage="loading")
    show(0, 0, stage="conditions")
    conditions = make_conditions(checked, networks, folder, plan)
    check(stop, folder)
    try_decoding(networks, work)
    with Segments(job, folder, plan, networks, show, stop) as segments:
        made.segments = segments.count
        loop = SamplingLoop(job, folder, plan, networks, conditions, segments, processes, show, stop)
        try:
            loop.run()
        finally:
            made.steps += loop.steps()
            made.step_s = loop.step_s()


def may_step_down(error: BaseException, placement: Placement, alone: bool) -> bool:
    """Return whether a render continues in a more frugal placement: in one process, on a GPU whose memory is full."""
    return placement.device.type == "cuda" and alone and is_full(error) and not is_main_memory(error)


def run_follower(checked: Checked, folder: RenderFolder, processes: Processes) -> None:
    """Run this process's windows of a render that process 0 leads, from the files that it laid ready, to the end."""
    job = checked.job
    if not folder.exists():
        processes.check_late()  # process 0 may have failed since, and a start that fails leaves no folder
        raise InputFileError(
            f"process {processes.rank}: {folder.path} is not to be seen here, expected the folder of process 0",
            "put it on a disk that all machines share: --work-dir",
        )
    with no_grad_on(job):
        work, _ = workload_of(checked.weights, job.render, job.render.window)
        placement = decide(own_device(job.placement), work, processes.hear("placed"))
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
