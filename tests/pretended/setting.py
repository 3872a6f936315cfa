"""Test helper: networks of the real classes on a pretended GPU, and window steps over them."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch
from gpu import CUDA
from torch import nn

from avatarctl.networks import kinds
from avatarctl.networks.dims import TransformerDims
from avatarctl.networks.placement import Placement, Role
from avatarctl.networks.residency import Residency, residency_of
from avatarctl.networks.transformer import StableAvatarTransformer3DModel
from avatarctl.sampling.denoise import WindowRequest
from avatarctl.sampling.guidance import scheme_of
from avatarctl.sampling.predict import Conditions, Predictor
from avatarctl.sampling.windows import plan_windows
from avatarctl.settings.render import RenderSettings

MODES = ("full", "model", "group", "sequential")
TINY = TransformerDims(
    dim=48, heads=4, layers=3, ffn=96, text=24, text_len=12, clip=20, w2v=16, freq_dim=32, vocal_heads=8
)


def placement(memory: str, float8: bool = False, dtype: torch.dtype = torch.bfloat16, **more: Any) -> Placement:
    return Placement(CUDA, dtype, memory, float8, None, False, **more)


def loaded(model: nn.Module, residency: Residency, role: Role) -> Any:
    """Return a network as loading leaves it (its dtypes, its place) and the memory mode settles it."""
    dtype = residency.placement.dtype_of(role)
    keep = getattr(model, "_keep_in_fp32_modules", None) or [] if role == "transformer" else []
    for path, module in model.named_modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                wide = set(keep) & set(f"{path}.{name}".split("."))
                stored = torch.empty(
                    parameter.shape, dtype=torch.float32 if wide else dtype, device=residency.load_device
                )
                module._parameters[name] = nn.Parameter(stored, requires_grad=False)
    return residency.place(model.to(residency.load_device).eval())


class Levels:
    """Noise levels of four steps; numbers only, since fake tensors have none."""

    sigmas = (1.0, 0.8, 0.5, 0.2, 0.0)

    @property
    def timesteps(self) -> torch.Tensor:
        return torch.zeros(4)


class Steps:
    """Window steps of a transformer in a memory mode."""

    def __init__(
        self,
        dims: TransformerDims,
        memory: str,
        float8: bool = False,
        size: tuple[int, int] = (48, 32),
        frames: int = 6,
        transformer: StableAvatarTransformer3DModel | None = None,
        **more: Any,
    ) -> None:
        self.residency = residency_of(placement(memory, float8, **more))
        self.transformer: StableAvatarTransformer3DModel = (
            loaded(kinds.build_transformer(dims), self.residency, "transformer")
            if transformer is None
            else self.residency.place(transformer.to(self.residency.load_device))
        )
        self.dims, self.frames = dims, frames
        self.rows, self.columns = size[1] // 8, size[0] // 8
        self.plan = plan_windows(16000 * 30, Fraction(25), frames, 2)

    def predictor(self, **settings: Any) -> Predictor:
        dims = self.dims
        reference = torch.randn(1, dims.in_dim - dims.out_dim, self.frames, self.rows, self.columns)
        states = torch.randn(1, 161, dims.w2v)
        conditions = Conditions(
            torch.randn(1, 9, dims.text),
            torch.randn(1, 9, dims.text),
            torch.randn(1, 257, dims.clip),
            reference,
            lambda _: states,
        )
        self.residency.use(self.transformer)
        ahead = self.residency.placement.memory in ("full", "model")
        return Predictor(
            self.transformer,
            conditions,
            scheme_of(RenderSettings(**settings)),
            Levels(),
            self.frames,
            reuse=RenderSettings(**settings).guidance_reuse,
            precompute=ahead,
        )

    def requests(self, *steps: int) -> list[WindowRequest]:
        shape = (1, self.dims.out_dim, self.frames, self.rows, self.columns)
        return [WindowRequest(self.plan.get(2 * i), step, torch.randn(shape), None) for i, step in enumerate(steps)]
