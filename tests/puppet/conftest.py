"""What the tests of the embedded avatar's training share: one thread, small clips of humming faces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from avatarctl.audio.speak import RATE_HZ, Phoneme
from avatarctl.puppet.world.clips import FRAMES, Scene, write_clip
from avatarctl.puppet.world.drive import FPS
from avatarctl.puppet.world.identity import Identity
from avatarctl.puppet.world.voice import Voice

SIZE = 32  # of the clips


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums of one thread are the same sums every time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small clips of humming faces that say m once a second."""
    folder = tmp_path_factory.mktemp("clips")
    time_s = np.arange(round(FRAMES / FPS * RATE_HZ)) / RATE_HZ
    phonemes = tuple(Phoneme(0.5 + k, 0.6 + k, "m") for k in range(3))
    for number in range(3):
        hum = 0.5 * np.sin(2 * np.pi * (140 + 30 * number) * time_s) * np.clip(np.sin(4 * time_s + number), 0, 1)
        scene = Scene.spoken(Voice(hum.astype(np.float32), phonemes), FRAMES, number)
        write_clip(folder / "square" / "speech" / f"{number:05d}", Identity.of(number), scene, SIZE)
    return folder
