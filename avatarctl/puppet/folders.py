"""Write drawn clips as folders that `avatarctl data encode` reads, each whole or absent."""

from __future__ import annotations

import shutil
import wave
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from avatarctl import durable
from avatarctl.audio.speak import RATE_HZ
from avatarctl.progress import Progress
from avatarctl.puppet.voice import Kind

TRUTH = "truth.npz"
PARTS = ("images", "face_masks", "lip_masks")
# Seeds of the evaluation's faces begin here: beyond those of any training set (seeds up to 2**40, 100,000 clips each).
EVALUATION_SEED = 2**60


def missing_clips(
    output: Path, clips: int, seed: int, singing: tuple[int, float], show: Progress
) -> Iterator[tuple[Path, int, Kind]]:
    """Yield folder, seed and kind of every clip that is missing; each depends on (seed, number) alone.

    ``singing``: number of the draw that says whether a clip is sung, and the share of those that are.

    ``square/speech|singing/NNNNN/{images,face_masks,lip_masks}/*.png``, ``audio.wav``, and ``truth.npz``.
    """
    for number in range(clips):
        clip_seed = seed * 100_003 + number
        draw, share = singing
        kind: Kind = "singing" if np.random.default_rng([clip_seed, draw]).random() < share else "speech"
        folder = output / "square" / kind / f"{number:05d}"
        if not folder.is_dir():
            yield folder, clip_seed, kind
        show(number + 1, clips)


def writable(output: Path) -> AbstractContextManager[None]:
    """Return the context in which a clip is written: what is wrong with the disk is told."""
    return durable.guarded(output, "free some space and run the same command again", "choose another --output")


def write_folder(
    folder: Path,
    pictures: Iterable[tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]],
    voice_T: NDArray[np.float32],
    truth: Mapping[str, Any],
) -> None:
    """Write one clip, whole or not at all: pictures with their masks of face and lips, the voice, the truth."""
    part = durable.part_of(folder)
    shutil.rmtree(part, ignore_errors=True)
    for name in PARTS:
        (part / name).mkdir(parents=True)
    for index, layers in enumerate(pictures):
        for name, pixels in zip(PARTS, layers, strict=True):
            Image.fromarray(pixels).save(part / name / f"frame_{index}.png", compress_level=1)
    with wave.open(str(part / "audio.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes((voice_T * 32767).astype("<i2").tobytes())
    curves: dict[str, Any] = {**truth}
    np.savez(part / TRUTH, **curves)
    part.rename(folder)
