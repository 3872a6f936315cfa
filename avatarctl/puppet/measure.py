"""Measure one rendered video of a held-out voice and face; results are cached in a file."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from avatarctl import durable
from avatarctl.audio.speak import RATE_HZ
from avatarctl.evaluation.identity import colour_distance, nearest
from avatarctl.evaluation.sync import correlation, sync
from avatarctl.evaluation.windows import border_jumps, border_pictures
from avatarctl.progress import showing
from avatarctl.puppet.dataset import EVALUATION_SEED
from avatarctl.puppet.draw import Identity, Pose, draw, mouth_box
from avatarctl.puppet.face import MEASURES, face_from_frames, still_mask
from avatarctl.puppet.mouth import mouth_from_audio, mouth_from_frames
from avatarctl.puppet.pack import write_wave
from avatarctl.puppet.voice import Kind, make_voice
from avatarctl.puppet.world2 import identity as second_face
from avatarctl.puppet.world2.measure import measure as second_measure
from avatarctl.puppet.world2.portrait import draw as second_draw
from avatarctl.puppet.world2.voice import make_voice as second_voice
from avatarctl.render import render
from avatarctl.render.inputs import plan_of
from avatarctl.sampling.windows import Plan
from avatarctl.settings.placement import PlacementSettings
from avatarctl.settings.render import RenderJob, RenderSettings
from avatarctl.weights import find_weights, fingerprint

LOOK = ("bowler", "glasses")
# How the measurements are made: another number makes kept ones be made again.
VERSION = 2
# Settings are chosen by these pairs, never by the held-out ones: faces and voices of their own, in training languages.
TUNING_SEED = EVALUATION_SEED + 2**30
FACES = 20  # that a rendered face is told apart from
SETTLED = 5  # pictures after which a look that the reference lacks has to be there


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
    return Pair(f"tuning-{number:02d}", TUNING_SEED + number, "singing" if number == 5 else "speech", 8.0, False)


@dataclass(frozen=True)
class Bench:
    """Where measurements are made: the weights, the LoRAs and the device that all share, the folder that keeps them."""

    folder: Path
    weights: Path
    placement: PlacementSettings
    lora: tuple[tuple[Path, float], ...] = ()
    world: int = 1  # whose faces and voices

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
        **({} if bench.world == 1 else {"world": bench.world}),
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
    voice, reference, measure_frames = subject(bench.world, pair, settings)
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
    with showing("none") as silent:
        done = render(job, force=(job.output.exists() and not job.folder.exists()), show=silent)
    assert done is not None, "no launcher"
    frames = read_pictures(work / "frames")
    found = {"wall_s": round(done.wall_s, 3), **measure_frames(frames)}
    shutil.rmtree(work)
    return found


def subject(
    world: int, pair: Pair, settings: RenderSettings
) -> tuple[NDArray[np.float32], NDArray[np.uint8], Callable[[NDArray[np.uint8]], dict[str, Any]]]:
    """Return a pair's voice, its reference picture, and what measures pictures of it."""
    size = settings.size[0]
    if world == 2:
        who, spoken = (
            second_face.Identity.of(pair.seed),
            second_voice(pair.seed, pair.duration_s, pair.kind, pair.held_out),
        )

        def measure_second(frames_THWC: NDArray[np.uint8]) -> dict[str, Any]:
            plan = plan_of(settings, round(len(frames_THWC) * RATE_HZ / settings.fps))
            return {**second_measure(frames_THWC, who, spoken), "borders": _borders(frames_THWC, plan, None)}

        return spoken.samples, second_draw(who, second_face.Pose(), size), measure_second
    voice = make_voice(pair.seed, pair.duration_s, pair.kind, evaluation=pair.held_out)
    reference = draw(Identity.of(pair.seed), Pose(), size)
    return voice, reference, lambda frames_THWC: measure(frames_THWC, voice, pair.seed, settings)


def _borders(frames_THWC: NDArray[np.uint8], plan: Plan, still_HW: NDArray[np.bool_] | None) -> dict[str, float] | None:
    """Return jumps at window borders, of whole pictures and of what stays still in them; None for a single window."""
    if not border_pictures(plan):
        return None
    whole = border_jumps(frames_THWC, plan)
    still = {} if still_HW is None else {"still": border_jumps(frames_THWC, plan, still_HW).ratio}
    return {"count": whole.count, "whole": whole.ratio, **still}


def read_pictures(folder: Path) -> NDArray[np.uint8]:
    """Return the pictures of a folder of PNG files, in order, (T, H, W, 3)."""
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))])


def measure(
    frames_THWC: NDArray[np.uint8], voice_T: NDArray[np.float32], seed: int, settings: RenderSettings
) -> dict[str, Any]:
    """Measure pictures of the face of ``seed`` that speaks ``voice``: sync, identity, the look, window borders."""
    size, fps = settings.size[0], settings.fps
    count = len(frames_THWC)
    plan = plan_of(settings, round(count * RATE_HZ / fps))
    expected, expected_width = mouth_from_audio(voice_T, count, fps)
    opening, width = mouth_from_frames(frames_THWC)
    follows = sync(opening, expected)
    mask = still_mask(size)
    reference = draw(Identity.of(seed), Pose(), size)
    colour = colour_distance(frames_THWC, reference, mask)
    shape = face_from_frames(frames_THWC)
    away = np.abs(shape - face_from_frames(reference[None])[0]) * size
    seen = np.isfinite(away).all(1)
    faces = np.stack([reference, *(draw(Identity.of(seed + other), Pose(), size) for other in range(1, FACES))])
    return {
        "correlation": follows.correlation,
        "lag": follows.lag,
        "amplitude": follows.amplitude,
        "width_correlation": correlation(width, expected_width),
        "colour": float(colour.mean()),
        "geometry_px": float(away[seen].mean()) if seen.any() else None,
        "geometry_of": {n: float(away[seen, i].mean()) if seen.any() else None for i, n in enumerate(MEASURES)},
        "nearest_of_20_faces": nearest(frames_THWC, faces, mask) == 0,
        "look": look_distance(frames_THWC[SETTLED:], seed),
        "borders": _borders(frames_THWC, plan, mask),
        "opening": _rounded(opening),
        "expected": _rounded(expected),
        "colour_curve": _rounded(colour),
        "geometry_curve": _rounded(np.where(seen, away.mean(1), np.nan)),
    }


def look_distance(frames_THWC: NDArray[np.uint8], seed: int) -> float:
    """Return how far pictures are from the face with bowler and glasses, in grey levels, where these change the face."""
    size = frames_THWC.shape[1]
    bare, dressed = (draw(Identity.of(seed, look), Pose(), size) for look in ((), LOOK))
    changed = np.abs(dressed.astype(int) - bare).mean(2) > 8
    left, top, right, bottom = mouth_box(size)
    changed[top:bottom, left:right] = False
    return float(colour_distance(frames_THWC, dressed, changed).mean())


def mean_of(found: Sequence[Mapping[str, Any]], name: str) -> float:
    """Return the mean of a measurement over those that have it."""
    values = [float(each[name]) for each in found if each[name] is not None]
    return float(np.mean(values)) if values else float("nan")


def _rounded(values: NDArray[np.float64]) -> list[float | None]:
    return [round(float(value), 4) if np.isfinite(value) else None for value in values]
