"""Round what is measured for rows: shares, means, trends; None where there is nothing to round."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from avatarctl.evaluation.trend import Trend


def rounded(value: float | None, digits: int = 4) -> float | None:
    """Return a number rounded."""
    return None if value is None else round(value, digits)


def share(flags: NDArray[np.bool_]) -> float:
    """Return the share of flags that are set; 0 of none."""
    return round(float(flags.mean()), 4) if len(flags) else 0.0


def mean(values: NDArray[np.float64]) -> float | None:
    """Return the mean of the values that are numbers."""
    return rounded(float(np.nanmean(values))) if np.isfinite(values).any() else None


def slope(found: Trend | None) -> tuple[float | None, list[float] | None]:
    """Return a slope and its interval."""
    if found is None:
        return None, None
    return rounded(found.slope), [round(found.low, 4), round(found.high, 4)]
