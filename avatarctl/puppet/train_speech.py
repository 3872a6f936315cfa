"""Train a small wav2vec 2.0 that tells the mouth that a sound drives from raw sound."""

from __future__ import annotations

import json
import math
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import Wav2Vec2Model

from avatarctl.audio.speech import normalise
from avatarctl.errors import InputFileError
from avatarctl.networks.checkpoints import save_weights
from avatarctl.networks.dims import SpeechDims
from avatarctl.networks.kinds import build_speech_encoder
from avatarctl.progress import Progress
from avatarctl.puppet.folders import TRUTH
from avatarctl.puppet.mouth import VOICE_HZ
from avatarctl.training.draws import seed_of

RATE_HZ, HOP, SPAN = 16000, 320, 640
BANDS = 24  # of loudness
DIMS = SpeechDims(
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    conv_dim=(32, 32, 32, 32, 48, 48, 64),
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=4,
)


MOUTH = ("opening", "width", "press")
# Mean and deviation of each over training clips, so that all errors weigh alike; bands beside a mouth weigh half.
MOUTH_MEAN, MOUTH_SPREAD, BANDS_BESIDE = (0.4, 0.5, 0.1), (0.35, 0.25, 0.28), 0.5


@dataclass(frozen=True)
class Lesson:
    """What the states are taught to tell: opening, width and pressed lips of the drawn mouth around them, bands of their moment.

    ``offsets``: at these states before and after, 20 ms each. A render's window is as long as a clip: voices are
    normalised over as much.
    """

    offsets: tuple[int, ...] = (-8, -6, -4, -2, 0, 2, 4, 6, 8)
    steps: int = 8000
    batch: int = 3
    length_s: float = 4.0  # of the stretches of voices; longer than a voice is the whole voice

    @property
    def outputs(self) -> int:
        """How many numbers a state tells."""
        return len(self.offsets) * len(MOUTH) + BANDS + 1


LESSON = Lesson()


@dataclass(frozen=True)
class Voice:
    """A clip's sound (T,) at 16 kHz and its mouth at every state (L, 3)."""

    samples: NDArray[np.float32]
    mouth_LM: NDArray[np.float32]


def train_speech(
    data: Path, output: Path, steps: int, seed: int, show: Progress, lesson: Lesson = LESSON
) -> tuple[Path, float]:
    """Train and write ``speech_encoder.safetensors``; return it, and the share of variance explained on held-out clips."""
    voices = [Voice(samples, mouth_of(path, len(samples))) for path, samples in read_voices(data)]
    held, trained = voices[::10], [voice for i, voice in enumerate(voices) if i % 10]
    torch.manual_seed(seed_of(seed, "speech weights"))
    model = build_speech_encoder(DIMS)
    head = nn.Linear(DIMS.hidden_size, lesson.outputs)
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share(step, steps))
    model.eval()  # dropout and masking would only blur a regression this small
    for step in range(steps):
        chance = np.random.default_rng([seed, 7020, step])
        batch = [cut(trained[chance.integers(len(trained))], lesson, chance) for _ in range(lesson.batch)]
        loss = error_of(model, head, batch, lesson)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        rate.step()
        show(step + 1, steps, loss=float(loss.detach()))
    with torch.no_grad():
        left = float(np.mean([float(error_of(model, head, [voice], lesson)) for voice in held]))
    path = save_weights(model, output / "speech_encoder.safetensors", names="ours")
    (output / "speech_encoder.json").write_text(json.dumps({"steps": steps, "seed": seed, "error": left}) + "\n")
    return path, 1 - left


def _share(step: int, steps: int) -> float:
    """Return the learning rate's share at a step: up over a tenth of the steps, then down along a cosine."""
    return min((step + 1) / max(steps / 10, 1), 1.0) * (0.5 + 0.5 * math.cos(math.pi * step / steps))


def read_voices(data: Path) -> list[tuple[Path, NDArray[np.float32]]]:
    """Return the folders of all clips and their voices."""
    files = sorted(data.rglob("square/*/*/audio.wav"))
    if not files:
        raise InputFileError(f"{data}: got no drawn clips", "make some: avatarctl puppet data --output DIR")
    voices = []
    for path in files:
        with wave.open(str(path)) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        voices.append((path.parent, (samples / 32768).astype(np.float32)))
    return voices


