"""Pack trained networks of the puppet for the package: half-precision weights, a picture, voices."""

from __future__ import annotations

import io
import shlex
import shutil
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from avatarctl import durable
from avatarctl.audio.speak import RATE_HZ
from avatarctl.errors import QualityError, WeightsError
from avatarctl.networks import checkpoints
from avatarctl.paths import EMBEDDED_PICTURES, STUDENT_FILE
from avatarctl.puppet.folders import EVALUATION_SEED
from avatarctl.puppet.voice import say
from avatarctl.puppet.world.identity import Identity, Pose
from avatarctl.puppet.world.portrait import draw
from avatarctl.puppet.world.voice import make_voice
from avatarctl.settings.student import student_of
from avatarctl.weights import checksum, find_weights

MOST_BYTES = 12_000_000
LOADERS: dict[str, Callable[..., nn.Module]] = {
    "transformer": checkpoints.load_transformer,
    "vae": checkpoints.load_vae,
    "text_encoder": checkpoints.load_text_encoder,
    "image_encoder": checkpoints.load_image_encoder,
    "speech_encoder": checkpoints.load_speech_encoder,
}
PICTURE_PX = 512
# Unlike faces that no training set has; the evaluation's pairs begin at the same seed and end far below these.
SAMPLE_SEEDS = tuple(EVALUATION_SEED + 2**20 + number for number in (2, 26, 21))
# Text, voice of espeak-ng, words a minute, pitch.
SPOKEN: dict[str, tuple[str, str, int, int]] = {
    "voice.wav": ("Hello! I am the embedded avatar. My lips follow any voice.", "en-us+f3", 145, 55),
    "voice-2.wav": ("Hola, me llamo Bruno. Mis labios siguen cualquier voz.", "es+m3", 145, 35),
}


def pack_weights(
    weights: Path, output: Path, transformer: Path | None = None, student: Path | None = None
) -> list[Path]:
    """Write every network of a folder of weights in float16, and the tokenizer, into ``output``.

    ``transformer``: taken instead of the folder's. ``student``: a few-step student of it. Raises ``WeightsError`` for a
    student of another transformer, ``QualityError`` when the whole is larger than the package holds.
    """
    files = find_weights(weights, (128, 128), "auto", transformer)
    written = []
    for name, load in LOADERS.items():
        model = load(getattr(files, name), dtype=torch.float16, device="cpu")
        written.append(checkpoints.save_weights(model, output / f"{name}.safetensors"))
    if files.tokenizer.resolve() != (output / "tokenizer").resolve():  # packing in place is fine
        shutil.copytree(files.tokenizer, output / "tokenizer", dirs_exist_ok=True)
    if student is not None:
        written.append(_pack_student(student, output))
    total = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    if total > MOST_BYTES:
        raise QualityError(
            f"{output}: got {total / 1e6:.1f} MB of weights, expected at most {MOST_BYTES / 1e6:.0f} MB",
            "train smaller networks: --set dims in `avatarctl train --preset puppet`",
        )
    return [*written, output / "tokenizer"]


def _pack_student(student: Path, output: Path) -> Path:
    """Put a student beside the packed transformer that it was distilled on."""
    taught = (student_of(student) or {}).get("teacher") or {}
    base = checksum(output / "transformer.safetensors")
    if taught.get("base_sha256") != base:
        raise WeightsError(
            f"{student}: got {'a student of another transformer' if taught else 'no student'} "
            f"(sha256 {str(taught.get('base_sha256'))[:12]}), expected one of the packed transformer ({base[:12]})",
            f"distil one on it: avatarctl lora train --preset distill-puppet --weights {shlex.quote(str(output))} …",
        )
    durable.replace(output / STUDENT_FILE, student.read_bytes())
    return output / STUDENT_FILE


def make_samples(output: Path) -> list[Path]:
    """Draw the pictures and make the voices that `avatarctl demo` shows: three people, two voices, a song of five seconds."""
    output.mkdir(parents=True, exist_ok=True)
    written = []
    for name, seed in zip(EMBEDDED_PICTURES.values(), SAMPLE_SEEDS, strict=True):
        written.append(output / name)
        Image.fromarray(draw(Identity.of(seed), Pose(), PICTURE_PX)).save(written[-1])
    for name, manner in SPOKEN.items():
        written.append(output / name)
        write_wave(written[-1], say(*manner))
    song = output / "song.wav"
    write_wave(song, make_voice(SAMPLE_SEEDS[0], 5.0, "singing", evaluation=True).samples)
    return [*written, song]


def write_wave(path: Path, samples_T: NDArray[np.float32]) -> None:
    """Write 16 kHz mono sound; the file is whole or not there."""
    durable.replace(path, wave_bytes(samples_T))


def wave_bytes(samples_T: NDArray[np.float32]) -> bytes:
    """Return a WAV file of 16 kHz mono sound, 16 bits."""
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes((np.clip(samples_T, -1, 1) * 32767).astype("<i2").tobytes())
    return content.getvalue()
