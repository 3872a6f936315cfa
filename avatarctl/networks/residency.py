"""Memory modes: which networks, blocks or layers are on the device, and when. One class per mode."""

from __future__ import annotations

import gc
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from transformers import CLIPVisionModel, Wav2Vec2Model

from avatarctl.networks import lean
from avatarctl.networks.attention import fitting_attention, set_attention
from avatarctl.networks.float8 import to_float8
from avatarctl.networks.offload import BlockStream, Guest, bring_when_called, held, put
from avatarctl.networks.placement import Placement
from avatarctl.networks.transformer import StableAvatarTransformer3DModel

Model = TypeVar("Model", bound=nn.Module)
# Encoders that stay on the CPU when layers are streamed: a second of work per window costs nothing there.
SMALL_ENCODERS = (CLIPVisionModel, Wav2Vec2Model)
STREAMED_FROM_BYTES = 1 << 20  # smaller weights (norms, tables, biases) come once and stay
NARROW = (torch.bfloat16, torch.float16)


def residency_of(placement: Placement) -> Residency:
    """Return the memory mode that a placement asks for. On the CPU no network moves."""
    if placement.device.type == "cpu":
        return InMainMemory(placement)
    return MODES[placement.memory](placement)


class Residency:
    """Mode ``full``: every network stays on the device. ``place`` one after loading it, ``use`` it before it computes."""

    def __init__(self, placement: Placement) -> None:
        self.placement = placement

    @property
    def together(self) -> bool:
        """Whether networks may compute at the same time: there is room for what all of them need."""
        return self.placement.beside

    @property
    def load_device(self) -> torch.device:
        """Where weights are read to before :meth:`place`: the device, unless they are rounded to float8 on their way."""
        return torch.device("cpu") if self.placement.float8 else self.placement.device

    def place(self, model: Model) -> Model:
        """Make a freshly loaded network ready: attention backend, float8 storage, compilation, and its place."""
        model.requires_grad_(False)
        if isinstance(model, StableAvatarTransformer3DModel):
            if self.placement.attention:
                width = model.dims.dim // model.dims.heads
                set_attention(model, fitting_attention(self.placement.attention, self.placement, width))
            if self.placement.float8:
                to_float8(model, self.placement.float8_matmul)
            if self.placement.compile:
                _compile_blocks(model)
        on_cores = self.placement.device.type == "cuda" and self.placement.vae_dtype in NARROW
        if on_cores and isinstance(model, AutoencoderKLWan):
            _channels_last(model)
        self._settle(model)
        return model

    def _settle(self, model: nn.Module) -> None:
        """Put a network where it waits to be used."""
        model.to(self.placement.device)

    def use(self, model: Model) -> Model:
        """Return ``model`` where it computes; another network may have to leave."""
        return model

    def drop(self, model: nn.Module) -> None:
        """Forget a network that is not needed any more. Delete your own references too, then :meth:`free`."""
        del model

    def free(self) -> None:
        """Return memory that nothing holds any more to the device, for other programs and other networks."""
        gc.collect()
        if self.placement.device.type == "cuda" and torch.cuda.is_available():
            torch.cuda.empty_cache()


class InMainMemory(Residency):
    """The CPU: every network is where it is. Large weights that are narrower than what is computed in stay as stored."""

    def _settle(self, model: nn.Module) -> None:
        if isinstance(model, StableAvatarTransformer3DModel):
            self._widen_as_needed(model)

    def _widen_as_needed(self, model: StableAvatarTransformer3DModel) -> None:
        """Widen layers of blocks for each call alone, all else for good: the same numbers as of a network that is all wide."""
        dtype = self.placement.dtype

        def copied(_path: str, stored: Tensor) -> Tensor:
            return stored.to(dtype)

        in_blocks = set(model.blocks.modules())
        for module in model.modules():
            own = [place for place in held(module, own=True) if place.stored.dtype in NARROW and dtype not in NARROW]
            if not own:
                continue
            size = sum(place.stored.nbytes for place in own)
            if module in in_blocks and size >= STREAMED_FROM_BYTES and not any(module.children()):
                bring_when_called(module, copied, own=True)
                continue
            for place in own:
                put(place, place.stored.detach().to(dtype))


class OneOnDevice(Residency):
    """Mode ``model``: the network asked for last is on the device, and the speech encoder, which is small and often needed."""

    def __init__(self, placement: Placement) -> None:
        super().__init__(placement)
        self._guests: dict[int, Guest] = {}
        self._present: nn.Module | None = None

    @property
    def together(self) -> bool:
        """They take turns."""
        return False

    @property
    def load_device(self) -> torch.device:
        """The CPU: weights wait in main memory."""
        return torch.device("cpu")

    def _settle(self, model: nn.Module) -> None:
        if isinstance(model, Wav2Vec2Model):
            model.to(self.placement.device)
        else:
            self._guests[id(model)] = Guest(model)

    def use(self, model: Model) -> Model:
        guest = self._guests.get(id(model))
        if guest is not None and self._present is not model:
            self._send_back()
            guest.bring(self.placement.device)
            self._present = model
        return model

    def drop(self, model: nn.Module) -> None:
        if self._present is model:
            self._send_back()
        self._guests.pop(id(model), None)

    def _send_back(self) -> None:
        if self._present is not None:
            self._guests[id(self._present)].send_back()
            self._present = None


class BlocksOnDevice(OneOnDevice):
    """Mode ``group``: the transformer's blocks stream through the device, two at a time; other networks visit it whole."""

    def _settle(self, model: nn.Module) -> None:
        if isinstance(model, StableAvatarTransformer3DModel):
            self._stream(model)
        elif not isinstance(model, SMALL_ENCODERS):
            self._guests[id(model)] = Guest(model)

    def _stream(self, model: StableAvatarTransformer3DModel) -> None:
        blocks = model.blocks
        inside = {id(place.table) for place in held(blocks)}
        for place in held(model):
            if id(place.table) not in inside:
                put(place, place.stored.detach().to(self.placement.device))
        BlockStream(list(blocks), self.placement.device)

    def use(self, model: Model) -> Model:
        if isinstance(model, StableAvatarTransformer3DModel):
            self._send_back()  # the VAE's room is the passes'
            return model
        return super().use(model)


class LayersOnDevice(BlocksOnDevice):
    """Mode ``sequential``: single layers of the transformer come when they are called."""

    def _stream(self, model: StableAvatarTransformer3DModel) -> None:
        device = self.placement.device

        def copied(_path: str, stored: Tensor) -> Tensor:
            return stored.to(device)

        for module in model.modules():
            own = held(module, own=True)
            if not own:
                continue
            if sum(place.stored.nbytes for place in own) >= STREAMED_FROM_BYTES and not any(module.children()):
                bring_when_called(module, copied, own=True)
                continue
            for place in own:
                put(place, place.stored.detach().to(device))


MODES: dict[str, type[Residency]] = {
    "full": Residency,
    "model": OneOnDevice,
    "group": BlocksOnDevice,
    "sequential": LayersOnDevice,
}


def _channels_last(model: nn.Module) -> None:
    """Lay out the weights of convolutions as tensor cores want them; else each call would turn them."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for place in held(model):
        stored = place.stored.detach()
        if stored.dim() in formats:
            put(place, stored.contiguous(memory_format=formats[stored.dim()]))


def _compile_blocks(model: StableAvatarTransformer3DModel) -> None:
    """Compile what blocks compute, inside the hooks that bring their weights: one graph serves them all."""
    lean.load_compiler()
    blocks: Any = model.blocks
    for block in blocks:
        block.forward = torch.compile(block.forward, fullgraph=True, dynamic=False)
