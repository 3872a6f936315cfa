"""Measure how fast clips are encoded, and what a sample takes on disk now and as it was stored before.

    python benchmarks/encode_cache.py                     # the embedded avatar's drawn clips, 64x64, on this CPU
    python benchmarks/encode_cache.py --weights FOLDER --source VIDEOS --size 512x512 --device cuda

Before: mask and reference latents whole, masks as float16, windows in turn with decoding (one at a time, nothing ahead).
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
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    from avatarctl.paths import weights_place

    with tempfile.TemporaryDirectory() as folder:
        source = asked.source or Path(folder) / "clips"
        if asked.source is None:
            from avatarctl.puppet.dataset import make_dataset

            with showing("none") as show:
                make_dataset(source, CLIPS, 0, show)
        flags = {"sizes": (asked.size,) if asked.size else None}
        values, places = resolve(EncodeSettings.model_fields, asked.preset, flags, kind="data")
        settings = make(EncodeSettings, values, places)
        found: dict[str, Any] = {}
        # Twice each, in turns: the first of all also loads files from the disk.
        for turn in range(2):
            for name, ahead in (("in turn", False), ("ahead", True)):
                job = EncodeJob(
                    source=source,
                    cache=Path(folder) / f"{name}-{turn}",
                    settings=settings,
                    weights=weights_place(asked.weights),
                    device=asked.device,
                    batch=asked.batch,
                )
                seconds, samples = seconds_of(job, ahead)
                found[f"samples_per_s, {name}"] = round(samples / seconds, 3)
        found["sample_bytes"] = sizes_of(job.cache, settings.store_dtype)
    print(json.dumps(found, indent=1))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
