"""How near few passes come to a fine render: distance to a reference of many steps against passes, with intervals.

    python -m benchmarks.fewer_steps --output table --pairs 3                # the embedded avatar, audio scales 2, 3, 5: hours
    python -m benchmarks.fewer_steps --output table --weights NETS --pairs 5 --scales 3
    python -m benchmarks.fewer_steps --output table --scales 3 --lora students/2-steps-8 --lora students/3-steps-4 --measure

Held-out faces and voices of the drawn world, each of several windows; noise by seed. Distance: RMS difference of the latents
(deviation 1) from ab2 with as many steps as --reference, guided throughout at the same audio scale. Every render is kept
in OUTPUT and isn't made again; OUTPUT/table.md has the table, OUTPUT/table.json all numbers. Intervals: 95 %, bootstrap over
(pair, seed). Students (--lora) are rendered as their files say. --measure also decodes, and measures lips, colours, motion.
Several processes share the work as --first with --pairs, --seeds and --scales say, each in an OUTPUT of its own; the folders
latents and measured of all, copied into one, make the whole table.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from avatarctl import durable
from avatarctl.networks import checkpoints, weight_dims
from avatarctl.networks.adapters import load_merged
from avatarctl.networks.vae import decode_stream
from avatarctl.paths import embedded_avatar
from avatarctl.puppet.folders import EVALUATION_SEED
from avatarctl.puppet.measure import VERSION, Pair, subject
from avatarctl.puppet.pack import write_wave
from avatarctl.render.frames import to_pictures
from avatarctl.sampling.passes import passes_of
from avatarctl.sampling.predict import sample_latents
from avatarctl.settings.presets import resolve
from avatarctl.settings.render import AllSettings, RenderSettings
from avatarctl.settings.student import FOLLOWED, student_of
from avatarctl.settings.values import lora_file, parse_lora
from avatarctl.training.checkpoints import load_tensors, save_tensors
from avatarctl.training.conditions import Ready, Video, load_conditions, prepare_conditions
from avatarctl.weights import checksum, find_weights
from benchmarks import student_gates

FIRST_PAIR = 6000  # of held-out faces and voices; others are measured by `avatarctl puppet evaluate`
DRAWS = 2000  # of the bootstrap
LATE = {"guidance_interval": (0.0, 0.9)}
UNGUIDED = {"guidance": "none", "guidance_interval": None}
# Rows of the table: what is changed of the preset's settings.
ROWS: dict[str, dict[str, Any]] = {
    "Euler 50": {"steps": 50},
    "Euler 25": {"steps": 25},
    "Euler 16": {"steps": 16},
    "Euler 8": {"steps": 8},
    "Euler 8, uniform": {"steps": 8, "schedule": "uniform"},
    "Euler 4, uniform": {"steps": 4, "schedule": "uniform"},
    "ab2 25": {"steps": 25, "solver": "ab2"},
    "ab2 25, interval [0, 0.9]": {"steps": 25, "solver": "ab2", **LATE},
    "ab2 16, interval [0, 0.9]": {"steps": 16, "solver": "ab2", **LATE},
    "ab2 19": {"steps": 19, "solver": "ab2"},  # as many passes as 25 steps in that interval
    # Of the schedule alone: shift 1 spends as many steps at low noise as at high noise.
    "ab2 19, shift 1": {"steps": 19, "solver": "ab2", "shift": 1.0},
    "ab2 12, shift 1": {"steps": 12, "solver": "ab2", "shift": 1.0},
    "Euler 8, uniform, shift 1": {"steps": 8, "schedule": "uniform", "shift": 1.0},
    "unguided 8, uniform": {"steps": 8, "schedule": "uniform", **UNGUIDED},
    "unguided 4, uniform": {"steps": 4, "schedule": "uniform", **UNGUIDED},
}
# (row, at most so many times the distance of, this row): at audio scales up to 3, and above.
GOALS = (("ab2 25, interval [0, 0.9]", "Euler 50", 1.5, 1.6), ("ab2 19, shift 1", "Euler 50", 1.5, 1.6))


@dataclass(frozen=True)
class Subject:
    """A held-out pair: its conditions, and what measures pictures of it."""

    name: str
    ready: Ready
    measure: Any


def main(argv: Sequence[str] | None = None) -> None:
    """Render what is missing, and write the table."""
    asked = _parsed(argv)
    settings = _settings(asked)
    files = find_weights(asked.weights, settings.size, "auto")
    rows = {name: ROWS[name] for name in ROWS if not asked.rows or name in asked.rows}
    students = {}
    for text in asked.lora:
        name, scale = parse_lora(text)
        path = lora_file(Path(name))
        told = student_of(path) or {}
        own = {key: told[key] for key in FOLLOWED if told.get(key) is not None} | {"guidance_interval": None}
        strength = f":{scale:g}" if scale != 1 else ""
        shown = f"student {Path(name).name}{strength}"
        if shown in students:  # the same stage of another run
            shown = f"student {name}{strength}"
        students[shown] = (path, scale, own, told.get("steps"))
    cells = []
    subjects = list(_subjects(asked, settings, files))
    models: dict[str, Any] = {}
    for scale in asked.scales:
        fine = {"steps": asked.reference, "solver": "ab2", "schedule": "uniform", "audio_scale": scale}
        for who in subjects:
            for seed in asked.seeds:
                base = settings.model_copy(update={"audio_scale": scale, "seed": seed})
                finest = base.model_copy(update=fine)
                reference = _latents(asked, files, models, who, finest, None)
                cell = {"scale": scale, "pair": who.name, "seed": seed}
                if asked.measure:
                    cells.append(_cell(asked, files, "reference", finest, reference, None, who, cell))
                for name, changes in rows.items():
                    changed = base.model_copy(update=changes)
                    found = _latents(asked, files, models, who, changed, None)
                    cells.append(_cell(asked, files, name, changed, found, reference[0], who, cell))
                for name, (path, weight, own, steps) in students.items():
                    changed = base.model_copy(update={"steps": 8, "schedule": "uniform", **own})
                    found = _latents(asked, files, models, who, changed, (path, weight))
                    made = _cell(asked, files, name, changed, found, reference[0], who, cell)
                    # One of guidance has no number of steps, and no goals of its own.
                    cells.append({**made, "student": steps or 0})
                print(f"audio scale {scale:g}, {who.name}, seed {seed}: done", flush=True)
    text = table(cells, asked.scales)
    durable.replace(asked.output / "table.json", durable.to_json({"cells": cells}))
    durable.replace(asked.output / "table.md", text.encode())
    print(text)


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=embedded_avatar() / "weights")
    parser.add_argument("--preset", default="puppet", help="what else holds: size, text scale, overlap")
    parser.add_argument("--size", help="such as 128x128, else the preset's")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="number of the first pair")
    parser.add_argument("--device", default="cpu", help="such as cuda: of the renders; lips are measured on the CPU")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each: 8 are three windows")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--scales", type=float, nargs="+", default=[2.0, 3.0, 5.0])
    parser.add_argument("--reference", type=int, default=100, help="steps of the reference")
    parser.add_argument("--rows", nargs="+", default=[], choices=tuple(ROWS), metavar="ROW")
    parser.add_argument("--lora", action="append", default=[], help="student, as FILE, RUN or FILE:SCALE")
    parser.add_argument("--measure", action="store_true")
    return parser.parse_args(argv)


def _settings(asked: argparse.Namespace) -> RenderSettings:
    values, _ = resolve(AllSettings.model_fields, asked.preset, {"size": asked.size})
    made = AllSettings.model_validate({name: value for name, value in values.items() if name != "lora"})
    return made.part(RenderSettings).model_copy(
        update={"guidance": "cfg", "guidance_interval": None, "schedule": "released", "fit": "cover"}
    )


def _subjects(asked: argparse.Namespace, settings: RenderSettings, files: Any) -> Iterator[Subject]:
    """Return the held-out pairs; their conditions are computed once."""
    videos, measures = [], []
    for number in range(asked.first, asked.first + asked.pairs):
        pair = Pair(f"pair-{number:02d}", EVALUATION_SEED + FIRST_PAIR + number, "speech", asked.seconds, True)
        voice, picture, measure = subject(pair, settings)
        folder = asked.output / "pairs" / f"{pair.name}-{asked.seconds:g}-{settings.size[0]}"
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "picture.png").exists():
            write_wave(folder / "voice.wav", voice)
            Image.fromarray(picture).save(folder / "picture.png")
        videos.append(Video(number, folder / "picture.png", folder / "voice.wav", settings, files))
        measures.append(measure)
    text_len = weight_dims.transformer_dims(files.transformer).text_len
    prepare_conditions(videos, asked.output, text_len, torch.device(asked.device))
    for video, measure in zip(videos, measures, strict=True):
        yield Subject(video.image.parent.name, load_conditions(video, asked.output, text_len), measure)


def _latents(
    asked: argparse.Namespace, files: Any, models: dict[str, Any], who: Subject, settings: RenderSettings,
    lora: tuple[Path, float] | None,
) -> tuple[Tensor, str]:  # fmt: skip
    """Return the final latents of a render (1, C, L, H, W), made or kept, and the name under which they are kept."""
    used = f"{checksum(lora[0])}:{lora[1]}" if lora else ""
    told = [who.name, settings.model_dump_json(), checksum(files.transformer), used, asked.device]
    key = hashlib.sha256("\n".join(told).encode()).hexdigest()[:20]
    kept = asked.output / "latents" / f"{key}.safetensors"
    if not kept.exists():
        if used not in models:
            merged = load_merged(files.transformer, [lora] if lora else [], torch.float32)[0]
            models[used] = merged.eval().to(asked.device)
        began = time.monotonic()
        with torch.no_grad():
            found = sample_latents(models[used], who.ready.conditions(), who.ready.plan, settings)
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(kept, {"latents": found, "seconds": torch.tensor(time.monotonic() - began)})
    return load_tensors(kept)["latents"], key


def _cell(
    asked: argparse.Namespace, files: Any, name: str, settings: RenderSettings, made: tuple[Tensor, str],
    reference: Tensor | None, who: Subject, cell: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Return what is measured of a render: its distance from the reference in each window, and of the whole."""
    latents, key = made
    found: dict[str, Any] = {**cell, "row": name, "passes": passes_of(settings).total}
    if reference is not None:
        error = (latents - reference) ** 2
        found["windows"] = [
            float(error[:, :, window.start : window.stop].mean().sqrt()) for window in who.ready.plan.windows()
        ]
        found["distance"] = float(error.mean().sqrt())
    if asked.measure:
        kept = asked.output / "measured" / f"{key}-{checksum(files.vae)[:12]}-{VERSION}.json"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            durable.replace(kept, durable.to_json(_measured(files, latents, who)))
        found["measured"] = durable.read_json(kept)
    return found


