"""Bounds that a video has to keep to: their names, which way each counts, and which of them a video misses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from avatarctl.errors import UsageError
from avatarctl.settings.check import did_you_mean

# Measures of which more is better; of all others less is, and their sign doesn't count.
AT_LEAST = (
    *("duration_s", "pictures", "fps", "face.share", "face.height_px"),
    *("lips.correlation", "lips.times_shifted", "lips.amplitude", "lips.speech_share"),
    *("picture.sharpness", "picture.still_share", "sound.duration_s", "syncnet.lse_c"),
)
AT_MOST = (
    *("face.persons", "face.most_at_once", "face.unsure_share"),
    *("lips.lag_s", "lips.shifted_mean", "lips.shifted_q95", "lips.still_in_speech", "lips.moving_in_silence"),
    *("identity.mean", "identity.worst", "identity.first_minute", "identity.last_minute", "identity.slope_per_minute"),
    *("picture.colour", "picture.colour_slope_per_minute", "picture.sharpness_slope_per_minute"),
    *("picture.flicker", "picture.border_ratio", "sound.offset_s", "sound.length_difference_s"),
    *("syncnet.lse_d", "syncnet.lag_s", "syncnet.shifted_lse_c", "syncnet.shifted_lse_d"),
)


@dataclass(frozen=True)
class Bound:
    """``key`` of a measure, such as ``lips.lag_s``, and what it has to reach or may reach."""

    key: str
    limit: float

    @property
    def at_least(self) -> bool:
        """Return whether more is better."""
        return self.key in AT_LEAST

    def kept(self, value: float | None) -> bool:
        """Return whether a value keeps to the bound; what couldn't be measured doesn't."""
        if value is None:
            return False
        return value >= self.limit if self.at_least else abs(value) <= self.limit

    def words(self, value: float | None) -> str:
        """Return what is missed, in words."""
        shown = "not measured" if value is None else f"{value:g}"
        return f"{self.key}: {shown}, expected {'at least' if self.at_least else 'at most'} {self.limit:g}"


def parse_bounds(texts: Sequence[str]) -> list[Bound]:
    """Return the bounds of texts such as ``lips.lag_s=0.08``; raises ``UsageError`` with all that is wrong."""
    bounds, mistakes = [], []
    known = [*AT_LEAST, *AT_MOST]
    for text in texts:
        key, equals, number = text.partition("=")
        key = key.strip()
        if key not in known:
            mistakes.append(f"--gate: got '{text}', expected the name of a measure{did_you_mean(key, known)}")
            continue
        try:
            limit = float(number)
        except ValueError:
            limit = float("nan")
        if not equals or limit != limit or limit in (float("inf"), float("-inf")):
            mistakes.append(f"--gate: got '{text}', expected {key}=NUMBER")
            continue
        bounds.append(Bound(key, limit))
    if mistakes:
        raise UsageError("\n".join(mistakes), f"such as --gate lips.lag_s=0.08; the measures: {', '.join(known)}")
    return bounds


def missed(row: Mapping[str, Any], bounds: Sequence[Bound]) -> list[str]:
    """Return what a video misses, in words."""
    return [bound.words(value) for bound in bounds if not bound.kept(value := value_of(row, bound.key))]


def value_of(row: Mapping[str, Any], key: str) -> float | None:
    """Return a measure by its name."""
    found: Any = row
    for name in key.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return None if found is None else float(found)
