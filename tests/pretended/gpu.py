"""Test helper: run the real code on a pretended CUDA device of a CPU build of torch; wrong devices raise, bytes are counted.

``guard.cpp`` gives torch a device guard that does nothing; fake tensors have no data but know their device and size, so that
the largest network needs no memory. What is not seen: mixtures of dtypes, and time.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from avatarctl.networks import audio_adapter

CUDA = torch.device("cuda:0")


def build_guard(folder: Path) -> None:
    """Compile the device guard and load it into this process; skips the test where that can't be done."""
    if torch.version.cuda:
        pytest.skip("torch has CUDA here: nothing to pretend")
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed: it compiles the pretended device")
    home = Path(torch.__file__).parent
    library = folder / "guard.so"
    source = Path(__file__).with_name("guard.cpp")
    command = ["g++", "-shared", "-fPIC", "-std=c++20", source, "-o", library, f"-I{home / 'include'}"]
    subprocess.run([*map(str, command), f"-L{home / 'lib'}", "-lc10"], check=True, capture_output=True)
    torch.ops.load_library(str(library))


class Stream:
    """A stream that does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def wait_event(self, *_: Any) -> None:
        pass

    def wait_stream(self, *_: Any) -> None:
        pass


class Event:
    """An event that has always happened."""

    def record(self, *_: Any) -> None:
        pass


def replace_tensors(
    module: nn.Module, change: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True
) -> nn.Module:
    """Do what ``nn.Module._apply`` does with new tensors in the place of the old ones; tied ones stay tied."""
    made: dict[int, torch.Tensor] = {}
    for part in module.modules() if recurse else [module]:
        for table in (part._parameters, part._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    if id(tensor) not in made:
                        new = change(tensor)
                        keep = isinstance(tensor, nn.Parameter)
                        made[id(tensor)] = nn.Parameter(new, requires_grad=tensor.requires_grad) if keep else new
                    table[name] = made[id(tensor)]
    return module


def forget_tensors() -> None:
    """Empty the caches of tensors: real ones can't go to a device that isn't there, fake ones are of no use to others."""
    audio_adapter.frame_gather.cache_clear()


@contextlib.contextmanager
def pretended(attention: bool = True) -> Iterator[Bytes]:
    """Run a block with a CUDA device that isn't there, counting its bytes.

    ``attention``: replace attention by its shape: fake tensors would count the plain kernel, which no GPU uses.
    """
    stubs = {
        (torch.cuda, "Stream"): Stream,
        (torch.cuda, "Event"): Event,
        (torch.cuda, "current_stream"): lambda *_: Stream(),
        (torch.cuda, "stream"): lambda _: contextlib.nullcontext(),
        (torch.cuda, "current_device"): lambda: 0,
        (torch.cuda, "get_device_properties"): lambda *_: SimpleNamespace(name="pretended", major=9, minor=0),
        (torch.Tensor, "record_stream"): lambda *_: None,
        (nn.Module, "_apply"): replace_tensors,  # data of a fake tensor can't be set
    }
    if attention:
        stubs[torch.nn.functional, "scaled_dot_product_attention"] = lambda query, *_, **__: torch.empty_like(query)
    before = {place: getattr(*place) for place in stubs}
    forget_tensors()
    for (owner, name), stub in stubs.items():
        setattr(owner, name, stub)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), Bytes() as counted:
            yield counted
    finally:
        for (owner, name), real in before.items():
            setattr(owner, name, real)
        forget_tensors()


class Bytes(TorchDispatchMode):
    """Counts live bytes on the device, their peak, and what moves between it and main memory."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.moved: Counter[str] = Counter()
        self._seen: set[int] = set()

    def reset(self) -> None:
        """Begin the peak and the moves anew."""
        self.peak = self.live
        self.moved.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and out.device.type != args[0].device.type:
            self.moved["to device" if out.device.type == "cuda" else "to memory"] += out.nbytes
        pytree.tree_map_only(torch.Tensor, self._note, out)
        return out

    def _note(self, tensor: torch.Tensor) -> None:
        if tensor.device.type != "cuda":
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.live -= size
        self._seen.discard(key)
