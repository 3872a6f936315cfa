"""Measure what a second of video costs in window steps, in decoding and in encoding, at 150, 57, 8 and 4 passes a window.

Each row is a whole render, twice: with decoding in turns with window steps, where every part is timed by itself, and with
decoding in its thread beside them. With few passes the decoder takes most of the time. Run from the project's root:

    python -m benchmarks.stage_shares                                  # the embedded avatar
    python -m benchmarks.stage_shares --preset square --seconds 20     # released weights, on a GPU

Seconds of wall time, of one run; with other programs beside it only the shares mean something.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from avatarctl.networks.vae import DecodeStream
from avatarctl.paths import embedded_avatar
from avatarctl.render import render, segments
from avatarctl.render.encoding import Encoding
from avatarctl.render.inputs import Rendered
from avatarctl.sampling.passes import passes_of
from avatarctl.sampling.predict import Predictor
from avatarctl.settings.jobs import render_job
from avatarctl.settings.render import RenderJob
from benchmarks.window_step import now

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
UNGUIDED = {"guidance": "none", "schedule": "uniform", "solver": "euler", "guidance_interval": None}
GUIDED = {"guidance": "cfg", "schedule": "released", "guidance_interval": None}
ROWS: dict[str, dict[str, Any]] = {
    "Euler, 50 steps": {**GUIDED, "steps": 50, "solver": "euler"},
    "ab2, 25 steps, interval [0, 0.9]": {**GUIDED, "steps": 25, "solver": "ab2", "guidance_interval": (0.0, 0.9)},
    "8 steps without guidance": {**UNGUIDED, "steps": 8},
    "4 steps without guidance": {**UNGUIDED, "steps": 4},
}
PARTS = {"window steps": (Predictor, "__call__"), "decoding": (DecodeStream, "_push"), "encoding": (Encoding, "add")}


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Yield the seconds that each part takes, by its calls; a GPU is waited for."""
    spent = dict.fromkeys(PARTS, 0.0)

    def around(part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed_call(*arguments: Any, **named: Any) -> Any:
            began = now(DEVICE)
            result = call(*arguments, **named)
            spent[part] += now(DEVICE) - began
            return result

        return timed_call

    with ExitStack() as stack:
        for part, (owner, name) in PARTS.items():
            stack.enter_context(mock.patch.object(owner, name, around(part, getattr(owner, name))))
        yield spent


def rendered(job: RenderJob) -> Rendered:
    """Render in this process alone."""
    made = render(job)
    assert made is not None, "no launcher"
    return made


def measure(job: RenderJob) -> dict[str, float]:
    """Render in turns and beside; return seconds for each second of video."""
    with timed() as spent, mock.patch.object(segments, "beside", lambda _: False):
        made = rendered(job)
    found = {f"{part}_s": spent[part] / made.video_s for part in PARTS}
    found["in_turns_s"] = made.wall_s / made.video_s
    again = job.model_copy(update={"output": job.output.with_name("beside.mp4")})
    with mock.patch.object(segments, "beside", lambda _: True):
        found["beside_s"] = rendered(again).wall_s / made.video_s
    if again.output.read_bytes() != job.output.read_bytes():
        raise SystemExit("rendered in turns and beside, the videos differ")
    return found


def main() -> None:
    """Measure every row and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="puppet")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--image", type=Path)
    parser.add_argument("--audio", type=Path, default=embedded_avatar() / "samples" / "song.wav")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rows", type=int, nargs="+", default=list(range(len(ROWS))), help="numbers from 0")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows = {}
    print(
        "| | passes | window steps | decoding | share | encoding | in turns | beside |\n|---|---|---|---|---|---|---|---|"
    )
    for name in [list(ROWS)[number] for number in asked.rows]:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["AVATARCTL_HOME"] = str(Path(folder, "home"))
            settings = {"duration": asked.seconds, **ROWS[name]}
            settings |= {"weights": asked.weights} if asked.weights else {}
            job = render_job(asked.image, asked.audio, Path(folder, "turns.mp4"), asked.preset, settings)
            found = measure(job)
        steps, decoding, encoding = (found[f"{part}_s"] for part in PARTS)
        found["decoding_share"] = decoding / (steps + decoding)
        rows[name] = {**found, "passes": passes_of(job.render).total}
        print(
            f"| {name} | {rows[name]['passes']} | {steps:.3f} s | {decoding:.3f} s | {100 * found['decoding_share']:.0f} % | "
            f"{encoding:.3f} s | {found['in_turns_s']:.2f} s | {found['beside_s']:.2f} s |",
            flush=True,
        )
    if asked.json:
        asked.json.write_text(
            json.dumps({"torch": torch.__version__, "seconds": asked.seconds, "rows": rows}, indent=1)
        )


if __name__ == "__main__":
    main()
