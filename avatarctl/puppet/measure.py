"""Measure one rendered video of a held-out voice and face; results are cached in a file."""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from avatarctl import durable
from avatarctl.audio.speak import RATE_HZ
from avatarctl.evaluation.windows import border_jumps, border_pictures
from avatarctl.progress import showing
from avatarctl.puppet.folders import EVALUATION_SEED
from avatarctl.puppet.pack import write_wave
from avatarctl.puppet.voice import Kind
from avatarctl.puppet.world.identity import Identity, Pose
from avatarctl.puppet.world.measure import measure
from avatarctl.puppet.world.portrait import draw
from avatarctl.puppet.world.voice import make_voice
from avatarctl.render import render
from avatarctl.render.inputs import plan_of
from avatarctl.sampling.windows import Plan
from avatarctl.settings.placement import PlacementSettings
from avatarctl.settings.render import RenderJob, RenderSettings
from avatarctl.weights import find_weights, fingerprint

# How the measurements are made: another number makes kept ones be made again.
VERSION = 4
# Settings are chosen by these pairs, never by the held-out ones: faces and voices of their own, in training languages.
TUNING_SEED = EVALUATION_SEED + 2**30


@dataclass(frozen=True)
class Pair:
    """A face and a voice, each told by its seed."""

    name: str
    seed: int
    kind: Kind
    duration_s: float
    held_out: bool


def held_out(number: int) -> Pair:
    """Return one of the pairs that are evaluated: every seventh one sings."""
    return Pair(f"pair-{number:02d}", EVALUATION_SEED + number, "singing" if number % 7 == 6 else "speech", 5.0, True)


def for_tuning(number: int) -> Pair:
    """Return one of the pairs that settings are compared with: eight seconds, three windows."""
    return Pair(f"tuning-{number:02d}", TUNING_SEED + number, "singing" if number == 3 else "speech", 8.0, False)


@dataclass(frozen=True)
class Bench:
    """Where measurements are made: the weights, the LoRAs and the device that all share, the folder that keeps them."""

    folder: Path
    weights: Path
    placement: PlacementSettings
    lora: tuple[tuple[Path, float], ...] = ()

    def made_with(self) -> Mapping[str, Any]:
        """Return the checksums of what renders."""
        files = find_weights(self.weights, (64, 64), "auto").by_role()
        loras = [(f"lora {i}", path) for i, (path, _) in enumerate(self.lora)]
        sums = {name: entry["sha256"] for name, entry in fingerprint([*files.items(), *loras]).items()}
        return {"weights": sums, "scales": [scale for _, scale in self.lora]}


def measured(bench: Bench, pair: Pair, settings: RenderSettings) -> dict[str, Any]:
    """Render a pair and measure it, or give what was measured before with the same weights and settings."""
    identity = {
        "version": VERSION,
        "pair": asdict(pair),
        "settings": settings.model_dump(mode="json"),
        **bench.made_with(),
    }
    key = hashlib.sha256(durable.to_json(identity)).hexdigest()[:16]
    kept = bench.folder / "measured" / f"{pair.name}-{key}.json"
    found = durable.unsealed(kept)
    if found is None:
        found = {**_render(bench, pair, settings, key), "made_of": identity}
        durable.replace(kept, durable.sealed(found))
    return found


def _render(bench: Bench, pair: Pair, settings: RenderSettings, key: str) -> dict[str, Any]:
    work = bench.folder / "work" / f"{pair.name}-{key}"
    videos = bench.folder / "videos"
    for folder in (work, videos):
        folder.mkdir(parents=True, exist_ok=True)
    voice, reference, measure_frames = subject(pair, settings)
    write_wave(work / "voice.wav", voice)
    Image.fromarray(reference).save(work / "picture.png")
    job = RenderJob(
        image=work / "picture.png",
        audio=work / "voice.wav",
        output=videos / f"{pair.name}-{key}.mp4",
        frames=work / "frames",
        work_dir=work / "render",
        weights=bench.weights,
        lora=bench.lora,
        render=settings,
        placement=bench.placement,
    )
    with showing("none") as silent, warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*knows faces drawn in its own style alone")  # it is one
        done = render(job, force=(job.output.exists() and not job.folder.exists()), show=silent)
    assert done is not None, "no launcher"
    frames = read_pictures(work / "frames")
    found = {"wall_s": round(done.wall_s, 3), **measure_frames(frames)}
    shutil.rmtree(work)
    return found


def subject(
    pair: Pair, settings: RenderSettings
) -> tuple[NDArray[np.float32], NDArray[np.uint8], Callable[[NDArray[np.uint8]], dict[str, Any]]]:
    """Return a pair's voice, its reference picture, and what measures pictures of it."""
    who, spoken = Identity.of(pair.seed), make_voice(pair.seed, pair.duration_s, pair.kind, pair.held_out)

    def measure_frames(frames_THWC: NDArray[np.uint8]) -> dict[str, Any]:
        plan = plan_of(settings, round(len(frames_THWC) * RATE_HZ / settings.fps))
        return {**measure(frames_THWC, who, spoken), "borders": _borders(frames_THWC, plan)}

    return spoken.samples, draw(who, Pose(), settings.size[0]), measure_frames


def _borders(frames_THWC: NDArray[np.uint8], plan: Plan) -> dict[str, float] | None:
    """Return the jumps at window borders; None for a single window."""
    if not border_pictures(plan):
        return None
    whole = border_jumps(frames_THWC, plan)
    return {"count": whole.count, "whole": whole.ratio}


def read_pictures(folder: Path) -> NDArray[np.uint8]:
    """Return the pictures of a folder of PNG files, in order, (T, H, W, 3)."""
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))])
