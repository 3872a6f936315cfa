"""Test helper: a cache of random samples that fit the tiny transformer, and runs of the trainer on it (from a seed)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import TINY, tiny_transformer

from avatarctl import durable
from avatarctl.data.shard_writer import ShardWriter
from avatarctl.data.shards import ABOUT, NULL, Sample
from avatarctl.networks.checkpoints import save_weights
from avatarctl.settings.train import TrainJob, TrainSettings

FRAMES, ROWS, COLUMNS, STATES = 3, 4, 6, 17
SMALL: dict[str, Any] = {
    "steps": 6,
    "learning_rate": 1e-2,
    "warmup_steps": 2,
    "clip_norm": 1.0,
    "epsilon": 1e-8,
    "device": "cpu",
    "workers": 1,
    "checkpoint_every": 1000,
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums of one thread are the same sums every time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random_sample(key: str, rows: int = ROWS, columns: int = COLUMNS, frames: int = 4 * FRAMES - 3) -> Sample:
    """Return a sample that depends on its key alone."""
    generator = torch.Generator().manual_seed(sum(key.encode()))

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    latents = draw(TINY.out_dim, FRAMES, rows, columns)
    condition = torch.cat([torch.zeros(4, FRAMES, rows, columns), latents[:, :1].expand(-1, FRAMES, -1, -1)])
    condition[:4, 0] = 1
    mask = torch.zeros(FRAMES, rows, columns)
    mask[:, 1:3, 1:4] = 1
    tensors = {
        "latents": latents,
        "condition": condition,
        "image_tokens": draw(17, TINY.clip),
        "text": draw(5 + len(key) % 3, TINY.text),
        "speech": draw(STATES, TINY.w2v),
        "face_mask": mask,
        "lip_mask": mask * 0.5,
    }
    meta = {"frames": frames, "fps": "25", "source": f"{key}.mp4"}
    return Sample(key, tensors, meta)


def make_cache(folder: Path, samples: list[Sample]) -> Path:
    """Write samples as a cache, one clip each."""
    with ShardWriter(folder) as writer:
        for sample in samples:
            writer.add(sample.key.rpartition("-")[0], "made", [sample])
    generator = torch.Generator().manual_seed(0)
    null = {name: torch.randn(4, TINY.text, generator=generator) for name in ("empty", "negative")}
    save_file(null, folder / NULL)
    durable.replace(folder / ABOUT, durable.sealed({"version": 1}))
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of seven samples of two sizes, one of them shorter than its window."""
    samples = [random_sample(f"clip{i}-0") for i in range(4)]
    samples += [random_sample(f"wide{i}-0", rows=2, columns=8) for i in range(2)]
    samples += [random_sample("short-0", frames=5)]
    return make_cache(tmp_path_factory.mktemp("data") / "cache", samples)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformer to start from."""
    return save_weights(tiny_transformer(), tmp_path_factory.mktemp("base") / "transformer.safetensors", "ours")


@pytest.fixture
def job(cache: Path, base: Path, tmp_path: Path) -> Callable[..., TrainJob]:
    """Return the maker of a small job; ``name`` is its run folder's, the rest are settings."""

    def make(name: str = "run", **changes: Any) -> TrainJob:
        settings = TrainSettings(**{"weights": base, **SMALL, **changes})
        return TrainJob(data=cache, output=tmp_path / name, train=settings)

    return make
