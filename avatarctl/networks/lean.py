"""Import diffusers and transformers without what no render uses: peft, scipy, torch's compiler, distributed tensors.

Both libraries import optional packages wherever these are installed, and torch's compiler for decorators: four fifths of the
time from the command to the first window step. Only processes of our own do this (the command line, workers of a batch);
a program that uses avatarctl as a library imports both as they are.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_own_process = False
# What diffusers takes for installed; without them it leaves out imports at the top of its modules, for pipelines and training.
OPTIONAL = ("_transformers_available", "_peft_available", "_scipy_available")
# What transformers asks; distributed tensors and losses of detectors are not ours.
QUESTIONS = (
    "is_scipy_available",
    "is_torchao_available",
    "is_bitsandbytes_available",
    "is_torch_distributed_available",
)
# What diffusers takes for not installed from then on: libraries that quantise, whose imports ask for the compiler.
NEVER = ("_torchao_available", "_bitsandbytes_available", "_optimum_quanto_available", "_nvidia_modelopt_available")
COMPILER = "torch._dynamo"
LIGHT = (
    f"{COMPILER}._trace_wrapped_higher_order_op",
)  # what torch imports of it without compiling; needs nothing else of it
DECORATORS = ("allow_in_graph", "disable", "assume_constant_result")
PARTS = (
    "diffusers.models.transformers.transformer_wan",
    "diffusers.models.autoencoders.autoencoder_kl_wan",
    "diffusers.schedulers.scheduling_flow_match_euler_discrete",
    "diffusers.hooks",
)
CLASSES = ("Wav2Vec2Model", "CLIPVisionModel", "UMT5EncoderModel", "PreTrainedTokenizerBase")


def allow() -> None:
    """Say that this process is our own, from its start."""
    global _own_process
    _own_process = True


def import_networks() -> None:
    """Import what networks are built of, in a process of our own where nobody has imported it yet; else do nothing."""
    if not _own_process or {"diffusers", "transformers"} & set(sys.modules):
        return
    _defer_compiler()
    with _not_installed("jinja2"):  # for templates of chats
        transformers: Any = importlib.import_module("transformers")
    availability: Any = importlib.import_module("diffusers.utils.import_utils")
    for name in NEVER:
        if hasattr(availability, name):
            setattr(availability, name, False)
    with _replaced(availability, {name: False for name in OPTIONAL if hasattr(availability, name)}):
        for name in PARTS:
            importlib.import_module(name)
    questions = QUESTIONS if "RANK" not in os.environ else QUESTIONS[:-1]
    for module in (
        importlib.import_module("transformers.utils.import_utils"),
        importlib.import_module("transformers.utils"),
    ):
        known = [name for name in questions if hasattr(module, name)]
        # For good: modules that were imported under one answer must not hear another one later.
        for name in known:
            setattr(module, name, _no)
    for name in CLASSES:
        getattr(transformers, name)


def _no() -> bool:
    return False


@contextmanager
def _not_installed(name: str) -> Iterator[None]:
    """Let whoever looks for a package meanwhile, and only then, not find it."""
    if name in sys.modules:
        yield
        return
    blocked: dict[str, Any] = {name: None}
    sys.modules.update(blocked)
    try:
        yield
    finally:
        del sys.modules[name]


@contextmanager
def nothing_drawn() -> Iterator[None]:
    """Let networks that are built without memory draw no weights and compute no norms: torch needs sympy for the shapes."""
    import torch

    computed, weighed = torch.norm_except_dim, torch._weight_norm
    # transformers keeps the functions that it found when it was imported.
    tables = [vars(torch.nn.init), getattr(sys.modules.get("transformers.initialization"), "TORCH_INIT_FUNCTIONS", {})]
    drawing = [{name: table[name] for name in table if name.endswith("_") and name[0] != "_"} for table in tables]

    def norm(v: torch.Tensor, pow: int = 2, dim: int = 0) -> torch.Tensor:
        if not v.is_meta or dim < 0:
            return computed(v, pow, dim)
        return v.new_empty([size if axis == dim else 1 for axis, size in enumerate(v.shape)])

    def weigh(v: torch.Tensor, g: torch.Tensor, dim: int = 0) -> torch.Tensor:
        return v.new_empty(v.shape) if v.is_meta else weighed(v, g, dim)

    for table, draws in zip(tables, drawing, strict=True):
        table.update({name: _unless_empty(draw) for name, draw in draws.items()})
    torch.norm_except_dim, torch._weight_norm = norm, weigh
    try:
        yield
    finally:
        torch.norm_except_dim, torch._weight_norm = computed, weighed
        for table, draws in zip(tables, drawing, strict=True):
            table.update(draws)


def _unless_empty(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that leaves a tensor without memory as it is."""

    def drawn(tensor: Any, *arguments: Any, **options: Any) -> Any:
        return tensor if tensor.is_meta else draw(tensor, *arguments, **options)

    return drawn


@contextmanager
def _replaced(module: ModuleType, values: dict[str, Any]) -> Iterator[None]:
    before = {name: getattr(module, name) for name in values}
    vars(module).update(values)
    try:
        yield
    finally:
        vars(module).update(before)


def _defer_compiler() -> None:
    """Put a ``torch._dynamo`` in place whose decorators leave functions as they are: they matter to compiled code alone.

    torch itself asks for it at some places of an ordinary pass. Whoever asks for anything else gets the real one.
    """
    import torch

    spec = importlib.util.find_spec(COMPILER)
    if COMPILER in sys.modules or spec is None:
        return
    stand_in = importlib.util.module_from_spec(spec)

    def other(attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        load_compiler()
        return getattr(importlib.import_module(COMPILER), attribute)

    vars(stand_in).update(__getattr__=other, **dict.fromkeys(DECORATORS, _as_it_is))
    sys.modules[COMPILER] = torch._dynamo = stand_in
    sys.meta_path.insert(0, _Parts())


class _Parts(MetaPathFinder, Loader):
    """Puts the real compiler in place for whoever imports a module of it, as torchvision does.

    The stand-in can't be its package: importing the module puts the real one in its place, in the midst of that import.
    """

    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        """Return how to import a module of the compiler while the stand-in is there; None for all other modules."""
        if not fullname.startswith(f"{COMPILER}.") or fullname in LIGHT or not _stands_in():
            return None
        load_compiler()
        importlib.import_module(fullname)
        return ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module, which is imported by now; importlib will note its own spec in it."""
        module = sys.modules[spec.name]
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Leave the module as it is, with the spec that it was imported by."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


def load_compiler() -> None:
    """Put the real ``torch._dynamo`` in place, before anything is compiled."""
    import torch

    if _stands_in():
        del sys.modules[COMPILER]
        vars(torch).pop("_dynamo", None)
    importlib.import_module(COMPILER)


def _stands_in() -> bool:
    module = sys.modules.get(COMPILER)
    return module is not None and vars(module).get("disable") is _as_it_is


def _as_it_is(function: Callable[..., Any] | None = None, *_: Any, **__: Any) -> Any:
    return _as_it_is if function is None else function
