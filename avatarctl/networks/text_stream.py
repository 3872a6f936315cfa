"""Run umT5 layer by layer from its mapped file: one block in memory at a time, on any device.

The text encoder is the largest network by far (5.7 billion weights) and is used once per prompt. Its weights stay as they
are stored, in pages of the file that the system may drop; a block is copied to the device in the dtype that it computes in
when it is reached, and the copy is freed behind it. Of the embedding only the rows of the prompt's tokens are read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import UMT5EncoderModel


def stream_text_encoder(model: UMT5EncoderModel, device: torch.device, dtype: torch.dtype) -> UMT5EncoderModel:
    """Let an encoder, loaded as stored (``load_text_encoder(..., dtype=None)``), compute on ``device`` in ``dtype``.

    The results are those of the whole encoder in that dtype, to the bit. Feed-forward outputs stay float32 beside float16,
    as transformers keeps them. Nothing is left on the device after a call, also after an error.
    """
    wide = set(model._keep_in_fp32_modules or ()) if dtype == torch.float16 else set()

    def copied(name: str, stored: Tensor) -> Tensor:
        target = torch.float32 if wide & set(name.split(".")) else dtype
        # Without a cast or a move it would be the file's own memory, which may lie unaligned.
        return stored.to(device, target, copy=True)

    for part in (*model.encoder.block, model.encoder.final_layer_norm):
        _bring_when_called(part, copied)
    embedding = model.encoder.embed_tokens
    embedding.register_forward_pre_hook(lambda _, inputs: tuple(each.cpu() for each in inputs))
    embedding.register_forward_hook(lambda _module, _inputs, rows: rows.to(device, dtype))
    return model


def _bring_when_called(part: nn.Module, copied: Callable[[str, Tensor], Tensor]) -> None:
    """Put copies in the place of a module's weights for the time of each call."""
    stored = [
        (module, name, f"{path}.{name}", parameter)
        for path, module in part.named_modules()
        for name, parameter in module._parameters.items()
        if parameter is not None
    ]

    def bring(_module: nn.Module, _inputs: Any) -> None:
        for module, name, path, parameter in stored:
            module._parameters[name] = nn.Parameter(copied(path, parameter), requires_grad=False)

    def release(_module: nn.Module, _inputs: Any, _outputs: Any) -> None:
        for module, name, _, parameter in stored:
            module._parameters[name] = parameter

    part.register_forward_pre_hook(bring)
    part.register_forward_hook(release, always_call=True)
