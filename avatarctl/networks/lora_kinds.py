"""The kinds of changes that LoRA files hold, and how each of them changes a weight.

Sources: LoRA, Hu et al. 2021; LoHa, Hyeon-Woo et al. 2022 (FedPara); LoKr, Yeh et al. 2024 (LyCORIS), section 3;
DoRA, Liu et al. 2024, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

PEFT_LENGTHS = "lora_magnitude_vector.weight"


class Change(Protocol):
    """A change of one layer's weight."""

    def change(self, base: Tensor | None = None) -> Tensor:
        """Return what is added to the flattened weight (outputs, inputs), in float32; ``base``: that weight."""

    def tensors(self) -> tuple[Tensor, ...]:
        """Return what the file holds of it."""

    def shape(self) -> tuple[int, int]:
        """Return outputs and inputs of the flattened weight that it changes."""

    @property
    def kind(self) -> str:
        """Return its name among people."""


@dataclass(frozen=True)
class LowRank:
    """One layer's change: ``up @ down * alpha / rank``."""

    down: Tensor  # (rank, inputs), convolutions with their further axes
    up: Tensor  # (outputs, rank)
    alpha: float
    kind = "LoRA"

    @property
    def rank(self) -> int:
        """Width between the factors."""
        return self.down.shape[0]

    def change(self, base: Tensor | None = None) -> Tensor:  # noqa: ARG002 (the same whatever the weight)
        """Return the change of the flattened weight (outputs, inputs), in float32."""
        return self.up.flatten(1).float() @ self.down.flatten(1).float() * (self.alpha / self.rank)

    def tensors(self) -> tuple[Tensor, ...]:
        """Return both factors."""
        return self.down, self.up

    def shape(self) -> tuple[int, int]:
        """Return outputs and inputs."""
        return _shape((self.up, self.down))


