"""What the passes of one optimizer step measured: losses, the samples, those that are damaged or whose loss isn't finite."""

from __future__ import annotations

import math

from torch import Tensor

from avatarctl.training.distill import Imitation, by_segment
from avatarctl.training.draws import BRANCHES, Draws
from avatarctl.training.loss import Batch


class StepMetrics:
    """Mean loss of a step's passes, their samples, those whose loss isn't finite, and losses by mask."""

    def __init__(self, passes: int) -> None:
        self.loss, self._passes = 0.0, passes
        self.keys: list[str] = []
        self.broken: list[str] = []
        self.damaged: list[str] = []
        self._branches: dict[str, list[float]] = {}
        self._imitations: list[tuple[int, float, float]] = []

    def add(self, batch: Batch, draws: Draws, errors: Tensor) -> None:
        """Note a pass; ``errors`` is the loss of each of its samples."""
        values = errors.tolist()
        self.loss += sum(values) / len(values) / self._passes
        self.keys += batch.keys
        self.damaged += batch.skipped
        for key, branch, value in zip(batch.keys, draws.branch.tolist(), values, strict=True):
            self._branches.setdefault(BRANCHES[branch], []).append(value)
            if not math.isfinite(value):
                self.broken.append(key)

    def add_imitation(self, found: Imitation | None) -> None:
        """Note how far a student's pass was from its teacher; None: there is no teacher."""
        if found is not None:
            self._imitations += zip(found.segment, found.error.tolist(), found.effect.tolist(), strict=True)

    def by_segment(self) -> dict[str, float]:
        """Return the error over the guidance effect, of this process's samples; nothing without a teacher."""
        return by_segment(self._imitations)

    def by_branch(self) -> dict[str, float]:
        """Return the mean loss by mask, of this process's samples."""
        return {f"loss_{name}": sum(values) / len(values) for name, values in sorted(self._branches.items())}
