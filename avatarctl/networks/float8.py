"""Store the frozen linear layers of a transformer in one byte per weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from avatarctl.errors import UsageError

FLOAT8 = torch.float8_e4m3fn
LARGEST = 448.0  # of float8_e4m3fn
# The parts of the transformer whose linear layers are stored so; embeddings and the output layer are small and sensitive.
PARTS = ("blocks", "vocal_projector")


class _Float8Product(torch.autograd.Function):
    """``x @ weight.T + bias`` that keeps one byte per weight for the way back, and makes the wide weight there again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Float8Linear) -> Tensor:
        # Not through save_for_backward: hooks that move what is saved would copy the weights at every pass.
        ctx.layer = layer
        if layer.kept_by_autograd:  # its weight will be elsewhere on the way back
            ctx.save_for_backward(layer.weight8, layer.scale)
        bias = None if layer.bias is None else layer.bias.to(x.dtype)
        return functional.linear(x, layer.wide(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        saved = ctx.saved_tensors  # asked for once: checkpointing unpacks it once
        if not saved:
            return gradient @ ctx.layer.wide(gradient.dtype), None
        weight8, scale = saved
        return gradient @ _wide(weight8, scale, gradient.dtype), None


class Float8Linear(nn.Module):
    """A frozen linear layer: a float8 weight (outputs, inputs), a scale (outputs, 1), and the bias as it was.

    ``matmul``: multiply in float8, without gradients: inputs are rounded too, by one scale for all of them.

    Scales are powers of two: a weight and its scale multiply without rounding in every number format, and the relative
    error of a weight is at most 1/16, except for those under 1/14336 of the largest in their row.
    """

    kept_by_autograd = False
    """Whether the way back takes the weight from what autograd kept of the pass: it is swapped in and out."""

    def __init__(self, layer: nn.Linear, matmul: bool = False) -> None:
        super().__init__()
        self.matmul = matmul
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight = layer.weight.detach().float()
        largest = weight.abs().amax(dim=1, keepdim=True)
        _, exponent = torch.frexp(largest / LARGEST)  # below two to this power; a row of zeros has zero
        scale = torch.ldexp(torch.ones_like(largest), exponent)
        # Kept as bytes, which no change of the model's dtype touches.
        self.weight8 = nn.Parameter((weight / scale).to(FLOAT8).view(torch.uint8), requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.bias = layer.bias

    def wide(self, dtype: torch.dtype) -> Tensor:
        """Return the weight that this layer multiplies with."""
        return _wide(self.weight8, self.scale, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return (…, outputs) of (…, inputs), in the dtype of ``x`` or of autocast."""
        kind = x.device.type
        if torch.is_autocast_enabled(kind):  # before the product, so that the weight is made no wider than it is used
            x = x.to(torch.get_autocast_dtype(kind))
        if self.matmul:
            return self._multiplied(x)
        result: Tensor = _Float8Product.apply(x, self)
        return result

    def _multiplied(self, x: Tensor) -> Tensor:
        """Return the product of rounded inputs with the weight as it is stored.

        The scales are powers of two and are applied to the product, where they round nothing.
        """
        rows = x.reshape(-1, self.in_features)
        largest = rows.abs().amax().float()
        _, exponent = torch.frexp(largest / LARGEST)
        scale = torch.ldexp(torch.ones_like(largest), exponent)
        one = torch.ones_like(largest)
        narrow = (rows / scale.to(rows.dtype)).to(FLOAT8)
        out = torch._scaled_mm(narrow, self.weight8.view(FLOAT8).t(), scale_a=scale, scale_b=one, out_dtype=x.dtype)
        out = out * self.scale.t().to(x.dtype)
        if self.bias is not None:
            out = out + self.bias.to(x.dtype)
        return out.unflatten(0, x.shape[:-1])

    def extra_repr(self) -> str:
        """Tell the sizes, as torch's own layer does."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"

    def _save_to_state_dict(self, *_: Any, **__: Any) -> None:
        raise UsageError(
            "float8: got a transformer whose base weights are rounded for training, expected to save what was trained alone",
            "write the LoRA, and merge it into the weights that it was trained on: `avatarctl lora merge`",
        )


def _wide(weight8: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return weight8.view(FLOAT8).to(dtype) * scale.to(dtype)


def to_float8(transformer: nn.Module, matmul: bool = False) -> int:
    """Store the frozen linear layers of blocks and audio adapter in float8, in place; return their number.

    ``matmul``: they multiply in float8 too (for rendering: it has no gradients).

    Attach what trains first: layers with a weight or bias that trains stay as they are, LoRA's own too. Gradients are those
    of a model with the rounded weights, exactly. The model can't be saved as a whole any more.
    """
    frozen = [
        name
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear)
        and name.split(".")[0] in PARTS
        and not any(parameter.requires_grad for parameter in module.parameters())
    ]
    for name in frozen:
        parent, _, child = name.rpartition(".")
        owner = transformer.get_submodule(parent)
        setattr(owner, child, Float8Linear(owner.get_submodule(child), matmul))  # type: ignore[arg-type]
    return len(frozen)