@dataclass(frozen=True)
class Hadamard:
    """LoHa: the product, element by element, of two low-rank matrices; each factor pair is (outputs, rank), (rank, inputs)."""

    first: tuple[Tensor, Tensor]
    second: tuple[Tensor, Tensor]
    alpha: float
    kind = "LoHa"

    @property
    def rank(self) -> int:
        """Width between the factors."""
        return self.first[1].shape[0]

    def change(self, base: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Return the change of the flattened weight (outputs, inputs), in float32."""
        return _product(self.first) * _product(self.second) * (self.alpha / self.rank)

    def tensors(self) -> tuple[Tensor, ...]:
        """Return all four factors."""
        return *self.first, *self.second

    def shape(self) -> tuple[int, int]:
        """Return outputs and inputs."""
        return _shape(self.first)


@dataclass(frozen=True)
class Kronecker:
    """LoKr: the Kronecker product of two matrices, each whole or as two factors; ``scale`` is alpha over the rank."""

    first: tuple[Tensor, ...]
    second: tuple[Tensor, ...]
    scale: float
    kind = "LoKr"

    def change(self, base: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Return the change of the flattened weight (outputs, inputs), in float32."""
        return torch.kron(_product(self.first), _product(self.second)) * self.scale

    def tensors(self) -> tuple[Tensor, ...]:
        """Return all matrices."""
        return *self.first, *self.second

    def shape(self) -> tuple[int, int]:
        """Return outputs and inputs."""
        (rows, columns), (more_rows, more_columns) = _shape(self.first), _shape(self.second)
        return rows * more_rows, columns * more_columns


@dataclass(frozen=True)
class Decomposed:
    """DoRA: another change, after which each output (or each input) of the weight is brought to a length that was learnt."""

    inner: LowRank | Hadamard | Kronecker
    lengths: Tensor

    @property
    def kind(self) -> str:
        """Return DoRA, and of what."""
        return "DoRA" if isinstance(self.inner, LowRank) else f"DoRA of {self.inner.kind}"

    def change(self, base: Tensor | None = None) -> Tensor:
        """Return the change of the flattened weight (outputs, inputs), in float32; it depends on the weight."""
        assert base is not None, "a length is one of the whole weight"
        weight = base.flatten(1).float()
        turned = weight + self.inner.change().to(weight.device)
        axis = 0 if self.by_columns() else 1
        lengths = self.lengths.float().to(weight.device)
        lengths = lengths.reshape(1, -1) if axis == 0 else lengths.reshape(-1, 1)
        return (
            turned * (lengths / turned.norm(dim=axis, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)) - weight
        )

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the change's tensors and the lengths."""
        return *self.inner.tensors(), self.lengths

    def shape(self) -> tuple[int, int]:
        """Return outputs and inputs."""
        return self.inner.shape()

    def by_columns(self) -> bool:
        """Return whether the lengths are those of columns: they are stored as (1, inputs)."""
        return self.lengths.shape[0] == 1 and self.shape()[0] != 1


def converted(change: Change, dtype: torch.dtype) -> Change:
    """Return a change whose numbers are stored in another format."""
    if isinstance(change, Decomposed):
        inner = converted(change.inner, dtype)
        assert isinstance(inner, LowRank | Hadamard | Kronecker)
        return Decomposed(inner, change.lengths.to(dtype))
    if isinstance(change, LowRank):
        return LowRank(change.down.to(dtype), change.up.to(dtype), change.alpha)
    assert isinstance(change, Hadamard | Kronecker), "there are no others"
    first, second = ([matrix.to(dtype) for matrix in pair] for pair in (change.first, change.second))
    if isinstance(change, Hadamard):
        return Hadamard((first[0], first[1]), (second[0], second[1]), change.alpha)
    return Kronecker(tuple(first), tuple(second), change.scale)


def stored_parts(change: Change, down: str, up: str, lengths: str) -> dict[str, Tensor]:
    """Return what a file holds of a change behind its layer's name; ``down``, ``up`` and ``lengths`` as its form calls them.

    Alpha isn't among it: of LoHa and LoKr it has to be in the factors.
    """
    if isinstance(change, Decomposed):
        own = change.lengths if lengths == PEFT_LENGTHS or change.by_columns() else change.lengths.reshape(-1, 1)
        return {**stored_parts(change.inner, down, up, lengths), lengths: own}
    if isinstance(change, LowRank):
        return {f"{down}.weight": change.down, f"{up}.weight": change.up}
    assert isinstance(change, Hadamard | Kronecker), "there are no others"
    scale = change.alpha / change.rank if isinstance(change, Hadamard) else change.scale
    assert scale == 1, "alpha is in the factors"
    kind = "hada" if isinstance(change, Hadamard) else "lokr"
    return {
        f"{kind}_w{number}{'' if len(pair) == 1 else ending}": matrix
        for number, pair in enumerate((change.first, change.second), start=1)
        for matrix, ending in zip(pair, ("_a", "_b"), strict=False)
    }


def _product(matrices: tuple[Tensor, ...]) -> Tensor:
    """Return one matrix as it is, or the product of two; further axes of convolutions are flattened."""
    flat = [matrix.flatten(1).float() for matrix in matrices]
    return flat[0] if len(flat) == 1 else flat[0] @ flat[1]


def _shape(matrices: tuple[Tensor, ...]) -> tuple[int, int]:
    return matrices[0].shape[0], matrices[-1].flatten(1).shape[1]


# The parts of each kind, as files name them.
PARTS = {
    "lokr": ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"),
    "loha": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
}


def put_together(pieces: dict[str, Tensor], alpha: float | None, rank: float | None) -> Change | None:
    """Return the change that a layer's pieces make; None where one is missing or they don't fit each other.

    ``alpha`` None: as much as the rank. ``rank``: what alpha is divided by, where the file's configuration says it.
    """
    pieces = dict(pieces)
    lengths = pieces.pop("lengths", None)
    inner = _inner(pieces, alpha, rank)
    if inner is None or lengths is None:
        return inner
    if not lengths.ndim:
        return None
    whole = Decomposed(inner, lengths)
    return whole if lengths.numel() == inner.shape()[whole.by_columns()] else None


def _inner(pieces: dict[str, Tensor], alpha: float | None, rank: float | None) -> LowRank | Hadamard | Kronecker | None:
    names = set(pieces)
    if any(tensor.ndim < 2 or not len(tensor) for tensor in pieces.values()):
        return None
    if names == {"down", "up"}:
        down, up = pieces["down"], pieces["up"]
        if up.flatten(1).shape[1] != len(down):
            return None
        return LowRank(down, up, float(len(down)) if alpha is None else alpha)
    if names == set(PARTS["loha"]):
        first, second = ((pieces[f"hada_w{i}_a"], pieces[f"hada_w{i}_b"]) for i in (1, 2))
        if not (_fit(first) and _fit(second)) or _shape(first) != _shape(second):
            return None
        return Hadamard(first, second, float(len(first[1])) if alpha is None else alpha)
    if names and names <= set(PARTS["lokr"]):
        found = [_whole_or_factors(pieces, f"lokr_w{i}") for i in (1, 2)]
        if found[0] is None or found[1] is None or len(found[0]) + len(found[1]) != len(pieces):
            return None
        # Of two whole matrices alpha means nothing: there is no rank.
        own = next((float(len(matrices[1])) for matrices in found if matrices and len(matrices) == 2), None)
        divisor = rank or own
        return Kronecker(found[0], found[1], 1.0 if alpha is None or divisor is None else alpha / divisor)
    return None


def _whole_or_factors(pieces: dict[str, Tensor], name: str) -> tuple[Tensor, ...] | None:
    if name in pieces:
        return (pieces[name],)
    first, second = pieces.get(f"{name}_a"), pieces.get(f"{name}_b")
    if first is None or second is None or not _fit((first, second)):
        return None
    return first, second


def _fit(pair: tuple[Tensor, Tensor]) -> bool:
    return pair[0].flatten(1).shape[1] == len(pair[1])
