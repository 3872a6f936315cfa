"""Train a small wav2vec 2.0 that tells bands of loudness and voicing from raw sound."""

from __future__ import annotations

import json
import wave
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import Wav2Vec2Model

from avatarctl.audio.speech import normalise
from avatarctl.console import Progress
from avatarctl.errors import InputFileError
from avatarctl.networks.checkpoints import save_weights
from avatarctl.networks.dims import SpeechDims
from avatarctl.networks.kinds import build_speech_encoder
from avatarctl.puppet.mouth import VOICE_HZ
from avatarctl.training.draws import seed_of

RATE_HZ, HOP, SPAN = 16000, 320, 640
BANDS, OFFSETS = 24, (-8, -4, 0, 4, 8)  # bands of loudness, at these states before and after (20 ms each)
STEPS = 4000
BATCH, LENGTH_S = 8, 1.6
DIMS = SpeechDims(
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    conv_dim=(32, 32, 32, 32, 48, 48, 64),
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=4,
)


def train_speech(data: Path, output: Path, steps: int, seed: int, show: Progress) -> tuple[Path, float]:
    """Train and write ``speech_encoder.safetensors``; give it, and the share of variance explained on the last tenth of clips."""
    waves = load_voices(data)
    held, trained = waves[::10], [w for i, w in enumerate(waves) if i % 10]
    torch.manual_seed(seed_of(seed, "speech weights"))
    model = build_speech_encoder(DIMS)
    head = nn.Linear(DIMS.hidden_size, (BANDS + 1) * len(OFFSETS))
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.1)
    model.eval()  # dropout and masking would only blur a regression this small
    for step in range(steps):
        chance = np.random.default_rng([seed, 7020, step])
        samples = np.stack([cut(trained[chance.integers(len(trained))], chance) for _ in range(BATCH)])
        loss = error_of(model, head, samples)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        rate.step()
        show(step + 1, steps, loss=float(loss.detach()))
    with torch.no_grad():
        left = float(np.mean([float(error_of(model, head, w[None, : len(w) // HOP * HOP])) for w in held]))
    path = save_weights(model, output / "speech_encoder.safetensors", names="ours")
    (output / "speech_encoder.json").write_text(json.dumps({"steps": steps, "seed": seed, "error": left}) + "\n")
    return path, 1 - left


def load_voices(data: Path) -> list[NDArray[np.float32]]:
    """Return the voices of a folder of clips."""
    files = sorted(data.glob("square/*/*/audio.wav"))
    if not files:
        raise InputFileError(f"{data}: got no drawn clips", "make some: avatarctl puppet data --output DIR")
    voices = []
    for path in files:
        with wave.open(str(path)) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        voices.append((samples / 32768).astype(np.float32))
    return voices


def cut(samples: NDArray[np.float32], chance: np.random.Generator) -> NDArray[np.float32]:
    """Return a stretch of a voice at some level, with some noise."""
    count = round(LENGTH_S * RATE_HZ)
    start = chance.integers(len(samples) - count + 1)
    part = samples[start : start + count] * chance.uniform(0.2, 1.2)
    return part + chance.normal(0, 10 ** chance.uniform(-3.2, -1.9), count).astype(np.float32)


def error_of(model: Wav2Vec2Model, head: nn.Linear, samples_BT: NDArray[np.float32]) -> Tensor:
    """Return the mean squared error of what the states tell of their neighbourhood; 1 is the error of telling the mean."""
    heard = np.stack([normalise(row) for row in samples_BT])
    states = model(torch.from_numpy(heard)).last_hidden_state
    told = head(states).unflatten(2, (len(OFFSETS), BANDS + 1))
    wanted = torch.from_numpy(np.stack([targets(row) for row in heard]))[:, : states.shape[1]]
    total = torch.zeros(())
    for place, offset in enumerate(OFFSETS):
        first, last = max(0, -offset), states.shape[1] - max(0, offset)
        total = total + ((told[:, first:last, place] - wanted[:, first + offset : last + offset]) ** 2).mean()
    return total / len(OFFSETS)


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


def probe(encoder: Wav2Vec2Model, voices: list[NDArray[np.float32]], openings: list[NDArray[np.float64]]) -> float:
    """Return the correlation of a linear reading of the states with the mouth's opening, on voices it was not fitted on."""
    rows, wanted = [], []
    with torch.no_grad():
        for voice, opening in zip(voices, openings, strict=True):
            states = encoder(torch.from_numpy(normalise(voice))[None]).last_hidden_state[0].numpy()
            places = [min(int((frame + 0.5) * 50 / Fraction(25)), len(states) - 1) for frame in range(len(opening))]
            rows.append(
                np.concatenate([states[np.clip(np.array(places) + o, 0, len(states) - 1)] for o in OFFSETS], axis=1)
            )
            wanted.append(opening)
    fit = [i for i in range(len(rows)) if i % 3]
    x = np.concatenate([rows[i] for i in fit])
    y = np.concatenate([wanted[i] for i in fit])
    weights = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0]
    told = np.concatenate([np.c_[rows[i], np.ones(len(rows[i]))] @ weights for i in range(0, len(rows), 3)])
    return float(np.corrcoef(told, np.concatenate([wanted[i] for i in range(0, len(rows), 3)]))[0, 1])
