"""Estimate what a render will need from settings and the recording's length; loads nothing."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from fractions import Fraction
from statistics import median
from typing import Any

from filelock import FileLock, Timeout

from avatarctl.audio.source import AudioInfo
from avatarctl.networks.cards import Card
from avatarctl.networks.devices import COMPILE_FROM_PASSES
from avatarctl.networks.dims import WAN_VAE, VaeDims
from avatarctl.networks.header import read_header
from avatarctl.networks.memory import CUDA_CONTEXT_BYTES, Formats, Workload, estimate_of
from avatarctl.networks.tiling import small_tiling
from avatarctl.paths import cache_folder
from avatarctl.render.inputs import Checked, exact, plan_of
from avatarctl.render.machine import Here, Machine, of_card
from avatarctl.render.timing import Timing, time_of
from avatarctl.render.workload import workload_of
from avatarctl.sampling.passes import passes_of
from avatarctl.sampling.windows import SAMPLE_RATE_HZ, Plan
from avatarctl.settings.placement import PlacementSettings
from avatarctl.settings.render import RenderJob, RenderSettings
from avatarctl.weights import WeightFiles

SPEEDS = "speeds.json"
RECENT = 5  # renders whose speeds count
PATIENCE_S = 5.0  # with another process that notes its own


@dataclass(frozen=True)
class Estimate:
    """The plan in numbers. ``time_s`` None: nobody knows yet; ``basis`` says what a figure rests on.

    ``in_flight``: windows that are begun and needed at a time, in main memory. ``memory``, ``tiles``: the memory mode and
    the VAE's tiles that fit ``free_bytes`` (None: they were not asked for a device).
    ``times``: seconds of the parts of a calculated time.
    """

    video_s: float
    pictures: int
    windows: int
    window_steps: int
    passes: int
    steps_to_first_window: int
    cache_bytes: int
    least_bytes: int
    video_bytes: int
    in_flight: int
    in_flight_bytes: int
    memory_bytes: int
    memory_basis: str
    time_s: float | None
    time_basis: str
    memory: str = "full"
    tiles: str | None = None
    free_bytes: int | None = None
    times: dict[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return asdict(self)


def estimate(checked: Checked, samples: int | None = None, where: Card | Here | None = None) -> Estimate:
    """Estimate a job from its settings and the ``samples`` of its recording at 16 kHz (None: by its declared length).

    ``where``: calculate time and memory mode for a published GPU, or for this machine, which is measured for that; None: of
    the time only what earlier renders took.
    """
    job, settings = checked.job, checked.job.render
    plan = plan_of(settings, _samples(checked) if samples is None else samples)
    passes = passes_of(settings)
    window_steps = plan.count * settings.steps
    work, basis = workload_of(checked.weights, settings, plan.window, plan.count * passes.total)
    machine = _machine(job, work, where)
    peak = _peak(job, work, machine)
    timing = None if machine is None else time_of(plan, work, passes, machine, _vae(checked), settings.enlarge)
    known = None if isinstance(where, Card) else _read_speeds().get(speed_key(settings, job.placement, checked.weights))
    time_s, time_basis = _time(known, window_steps, timing, machine)
    width, height = settings.size
    track_bytes = _track_bytes(checked.audio, plan.samples)
    fit = None if machine is None else machine.fit
    return Estimate(
        video_s=float(plan.video_frames / plan.fps),
        pictures=plan.video_frames,
        windows=plan.count,
        window_steps=window_steps,
        passes=plan.count * passes.total,
        steps_to_first_window=first_window_steps(plan, settings.steps),
        video_bytes=job.video.about_bytes((width * settings.enlarge, height * settings.enlarge), plan.video_frames),
        cache_bytes=_cache_bytes(plan, settings) + track_bytes,
        least_bytes=plan.samples * 4 + track_bytes + plan.latent_frames * _frame_bytes(settings),
        in_flight=_windows_in_flight(plan, settings),
        in_flight_bytes=_windows_in_flight(plan, settings) * plan.window * _frame_bytes(settings) * _kept(settings),
        memory_bytes=peak,
        memory_basis=f"calculated {basis}",
        time_s=time_s,
        time_basis=time_basis,
        memory="full" if machine is None else machine.memory,
        tiles=None if fit is None or fit.tiling is None else fit.tiling.name(width, height),
        free_bytes=None if fit is None else fit.free_bytes,
        times=None if timing is None else {name: round(value, 3) for name, value in asdict(timing).items()},
    )


def _machine(job: RenderJob, work: Workload, where: Card | Here | None) -> Machine | None:
    if where is None:
        return None
    if isinstance(where, Card):
        return of_card(where, job.placement, work, COMPILE_FROM_PASSES)
    return where.machine(job.placement, work)


def _peak(job: RenderJob, work: Workload, machine: Machine | None) -> int:
    """Return the bytes at the peak on the device: as the machine places the render, else as far as the settings tell.

    Where the machine is unknown it is taken for a GPU, with CUDA's own context.
    """
    placement = job.placement
    if machine is not None and machine.fit is not None:
        return machine.fit.estimate.peak
    float8 = placement.weights_dtype == "float8"
    on_cpu = placement.device == "cpu" or machine is not None  # a GPU has a fit
    wide = placement.dtype == "float32" or (placement.dtype == "auto" and on_cpu)
    wide_vae = placement.vae_dtype == "float32" or (placement.vae_dtype == "auto" and on_cpu)
    formats = Formats(4 if wide else 2, 4 if wide_vae else 2, float8)
    memory = "full" if placement.memory == "auto" or on_cpu else placement.memory
    tiling = small_tiling(work.width, work.height) if placement.vae_tiling is True else None
    return estimate_of(work, formats, memory, tiling).peak + (0 if on_cpu else CUDA_CONTEXT_BYTES)


def _vae(checked: Checked) -> VaeDims:
    head = read_header(checked.weights.vae)
    return WAN_VAE if head is None else VaeDims.parse(head.dims)


def _time(
    known: dict[str, Any] | None, window_steps: int, timing: Timing | None, machine: Machine | None
) -> tuple[float | None, str]:
    """Return the seconds of a render and what they rest on: earlier renders, else a calculation."""
    if known is not None:
        basis = f"{known['step_s']:.3g} s per pass in {known['renders']} earlier renders with these settings"
        rest = 0.0 if timing is None else timing.total_s - timing.sampling_s
        return known["step_s"] * window_steps + rest, basis
    if timing is None or machine is None:
        return None, "no render like this was finished on this machine yet"
    return timing.total_s, machine.basis


def first_window_steps(plan: Plan, steps: int) -> int:
    """Count the window steps until the first window has had all its steps, in wavefront order."""
    from avatarctl.sampling.wavefront import Progress, next_window

    progress = Progress(plan, steps)
    count = 0
    while progress.done(0) < steps:
        progress.advance(next_window(progress))
        count += 1
    return count


def _samples(checked: Checked) -> int:
    settings = checked.job.render
    whole_s = checked.audio.duration_s
    if whole_s is None:
        from avatarctl.audio.decode import read_blocks

        rate, _, blocks = read_blocks(checked.job.audio, track=settings.audio_track)
        whole_s = sum(len(block) for block in blocks) / rate
    left_s = max(exact(round(whole_s, 6)) - exact(settings.start_s), Fraction(0))
    used_s = left_s if settings.duration_s is None else min(left_s, exact(settings.duration_s))
    return max(round(used_s * SAMPLE_RATE_HZ), 1)


def _windows_in_flight(plan: Plan, settings: RenderSettings) -> int:
    """Count the windows that are begun and still needed at a time, at most."""
    return min(plan.reach * (settings.steps - 1) + 1 + plan.reach, plan.count)


def _cache_bytes(plan: Plan, settings: RenderSettings) -> int:
    """Waveform, final latents, and three generations of the windows in flight (a third while it is written); no video."""
    frame = _frame_bytes(settings)
    in_flight = _windows_in_flight(plan, settings)
    return plan.samples * 4 + plan.latent_frames * frame + 3 * in_flight * plan.window * frame * _kept(settings)


def _kept(settings: RenderSettings) -> int:
    """Count what a window in flight holds: its latents, the solver's velocity before, the guidance that is used again."""
    return 1 + (settings.solver == "ab2") + (settings.guidance_reuse > 1)


