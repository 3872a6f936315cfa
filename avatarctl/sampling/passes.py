"""Count the passes of the transformer that a window takes, from the settings alone; no torch."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from avatarctl.sampling import guidance
from avatarctl.settings.render import RenderSettings


@dataclass(frozen=True)
class Passes:
    """Passes of one window over all its steps: all, those with audio tokens, and those that run the audio adapter."""

    total: int = 0
    hearing: int = 0
    adapting: int = 0


def passes_of(settings: RenderSettings) -> Passes:
    """Return the passes of a window: guidance outside its interval, reused guidance and equal passes are not counted."""
    scheme = guidance.scheme_of(settings)
    total = hearing = adapting = 0
    has_residual = False
    for step, level in enumerate(noise_levels(settings.steps, settings.shift, settings.schedule)):
        active = guidance.active(scheme, level, settings.guidance_interval)
        several = settings.guidance_reuse > 1 and len(active) > 1
        if several and has_residual and step % settings.guidance_reuse:
            active = guidance.none()
        else:
            has_residual = several
        total += len(active)
        hearing += sum(inputs.tokens == "adapter" for inputs in active)
        adapting += len({inputs.audio for inputs in active if inputs.tokens == "adapter"})
    return Passes(total, hearing, adapting)


def noise_levels(steps: int, shift: float, kind: str) -> list[float]:
    """Return the noise level of each step, as ``denoise.schedule`` has them."""

    def shifted(level: float) -> float:
        return shift * level / (1 + (shift - 1) * level)

    least = {"released": shifted(1 / 1000), "textbook": 1 / 1000, "uniform": 1 / steps}[kind]
    levels = [1 + (least - 1) * step / max(steps - 1, 1) for step in range(steps)]
    return [_single(shifted(level)) for level in levels]


def _single(value: float) -> float:
    """Return a number in single precision, in which the schedule holds it."""
    return float(struct.unpack("f", struct.pack("f", value))[0])