@torch.no_grad()
def _measured(files: Any, latents: Tensor, who: Subject) -> dict[str, Any]:
    vae = checkpoints.load_vae(files.vae, dtype=torch.float32).eval()
    frames = np.concatenate([to_pictures(part) for part in decode_stream(vae, latents.split(1, dim=2))])
    frames = frames[: who.ready.plan.video_frames]
    motion = float(np.sqrt((np.diff(frames.astype(np.float64), axis=0) ** 2).mean()))
    return {**who.measure(frames), "motion": motion}


def interval(clusters: Sequence[Sequence[float]], below: Sequence[Sequence[float]] | None = None) -> list[float]:
    """Return the mean over all windows, or its ratio to another row's, and its 95 % interval by resampling clusters."""
    generator = np.random.default_rng(0)

    def value(which: Any) -> float:
        above = np.concatenate([clusters[i] for i in which]).mean()
        return float(above if below is None else above / np.concatenate([below[i] for i in which]).mean())

    count = len(clusters)
    drawn = [value(generator.integers(count, size=count)) for _ in range(DRAWS)]
    return [value(range(count)), *(float(np.quantile(drawn, q)) for q in (0.025, 0.975))]


def table(cells: Sequence[Mapping[str, Any]], scales: Sequence[float]) -> str:
    """Return the tables as Markdown, and which goals are reached."""
    lines = []
    for scale in scales:
        here = [cell for cell in cells if cell["scale"] == scale and "windows" in cell]
        by_row: dict[str, list[Mapping[str, Any]]] = {}
        for cell in here:
            by_row.setdefault(str(cell["row"]), []).append(cell)
        windows = {name: [cell["windows"] for cell in found] for name, found in by_row.items()}
        count = sum(len(each) for each in next(iter(windows.values())))
        lines += [f"Audio scale {scale:g}: {count} windows, {len(next(iter(windows.values())))} renders", ""]
        lines += ["| | passes a window | distance (95 %) | of Euler 50's |", "|---|---|---|---|"]
        for name, found in by_row.items():
            middle, low, high = interval(windows[name])
            ratio = ""
            if "Euler 50" in windows:
                ratio = "{:.2f} ({:.2f} to {:.2f})".format(*interval(windows[name], windows["Euler 50"]))
            lines.append(f"| {name} | {found[0]['passes']} | {middle:.4f} ({low:.4f} to {high:.4f}) | {ratio} |")
        lines += [
            "",
            *_goals(scale, by_row, windows),
            *student_gates.tables([c for c in cells if c["scale"] == scale]),
            "",
        ]
    return "\n".join(lines)


def _goals(scale: float, by_row: Mapping[str, Any], windows: Mapping[str, Any]) -> list[str]:
    asked: list[tuple[str, str, float, float | None]] = []
    for name, other, low, high in GOALS:
        if name in windows:
            asked.append((name, other, low if scale <= 3 else high, None))
    for name, found in by_row.items():
        asked += [(name, *goal) for goal in student_gates.DISTANCES.get(found[0].get("student", 0), ())]
    lines = []
    for name, other, most, most_of_each in asked:
        if other not in windows:
            continue
        middle, low, high = interval(windows[name], windows[other])
        pairs = student_gates.by_pair(by_row[name], by_row[other])
        reached = middle <= most and (most_of_each is None or max(pairs) <= most_of_each)
        each = "" if most_of_each is None else f" (at most {most_of_each:g})"
        lines.append(
            f"- {name}: {middle:.3f} ({low:.3f} to {high:.3f}) of {other}, at most {most:g}: "
            f"{'reached' if reached else 'NOT reached'}; by pair {min(pairs):.2f} to {max(pairs):.2f}{each}"
        )
    return lines


if __name__ == "__main__":
    main()