def _frame_bytes(settings: RenderSettings) -> int:
    """Return the bytes of a latent frame as it is saved."""
    return 16 * (settings.size[0] // 8) * (settings.size[1] // 8) * 4


def _track_bytes(audio: AudioInfo, samples: int) -> int:
    """Return the bytes of the recording's own samples, in all their channels."""
    return samples * audio.rate_hz * audio.channels * 4 // SAMPLE_RATE_HZ


def speed_key(settings: RenderSettings, placement: PlacementSettings, weights: WeightFiles) -> str:
    """Name what decides the speed of a window step; how large the transformer is tells which one it is."""
    parts = (
        weights.transformer.stat().st_size,
        settings.size,
        settings.window,
        settings.guidance,
        placement.device,
        placement.dtype,
        placement.memory,
    )
    how = (placement.weights_dtype, placement.matmul_dtype, placement.attention, placement.compile)
    guided = (settings.guidance_interval, settings.guidance_reuse, settings.audio_scale == settings.text_scale)
    together = (settings.window_batch, os.environ.get("WORLD_SIZE", "1"))
    return json.dumps([str(part) for part in (*parts, *how, *guided, *together)])


def remember_speed(job: RenderJob, weights: WeightFiles, step_s: float) -> None:
    """Note the seconds per window step of a finished render, for later estimates."""
    key, folder = speed_key(job.render, job.placement, weights), cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Workers of a batch end at the same time: each adds to what the others noted.
        with FileLock(folder / f".{SPEEDS}.lock", timeout=PATIENCE_S):
            known = _read_speeds()
            before = known.get(key, {})
            # The median of the last few: one render beside another busy program is no measure.
            recent = [*before.get("recent", [before["step_s"]] if before else []), step_s][-RECENT:]
            known[key] = {"step_s": median(recent), "renders": before.get("renders", 0) + 1, "recent": recent}
            part = folder / f".{SPEEDS}.{os.getpid()}.part"
            part.write_text(json.dumps(known), encoding="utf-8")
            part.replace(folder / SPEEDS)
    except (OSError, Timeout):
        return  # an estimate less


def _read_speeds() -> dict[str, dict[str, Any]]:
    try:
        content = json.loads((cache_folder() / SPEEDS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
