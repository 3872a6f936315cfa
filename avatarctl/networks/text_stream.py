"""Run umT5 layer by layer from its mapped file: one block in memory at a time, on any device.

The text encoder is the largest network by far (5.7 billion weights) and is used once per prompt. Its weights stay as they
are stored, in pages of the file that the system may drop; a block is copied to the device in the dtype that it computes in
when it is reached, and the copy is freed behind it. Of the embedding only the rows of the prompt's tokens are read.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import UMT5EncoderModel

from avatarctl.networks.offload import bring_when_called


def stream_text_encoder(model: UMT5EncoderModel, device: torch.device, dtype: torch.dtype) -> UMT5EncoderModel:
    """Let an encoder, loaded as stored (``load_text_encoder(..., dtype=None)``), compute on ``device`` in ``dtype``.

    The results are those of the whole encoder in that dtype, to the bit. Feed-forward outputs stay float32 beside float16,
    as transformers keeps them. Nothing is left on the device after a call, also after an error.
    """
    wide = set(model._keep_in_fp32_modules or ()) if dtype == torch.float16 else set()

    def copied(path: str, stored: Tensor) -> Tensor:
        target = torch.float32 if wide & set(path.split(".")) else dtype
        # Without a cast or a move it would be the file's own memory, which may lie unaligned.
        return stored.to(device, target, copy=True)

    for part in (*model.encoder.block, model.encoder.final_layer_norm):
        bring_when_called(part, copied)
    embedding = model.encoder.embed_tokens
    embedding.register_forward_pre_hook(lambda _, inputs: tuple(each.cpu() for each in inputs))
    embedding.register_forward_hook(lambda _module, _inputs, rows: rows.to(device, dtype))
    return model
