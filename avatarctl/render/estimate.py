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
from avatarctl.networks import memory
from avatarctl.networks.dims import TRANSFORMER_1_3B, WAN_VAE, TransformerDims, VaeDims
from avatarctl.networks.header import read_header
from avatarctl.paths import cache_folder
from avatarctl.render.inputs import Checked, exact, plan_of
from avatarctl.sampling.windows import SAMPLE_RATE_HZ, Plan
from avatarctl.settings.placement import PlacementSettings
from avatarctl.settings.render import RenderJob, RenderSettings
from avatarctl.weights import WeightFiles

SPEEDS = "speeds.json"
RECENT = 5  # renders whose speeds count
PATIENCE_S = 5.0  # with another process that notes its own
PASSES = {"cfg": 3, "native": 3, "none": 1}


@dataclass(frozen=True)
class Estimate:
    """The plan in numbers. ``time_s`` None: nothing was rendered like this here yet; ``basis`` says what it rests on."""

    video_s: float
    pictures: int
    windows: int
    window_steps: int
    passes: int
    steps_to_first_window: int
    cache_bytes: int
    least_bytes: int
    video_bytes: int
    memory_bytes: int
    memory_basis: str
    time_s: float | None
    time_basis: str

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return asdict(self)


def estimate(checked: Checked, samples: int | None = None) -> Estimate:
    """Estimate a job from its settings and the ``samples`` of its recording at 16 kHz (None: by its declared length)."""
    job, settings = checked.job, checked.job.render
    plan = plan_of(settings, _samples(checked) if samples is None else samples)
    guided = len(settings.guidance) if isinstance(settings.guidance, tuple) else PASSES[settings.guidance]
    window_steps = plan.count * settings.steps
    known = _read_speeds().get(speed_key(settings, job.placement, checked.weights))
    peak, basis = _memory(job, checked.weights, plan.window)
    reach = plan.reach
    width, height = settings.size
    track_bytes = _track_bytes(checked.audio, plan.samples)
    return Estimate(
        video_s=float(plan.video_frames / plan.fps),
        pictures=plan.video_frames,
        windows=plan.count,
        window_steps=window_steps,
        passes=window_steps * guided,
        steps_to_first_window=first_window_steps(plan, settings.steps),
        video_bytes=job.video.about_bytes((width * settings.enlarge, height * settings.enlarge), plan.video_frames),
        cache_bytes=_cache_bytes(plan, settings, reach) + track_bytes,
        least_bytes=plan.samples * 4 + track_bytes + plan.latent_frames * _frame_bytes(settings),
        memory_bytes=peak,
        memory_basis=basis,
        time_s=None if known is None else known["step_s"] * window_steps,
        time_basis=(
            "no render like this was finished on this machine yet"
            if known is None
            else f"{known['step_s']:.3g} s per pass in {known['renders']} earlier renders with these settings"
        ),
    )


def _memory(job: RenderJob, weights: WeightFiles, window: int) -> tuple[int, str]:
    """Return the bytes at the peak, and what they were calculated for: the sizes in the files, or the released ones."""
    heads = [read_header(path) for path in (weights.transformer, weights.vae, weights.speech_encoder)]
    dims, width = TRANSFORMER_1_3B, WAN_VAE.base_dim
    vae, speech = memory.PARAMETERS["vae"], memory.PARAMETERS["speech encoder"]
    basis = "calculated for the 1.3B network"
    if heads[0] is not None:
        dims = TransformerDims.parse(heads[0].dims)
        basis = f"calculated for this transformer of {heads[0].parameters / 1e6:.1f} million weights"
    if heads[1] is not None and heads[2] is not None:
        width = VaeDims.parse(heads[1].dims).base_dim
        vae, speech = heads[1].parameters, heads[2].parameters
    placement = job.placement
    peak = memory.estimate(
        dims,
        *job.render.size,
        window,
        placement.memory,
        value_bytes=4 if placement.dtype == "float32" or placement.device == "cpu" else 2,
        float8=placement.weights_dtype == "float8",
        on_gpu=placement.device != "cpu",
        tile_px=256 if placement.vae_tiling else None,
        vae=vae,
        speech=speech,
        decoder_width=width,
    ).peak
    return peak, basis


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


def _cache_bytes(plan: Plan, settings: RenderSettings, reach: int) -> int:
    """Waveform, final latents, and three generations of the windows in flight (a third while it is written); no video."""
    frame = _frame_bytes(settings)
    in_flight = min(reach * (settings.steps - 1) + 1 + reach, plan.count)
    return plan.samples * 4 + plan.latent_frames * frame + 3 * in_flight * plan.window * frame


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
    return json.dumps([str(part) for part in (*parts, placement.weights_dtype, placement.attention, placement.compile)])


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
