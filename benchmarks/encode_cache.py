"""Measure how fast clips are encoded, and what a sample takes on disk now and as it was stored before.

    python benchmarks/encode_cache.py                     # the embedded avatar's drawn clips, 64x64, on this CPU
    python benchmarks/encode_cache.py --weights FOLDER --source VIDEOS --size 512x512 --device cuda

Before: mask and reference latents whole, masks as float16, windows in turn with decoding (one at a time, nothing ahead).
Overlapping windows (three quarters of a window from one to the next shared) are encoded each on its own, and cut out of a
clip's latents (--latents-of clip).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from safetensors.torch import save

from avatarctl.data import encode as encoding
from avatarctl.data.compact import read_sample
from avatarctl.data.shards import Index
from avatarctl.networks.placement import DTYPES
from avatarctl.progress import showing
from avatarctl.settings.check import make
from avatarctl.settings.encode import EncodeJob, EncodeSettings
from avatarctl.settings.presets import resolve

CLIPS = 12
WINDOW = 9  # latent frames of windows that overlap


def seconds_of(job: EncodeJob, ahead: bool) -> tuple[float, int]:
    """Encode a SOURCE into an empty cache; return the seconds and the samples. ``ahead``: decode while the networks compute."""
    plain = mock.patch.object(encoding, "ahead", lambda items, _: items)
    began = time.monotonic()
    with showing("none") as show:
        if ahead:
            done = encoding.encode(job, show)
        else:
            with plain:
                done = encoding.encode(job, show)
    return time.monotonic() - began, done.samples


def sizes_of(cache: Path, dtype: str) -> dict[str, float]:
    """Return the mean bytes of a sample now, and as the form before would have stored it."""
    entries = Index(cache).samples()
    before = 0
    for entry in entries:
        whole = {
            name: tensor.half() if name.endswith("mask") else tensor.to(DTYPES[dtype])
            for name, tensor in read_sample(cache, entry).items()
        }
        before += len(save({name: tensor.contiguous() for name, tensor in whole.items()}))
    now = sum(entry.size for entry in entries)
    return {"now": now / len(entries), "before": before / len(entries), "share": round(now / before, 3)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path)
    parser.add_argument("--weights", type=Path, default=Path("puppet"))
    parser.add_argument("--preset", default="puppet")
    parser.add_argument("--size")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=0)
    parser.add_argument("--clips", type=int, default=CLIPS, help="drawn clips, where no SOURCE is given")
    parser.add_argument("--turns", type=int, default=3, help="the fastest of so many counts")
    parser.add_argument("--only", choices=["speed", "size", "overlap"], action="append")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    from avatarctl.paths import weights_place

    sections = asked.only or ["speed", "size", "overlap"]
    with tempfile.TemporaryDirectory() as folder:
        source = asked.source or Path(folder) / "clips"
        if asked.source is None:
            from avatarctl.puppet.world.clips import make_clips

            with showing("none") as show:
                make_clips(source, asked.clips, 0, show)
        flags = {"sizes": (asked.size,) if asked.size else None}
        values, places = resolve(EncodeSettings.model_fields, asked.preset, flags, kind="data")

        def job(name: str, **changes: Any) -> EncodeJob:
            return EncodeJob(
                source=source,
                cache=Path(folder) / name,
                settings=make(EncodeSettings, {**values, **changes}, places),
                weights=weights_place(asked.weights),
                device=asked.device,
                batch=asked.batch,
            )

        found: dict[str, Any] = {}

        def measure(name: str, own: EncodeJob, ahead: bool = True) -> None:
            seconds, samples = seconds_of(own, ahead)
            found[name] = max(found.get(name, 0), round(samples / seconds, 3))

        less = {"window": WINDOW, "stride": WINDOW - 1}
        for turn in range(asked.turns):  # in turns: the first of all also loads files from the disk
            if "speed" in sections:
                measure("samples_per_s, in turn", job(f"in-turn-{turn}"), ahead=False)
                measure("samples_per_s, ahead", job(f"ahead-{turn}"))
            if "overlap" in sections:
                for of in ("window", "clip"):
                    own = job(f"{of}-{turn}", **less, latents_of=of)
                    measure(f"overlapping samples_per_s, latents of a {of}", own)
        if "size" in sections:
            own = job("size")
            seconds_of(own, True)
            found["sample_bytes"] = sizes_of(own.cache, own.settings.store_dtype)
    print(json.dumps(found, indent=1))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
