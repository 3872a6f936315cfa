"""Print what thresholds of lips and voice let pass: `python tests/prepare_thresholds.py`; docs/prepare.md has the outcome.

Mouths follow one of 24 voices with noise, so much that their correlation is that of real clips or of drawn faces; each is
compared with its own voice and with three others, in stretches of 4, 8 and 15 s.
"""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1])]

from voices import make_voice  # noqa: E402

from avatarctl.audio.envelope import envelope  # noqa: E402 (found by the line above)
from avatarctl.faces.lips import following  # noqa: E402
from avatarctl.puppet.mouth import mouth_from_audio, smooth  # noqa: E402

FPS, RATE, SECONDS, VOICES, TIMES = Fraction(25), 25.0, 30, 24, 3
THRESHOLDS = ((0.25, 0.03), (0.25, 0.08), (0.3, 0.1), (0.35, 0.15))


def noisy(opening: np.ndarray, share: float, chance: np.random.Generator) -> np.ndarray:
    """Return a mouth that follows its voice by a share, and else moves by chance."""
    noise = smooth(chance.normal(0, 1, len(opening)), 1.5)
    return share * (opening - opening.mean()) / opening.std() + np.sqrt(1 - share**2) * noise / noise.std()


def scores(mouth: np.ndarray, levels: np.ndarray, start: int) -> tuple[float, float, float]:
    """Return the margin of a wide search, then correlation and margin near the lag that it found, as `data prepare` does."""
    wide = following(mouth, levels, RATE, start=start, least_s=1.0)
    assert wide is not None
    margin = wide.correlation - wide.shifted_q95
    around = round(wide.lag_s * RATE) if margin > 0 else 0
    near = following(mouth, levels, RATE, start=start, around=around, most_lag_s=0.08, least_s=1.0)
    assert near is not None
    return margin, near.correlation, near.correlation - near.shifted_q95


def main() -> None:
    """Print a line per length and likeness."""
    chance = np.random.default_rng(0)
    voices = [make_voice(4000 + number, SECONDS) for number in range(VOICES)]
    levels = [envelope(voice, 25 * SECONDS, FPS) for voice in voices]
    mouths = [mouth_from_audio(voice, 25 * SECONDS, FPS, 1.5)[0] for voice in voices]
    for seconds in (4, 8, 15):
        count = 25 * seconds
        for share in (0.45, 0.6, 0.9):
            own, other = [], []
            for number in range(VOICES):
                mouth = noisy(mouths[number], share, chance)
                for time in range(TIMES):
                    start = int(chance.integers(0, 25 * SECONDS - count))
                    part = mouth[start : start + count]
                    own.append(scores(part, levels[number], start))
                    other.append(scores(part, levels[(number + 1 + time) % VOICES], start))
            found = [np.array(each) for each in (own, other)]
            passed = [
                [float(((rows[:, 0] > 0) & (rows[:, 1] >= least) & (rows[:, 2] >= margin)).mean()) for rows in found]
                for least, margin in THRESHOLDS
            ]
            told = ", ".join(
                f"{t[0]}/{t[1]}: {a:.2f} and {b:.3f}" for t, (a, b) in zip(THRESHOLDS, passed, strict=True)
            )
            sys.stdout.write(f"{seconds} s, median correlation {np.median(found[0][:, 1]):.2f}: {told}\n")


if __name__ == "__main__":
    main()
