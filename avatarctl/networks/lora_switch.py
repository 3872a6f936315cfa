"""Switch an attached LoRA off for a while, or take it out: the network underneath is a student's teacher."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from avatarctl.networks.attach import lora_layers
from avatarctl.networks.transformer import StableAvatarTransformer3DModel


@contextmanager
def lora_off(transformer: StableAvatarTransformer3DModel) -> Iterator[None]:
    """Let the transformer be the one that the LoRA was attached to; inside another switch, and after errors, too.

    What was switched off before stays off afterwards. peft's own ``disable_adapters`` would take the gradients of what
    trains away, and an inner switch would switch the LoRA on for the rest of an outer one.
    """
    layers = list(lora_layers(transformer).values())
    before = [layer._disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer._disable_adapters = was


@contextmanager
def lora_taken_out(transformer: StableAvatarTransformer3DModel) -> Iterator[None]:
    """Put the layers that the LoRA is attached to back in their places: no line of the LoRA's code is run inside."""
    taken = lora_layers(transformer)
    places = [(transformer.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in taken]
    for (parent, child), layer in zip(places, taken.values(), strict=True):
        base: torch.nn.Module = layer.get_base_layer()
        setattr(parent, child, base)
    try:
        yield
    finally:
        for (parent, child), layer in zip(places, taken.values(), strict=True):
            setattr(parent, child, layer)
