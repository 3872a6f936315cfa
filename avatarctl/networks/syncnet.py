"""SyncNet: numbers of five pictures of a mouth, and of the 0.2 s of sound beside them; near when they belong together.

Chung and Zisserman, "Out of time: automated lip sync in the wild", 2016. Its weights aren't shipped: users bring them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avatarctl.errors import WeightsError, some
from avatarctl.networks.weight_files import open_torch

NAME = "syncnet_v2.model"
HINT = f"download {NAME} (https://www.robots.ox.ac.uk/~vgg/software/lipsync/data/{NAME}) into the folder of --syncnet"
PICTURES, SIDE = 5, 224  # pictures that it sees at once, and their sides
STEPS_PER_PICTURE, STEPS = 4, 20  # frames of sound in a picture, and beside five of them
# Of each convolution: channels, kernel, stride, padding, and the pooling after it (kernel, stride, padding).
SOUND = (
    (64, 3, 1, 1, (1, 1)),
    (192, 3, 1, 1, (3, (1, 2))),
    (384, 3, 1, 1, None),
    (256, 3, 1, 1, None),
    (256, 3, 1, 1, (3, 2)),
    (512, (5, 4), 1, 0, None),
)
BESIDE, HALVED = (0, 1, 1), (1, 2, 2)
MOUTH = (
    (96, (5, 7, 7), HALVED, 0, ((1, 3, 3), HALVED)),
    (256, (1, 5, 5), HALVED, BESIDE, ((1, 3, 3), HALVED, BESIDE)),
    (256, (1, 3, 3), 1, BESIDE, None),
    (256, (1, 3, 3), 1, BESIDE, None),
    (256, (1, 3, 3), 1, BESIDE, ((1, 3, 3), HALVED)),
    (512, (1, 6, 6), 1, 0, None),
)


class SyncNet(nn.Module):
    """Two stacks of convolutions, each with two layers behind it. Names are those of the released weights."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = _stack((nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d), 1, SOUND)
        self.netfcaud = _head()
        self.netcnnlip = _stack((nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d), 3, MOUTH)
        self.netfclip = _head()

    def of_mouths(self, pictures_BCTHW: Tensor) -> Tensor:
        """Return (B, 1024) of five pictures each (B, 3, 5, 224, 224), blue green red, 0 … 255."""
        return self.netfclip(self.netcnnlip(pictures_BCTHW).flatten(1))

    def of_sounds(self, cepstra_B1CT: Tensor) -> Tensor:
        """Return (B, 1024) of cepstral coefficients (B, 1, 13, 20)."""
        return self.netfcaud(self.netcnnaud(cepstra_B1CT).flatten(1))


def _stack(kinds: tuple[Any, Any, Any], channels: int, rows: Sequence[Any]) -> nn.Sequential:
    convolution, norm, pool = kinds
    layers: list[nn.Module] = []
    for out, kernel, stride, padding, pooled in rows:
        layers += [convolution(channels, out, kernel, stride, padding), norm(out), nn.ReLU()]
        layers += [pool(*pooled)] if pooled else []
        channels = out
    return nn.Sequential(*layers)


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1024))


def load_syncnet(folder: Path, device: str = "cpu") -> SyncNet:
    """Return SyncNet with the released weights in a folder; raises ``WeightsError`` when they aren't those."""
    path = folder / NAME
    if not path.is_file():
        raise WeightsError(f"{path}: got no such file, expected SyncNet's weights", HINT)
    tensors = open_torch(path, "SyncNet's weights", HINT)
    with torch.device("meta"):
        network = SyncNet()
    wanted = {name: tensor.shape for name, tensor in network.state_dict().items() if "num_batches" not in name}
    wrong = [name for name in wanted if name not in tensors or tensors[name].shape != wanted[name]]
    wrong += [name for name in tensors if name not in wanted and "num_batches" not in name]
    if wrong:
        raise WeightsError(f"{path}: got other weights than SyncNet's: {some(wrong)}", HINT)
    state = {name: tensors[name].float() for name in wanted}
    counts = [name for name in network.state_dict() if "num_batches" in name]  # of no use but in training
    network.load_state_dict({**state, **{name: torch.tensor(0) for name in counts}}, assign=True)
    return network.to(device).eval()
