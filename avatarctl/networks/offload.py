"""Keep a network's weights in main memory and bring them to the device while they are needed.

Weights never change in a render, so nothing is ever copied back: what leaves the device is dropped, and the tensors in main
memory take its place again. They may lie in the mapped file; then the system may drop their pages.
"""

from __future__ import annotations

import contextlib
import itertools
import warnings
import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

ALIGNMENT = 256  # bytes: kernels want their operands aligned as the allocator aligns them
Copy = Callable[[str, Tensor], Tensor]


class Held(NamedTuple):
    """A parameter or buffer where it stands: the module's own table, its name there, its path, and the stored tensor."""

    table: dict[str, Any]
    name: str
    path: str
    stored: Tensor


def held(module: nn.Module, own: bool = False) -> list[Held]:
    """List what a module holds, with its submodules unless ``own``."""
    modules: Iterable[tuple[str, nn.Module]] = [("", module)] if own else module.named_modules()
    return [
        Held(table, name, f"{path}.{name}", tensor)
        for path, part in modules
        for table in (part._parameters, part._buffers)
        for name, tensor in table.items()
        if tensor is not None
    ]


def put(place: Held, tensor: Tensor) -> None:
    """Put a tensor where a stored one stands."""
    as_parameter = isinstance(place.stored, nn.Parameter) and not isinstance(tensor, nn.Parameter)
    place.table[place.name] = nn.Parameter(tensor, requires_grad=False) if as_parameter else tensor


class Guest:
    """A whole network that visits the device."""

    def __init__(self, module: nn.Module) -> None:
        self._held = held(module)

    def bring(self, device: torch.device) -> None:
        """Put copies on the device in the place of the weights."""
        copies: dict[int, Tensor] = {}  # tied weights stay tied
        for place in self._held:
            if id(place.stored) not in copies:
                copies[id(place.stored)] = place.stored.detach().to(device)
            put(place, copies[id(place.stored)])

    def send_back(self) -> None:
        """Drop the copies: the weights in main memory stand in their place again."""
        for place in self._held:
            put(place, place.stored)


def bring_when_called(part: nn.Module, copied: Copy, own: bool = False) -> None:
    """Put copies in the place of a module's weights for the time of each call, also of one that fails."""
    places = held(part, own)

    def bring(_module: nn.Module, _inputs: Any) -> None:
        for place in places:
            put(place, copied(place.path, place.stored.detach()))

    def release(_module: nn.Module, _inputs: Any, _outputs: Any) -> None:
        for place in places:
            put(place, place.stored)

    part.register_forward_pre_hook(bring)
    part.register_forward_hook(release, always_call=True)


class BlockStream:
    """Bring blocks that run one after the other to the device, each while the one before it computes.

    A block travels as one piece: its weights are gathered in one buffer of main memory, locked there where the system allows
    it, so that the copy overlaps with work. At most two blocks are on the device.
    """

    def __init__(self, blocks: Sequence[nn.Module], device: torch.device) -> None:
        self._device = device
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._blocks = [_Packed(block, device) for block in blocks]
        self._coming: dict[
            int, tuple[Tensor, Any]
        ] = {}  # place of a block -> its buffer on the device, and when it is there
        for place, block in enumerate(blocks):
            block.register_forward_pre_hook(lambda _module, _inputs, place=place: self._enter(place))
            block.register_forward_hook(
                lambda _module, _inputs, _out, place=place: self._leave(place), always_call=True
            )

    def _enter(self, place: int) -> None:
        if place not in self._coming:
            self._coming.clear()
            self._send(place)
        buffer, ready = self._coming.pop(place)
        if ready is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(ready)
            buffer.record_stream(current)  # it was allocated for the side stream; don't reuse it while this one reads
        self._blocks[place].unpack(buffer)
        if len(self._blocks) > 1:
            self._send((place + 1) % len(self._blocks))

    def _send(self, place: int) -> None:
        source = self._blocks[place].buffer
        if self._side is None:
            self._coming[place] = source.to(self._device, copy=True), None
            return
        with torch.cuda.stream(self._side):
            buffer = source.to(self._device, non_blocking=True)
            ready = torch.cuda.Event()
            ready.record(self._side)
        self._coming[place] = buffer, ready

    def _leave(self, place: int) -> None:
        self._blocks[place].put_back()


class _Packed:
    """A block's weights in one buffer of bytes in main memory, where the module's tensors are views of it."""

    def __init__(self, block: nn.Module, device: torch.device) -> None:
        places = held(block)
        sizes = [-(-place.stored.nbytes // ALIGNMENT) * ALIGNMENT for place in places]
        self._starts = [0, *itertools.accumulate(sizes)]
        self.buffer = torch.empty(self._starts[-1], dtype=torch.uint8)
        self._places = []
        for place, start in zip(places, self._starts, strict=False):
            view = _view(self.buffer, start, place.stored)
            view.copy_(place.stored.detach())
            put(place, view)
            self._places.append(Held(place.table, place.name, place.path, place.table[place.name]))
        # Under another device CUDA would begin a context there, half a gigabyte on a GPU that nobody asked for.
        with (
            torch.cuda.device(device)
            if device.type == "cuda" and torch.cuda.is_available()
            else contextlib.nullcontext()
        ):
            _lock(self.buffer)

    def unpack(self, buffer: Tensor) -> None:
        """Let the module's weights be views of a buffer on the device."""
        for place, start in zip(self._places, self._starts, strict=False):
            put(place, _view(buffer, start, place.stored))

    def put_back(self) -> None:
        """Let them be views of the buffer in main memory."""
        for place in self._places:
            put(place, place.stored)


def _view(buffer: Tensor, start: int, like: Tensor) -> Tensor:
    return buffer[start : start + like.nbytes].view(like.dtype).view(like.shape)


def _lock(buffer: Tensor) -> None:
    """Lock a buffer's pages in main memory where CUDA can; without it copies are slower and don't overlap.

    ``Tensor.pin_memory`` would round its size up to a power of two. They are released with the buffer.
    """
    if not torch.cuda.is_available() or not buffer.nbytes:
        return
    cuda, place = torch.cuda.cudart(), buffer.data_ptr()
    if int(cuda.cudaHostRegister(place, buffer.nbytes, 0)) == 0:
        weakref.finalize(buffer.untyped_storage(), cuda.cudaHostUnregister, place)
        return
    _say_slow()
    # CUDA reports the refusal once more, to whoever calls it next: that is this call.
    with contextlib.suppress(RuntimeError):
        torch.zeros(1, device="cuda").add_(1)


@cache
def _say_slow() -> None:
    """Warn once that copies will be slow."""
    warnings.warn(
        "main memory: the system locks too little of it for the GPU (ulimit -l, or memory is short); weights travel slower",
        stacklevel=4,
    )
