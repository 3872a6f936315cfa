"""Keep frozen weights of a transformer's first blocks in the CPU's memory, and send each block's to the GPU when it computes.

Frozen weights never change, so nothing ever comes back: what was sent is dropped. The next block's are sent on a stream of
their own while one computes. With gradient checkpointing a block computes again on the way back, in the opposite order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from avatarctl.networks.float8 import Float8Linear


@dataclass(frozen=True)
class _Place:
    """A frozen weight: whose it is, its name there, and its numbers in the CPU's memory."""

    owner: nn.Module
    name: str
    stored: Tensor


class BlockSwap:
    """The blocks of a transformer whose frozen weights wait in the CPU's memory; attach before the transformer is moved."""

    def __init__(self, blocks: nn.ModuleList, count: int, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._places = [_take(block, device.type == "cuda") for block in list(blocks)[:count]]
        self._sent: dict[int, list[Tensor]] = {}
        self._last = -1
        for index, block in enumerate(list(blocks)[:count]):
            block.register_forward_pre_hook(self._before(index))
            block.register_forward_hook(self._after(index), always_call=True)

    @property
    def stored_bytes(self) -> int:
        """Bytes that wait in the CPU's memory."""
        return sum(place.stored.nbytes for block in self._places for place in block)

    def _before(self, index: int) -> Any:
        def hook(*_: Any) -> None:
            tensors = self._sent.pop(index, None) or self._send(index)
            if self._stream is not None:
                torch.cuda.current_stream(self.device).wait_stream(self._stream)
            for place, tensor in zip(self._places[index], tensors, strict=True):
                if self._stream is not None:
                    tensor.record_stream(torch.cuda.current_stream(self.device))
                # A new parameter each time: what autograd keeps of the last one stays what it was.
                place.owner._parameters[place.name] = nn.Parameter(tensor, requires_grad=False)
            step = -1 if index < self._last else 1
            self._last = index
            self._sent.clear()
            if 0 <= index + step < len(self._places):
                self._sent[index + step] = self._send(index + step)

        return hook

    def _after(self, index: int) -> Any:
        def hook(*_: Any) -> None:
            for place in self._places[index]:
                place.owner._parameters[place.name] = _nothing(place.stored, self.device)

        return hook

    def _send(self, index: int) -> list[Tensor]:
        places = self._places[index]
        if self._stream is None:
            return [place.stored.to(self.device) for place in places]
        with torch.cuda.stream(self._stream):
            return [place.stored.to(self.device, non_blocking=True) for place in places]


def _take(block: nn.Module, pin: bool) -> list[_Place]:
    """Take a block's frozen weights out of it, into pinned memory where they are to be sent to a GPU."""
    places = []
    for module in block.modules():
        if isinstance(module, Float8Linear):
            module.kept_by_autograd = True
        for name, parameter in list(module._parameters.items()):
            if parameter is not None and not parameter.requires_grad:
                stored = parameter.detach()
                places.append(_Place(module, name, stored.pin_memory() if pin else stored))
                module._parameters[name] = _nothing(stored, torch.device("cpu"))
    return places


def _nothing(like: Tensor, device: torch.device) -> nn.Parameter:
    return nn.Parameter(torch.empty(0, dtype=like.dtype, device=device), requires_grad=False)