def mouth_of(clip: Path, samples: int) -> NDArray[np.float32]:
    """Return a clip's mouth at the middle of every 20 ms (L, 3), each part about zero mean, unit variance."""
    count = samples // HOP
    truth = np.load(clip / TRUTH)
    curves = np.stack([truth[name] for name in MOUTH], axis=1)
    curves[0] = curves[1]  # the first picture is at rest, whatever is heard
    places = (np.arange(count) + 0.5) * HOP / RATE_HZ * 25 - 0.5  # in pictures
    mouth = np.stack([np.interp(places, np.arange(len(curves)), curve) for curve in curves.T], axis=1)
    return ((mouth - MOUTH_MEAN) / MOUTH_SPREAD).astype(np.float32)


def cut(voice: Voice, lesson: Lesson, chance: np.random.Generator) -> Voice:
    """Return a stretch of a voice at some level, with some noise."""
    states = min(round(lesson.length_s * RATE_HZ) // HOP, len(voice.mouth_LM))
    start = int(chance.integers(len(voice.mouth_LM) - states + 1))
    part = voice.samples[start * HOP : (start + states) * HOP] * chance.uniform(0.2, 1.2)
    noise = chance.normal(0, 10 ** chance.uniform(-3.2, -1.9), len(part))
    return Voice((part + noise).astype(np.float32), voice.mouth_LM[start : start + states])


def error_of(model: Wav2Vec2Model, head: nn.Linear, voices: Sequence[Voice], lesson: Lesson) -> Tensor:
    """Return the mean squared error of what the states tell of their neighbourhood; 1 is about the error of telling the mean."""
    heard = np.stack([normalise(voice.samples) for voice in voices])
    states = model(torch.from_numpy(heard)).last_hidden_state
    rows = [wanted(samples, voice.mouth_LM, lesson) for samples, voice in zip(heard, voices, strict=True)]
    asked = torch.from_numpy(np.stack(rows))[:, : states.shape[1]]
    known = ~asked.isnan()
    return ((head(states[:, : asked.shape[1]]) - asked)[known] ** 2).mean()


def wanted(samples_T: NDArray[np.float32], mouth_LM: NDArray[np.float32], lesson: Lesson) -> NDArray[np.float32]:
    """Return what each state is to tell (L, outputs), not a number where that lies outside of the sound."""
    bands = targets(samples_T)
    padded = np.pad(mouth_LM, ((max(lesson.offsets),) * 2, (0, 0)), constant_values=np.nan)
    first = max(lesson.offsets)
    around = [padded[first + offset : first + offset + len(mouth_LM)] for offset in lesson.offsets]
    return np.concatenate([*around, bands * BANDS_BESIDE], axis=1).astype(np.float32)


def targets(samples_T: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return log-mel bands and the level of the voice's band (L, BANDS + 1) every 20 ms, each about zero mean, unit variance."""
    count = len(samples_T) // HOP
    padded = np.pad(samples_T.astype(np.float64), (0, SPAN))
    looks = np.stack([padded[i * HOP : i * HOP + SPAN] for i in range(count)])
    power = np.abs(np.fft.rfft(looks * np.hanning(SPAN), axis=1)) ** 2 / SPAN
    frequencies = np.fft.rfftfreq(SPAN, 1 / RATE_HZ).astype(np.float64)
    bands = power @ _mel(frequencies).T
    voice = power[:, (frequencies >= VOICE_HZ[0]) & (frequencies <= VOICE_HZ[1])].sum(1, keepdims=True)
    levels = np.log(np.concatenate([bands, voice], axis=1) + 1e-3)
    return ((levels + 2.5) / 2.5).astype(np.float32)


def _mel(frequencies: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return triangular filters (BANDS, frequencies), evenly spaced on the mel scale from 60 to 7600 Hz (HTK's formula)."""
    low, high = (2595 * np.log10(1 + hz / 700) for hz in (60.0, 7600.0))
    edges_mel = np.linspace(low, high, BANDS + 2)
    edges = 700 * (10 ** (edges_mel / 2595) - 1)
    rise = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0, np.minimum(rise, fall))
