"""Measure what a render spends on its own files at 1 minute, 1 hour and 24 hours of video: index and checkpoint.

A render folder as it is when so much video is done, with tiny tensors, so that what is timed is the bookkeeping: the final
latents of a window are written and listed, then a checkpoint of 50 windows in flight is. The three lengths take turns, so
that a disk that is slower for a while is slower for all of them; what is compared is the median, and the processor's time.

    python benchmarks/render_bookkeeping.py --json bookkeeping.json

Flushes cost what the disk makes of them; name a folder on another one with --folder.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch

from avatarctl.render import frontier
from avatarctl.render.folder import MANIFEST_VERSION, RenderFolder
from avatarctl.render.index import Entry, Index
from avatarctl.sampling.denoise import InFlight

STRIDE, SEGMENT = 16, 25  # latent frames that a window adds (21, overlap 5), and of a segment
LATENTS_PER_S = 25 / 4
IN_FLIGHT = 50
LENGTHS_S = (60, 3600, 24 * 3600)


@dataclass
class Length:
    """A render with so much video done, and what a window costs it."""

    seconds: float
    folder: RenderFolder
    windows: int
    wall_s: list[float] = field(default_factory=list)
    processor_s: list[float] = field(default_factory=list)

    def window(self) -> None:
        """Save one window and a checkpoint, timed."""
        flying = {
            index: InFlight(1 + index - self.windows, torch.zeros(8))
            for index in range(self.windows, self.windows + IN_FLIGHT)
        }
        wall, processor = time.perf_counter(), time.process_time()
        self.folder.write_tensors(f"windows/{self.windows:06d}.safetensors", {"latents": torch.zeros(8)})
        self.folder.event("window done", window=self.windows)
        frontier.save(self.folder, frontier.Frontier(flying, self.windows + 1))
        self.folder.event("checkpoint", window_steps=self.windows)
        self.wall_s.append(time.perf_counter() - wall)
        self.processor_s.append(time.process_time() - processor)
        self.windows += 1


def begun(place: Path, seconds: float, stack: ExitStack) -> Length:
    """Return a render folder, held, as it is after so much video."""
    folder = RenderFolder(place)
    stack.enter_context(folder.held())
    folder.write_manifest({"version": MANIFEST_VERSION, "job": {}})
    latents = seconds * LATENTS_PER_S
    windows, segments = round(latents / STRIDE), round(latents / SEGMENT)
    listed = {f"windows/{number:06d}.safetensors": Entry(f"{number:064x}", 5_505_104) for number in range(windows)}
    listed |= {f"segments/{number:06d}.mp4": Entry(f"{number:064x}", 1_000_000) for number in range(segments)}
    Index(place).change(listed)
    folder.look()
    return Length(seconds, folder, windows)


def measure(place: Path, lengths_s: Sequence[float], rounds: int) -> list[dict[str, float]]:
    """Return for each length what a window's bookkeeping takes, over ``rounds`` turns."""
    with ExitStack() as stack:
        lengths = [begun(place / str(number), seconds, stack) for number, seconds in enumerate(lengths_s)]
        for number in range(rounds + 3):
            for length in lengths[number % len(lengths) :] + lengths[: number % len(lengths)]:
                length.window()
        return [
            {
                "video_s": length.seconds,
                "windows": length.windows,
                "index_mb": round((length.folder.path / "index.jsonl").stat().st_size / 1e6, 3),
                "window_ms": round(1000 * statistics.median(length.wall_s[3:]), 3),
                "processor_ms": round(1000 * statistics.median(length.processor_s[3:]), 3),
            }
            for length in lengths
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="where to write (a temporary folder in it)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        rows = measure(Path(name), LENGTHS_S, arguments.rounds)
    for row in rows:
        print(
            f"{row['video_s'] / 3600:7.3f} h: {row['windows']:6.0f} windows, index {row['index_mb']:7.3f} MB, "
            f"a window with a checkpoint {row['window_ms']:.2f} ms, of it processor {row['processor_ms']:.2f} ms"
        )
    ratios = {what: rows[-1][f"{what}_ms"] / rows[0][f"{what}_ms"] for what in ("window", "processor")}
    print(f"longest to shortest: {ratios['window']:.3f} in time, {ratios['processor']:.3f} of the processor")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
