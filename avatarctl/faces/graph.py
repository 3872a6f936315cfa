"""Run a small convolutional network whose operations are listed in the metadata of its safetensors file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

WEIGHTS = Path(__file__).with_name("weights")
ACTIVATIONS = {1: F.relu, 3: F.relu6}  # numbers of the tflite format


@contextmanager
def whole_float32() -> Iterator[None]:
    """Let convolutions on a GPU compute in float32, so that results agree with a CPU's: torch's default there is TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


class Graph:
    """A network as a list of operations: convolutions, PReLU, ReLU, additions, pooling, padding, reshapes.

    Each operation is ``[name, inputs, output, arguments]``; weights are ``OUTPUT.w`` and ``OUTPUT.b``.
    """

    def __init__(self, name: str, device: torch.device | str = "cpu") -> None:
        with safe_open(WEIGHTS / f"{name}.safetensors", "pt") as file:
            described = file.metadata()
            self._weights = {key: file.get_tensor(key).float().to(device) for key in file.keys()}  # noqa: SIM118
        self._operations: list[tuple[str, list[int], int, dict[str, Any]]] = json.loads(described["program"])
        self._input, self._outputs = int(described["input"]), json.loads(described["outputs"])
        self.device = torch.device(device)

    @torch.inference_mode()
    def __call__(self, pictures_BCHW: Tensor) -> dict[str, Tensor]:
        """Return the named outputs for a batch of pictures, float32 (B, 3, H, W)."""
        values = {self._input: pictures_BCHW.to(self.device)}
        with whole_float32():
            for name, inputs, output, arguments in self._operations:
                values[output] = self._run(name, [values[i] for i in inputs], output, arguments)
        return {name: values[place].cpu() for name, place in self._outputs.items()}

    def _run(self, name: str, inputs: list[Tensor], output: int, arguments: dict[str, Any]) -> Tensor:
        x = inputs[0]
        weight, bias = self._weights.get(f"{output}.w"), self._weights.get(f"{output}.b")
        match name:
            case "CONV_2D" | "DEPTHWISE_CONV_2D":
                assert weight is not None
                stride = arguments["s"]
                if arguments["same"]:
                    x = F.pad(x, _same(x, weight.shape[2], stride))
                x = F.conv2d(x, weight, bias, stride, groups=x.shape[1] if name.startswith("DEPTH") else 1)
            case "MAX_POOL_2D":
                size, stride = arguments["k"], arguments["s"]
                if arguments["same"]:
                    x = F.pad(x, _same(x, size, stride), value=float("-inf"))
                x = F.max_pool2d(x, size, stride)
            case "PAD":
                _, rows, columns, channels = arguments["pad"]
                x = F.pad(x, (*columns, *rows, *channels))
            case "ADD":
                x = x + inputs[1]
            case "RELU":
                x = F.relu(x)
            case "PRELU":
                assert weight is not None
                x = F.prelu(x, weight)
            case "RESHAPE":  # of the format's own order of axes, channels last
                x = x.permute(0, 2, 3, 1).reshape(len(x), *arguments["shape"][1:])
            case "CONCATENATION":
                x = torch.cat(inputs, dim=1)
            case _:
                raise AssertionError(f"{name}: no such operation in the shipped networks")
        return ACTIVATIONS[arguments["act"]](x) if arguments.get("act") else x


def _same(x: Tensor, size: int, stride: int) -> tuple[int, int, int, int]:
    """Return the padding (left, right, top, bottom) of the format's "same": what is odd goes right and down."""
    rows, columns = (max((-(-side // stride) - 1) * stride + size - side, 0) for side in x.shape[2:])
    return columns // 2, columns - columns // 2, rows // 2, rows - rows // 2
