"""Test helper: ONNX files of the separator's shape (from what a network should do with a spectrum)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FREQUENCIES, FRAMES = 3072, 256


def write_separator(
    path: Path, keep_below: int = FREQUENCIES, shape: tuple[int, ...] = (4, FREQUENCIES, FRAMES)
) -> Path:
    """Write a network that keeps the bins below ``keep_below`` as they are and mutes the others."""
    mask = (np.arange(shape[-2]) < keep_below).astype(np.float32).reshape(1, 1, -1, 1)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["pieces", *shape]) for name in ("input", "output")]
    node = helper.make_node("Mul", ["input", "mask"], ["output"])
    graph = helper.make_graph([node], "separator", ends[:1], ends[1:], [numpy_helper.from_array(mask, "mask")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path
