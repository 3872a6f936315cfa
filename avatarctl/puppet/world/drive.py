"""The mouth that a voice drives, picture by picture: open with its level, shut at m b p, wide or narrow with the vowel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from avatarctl.audio.speak import Phoneme
from avatarctl.puppet.mouth import mouth_from_audio, smooth

FPS = Fraction(25)
SMOOTH_FRAMES = 1.0  # of the opening: what is sharper can't be learnt from pooled speech tokens
WIDTH_FRAMES = 1.5
SHUT, NEARLY = frozenset("mbp"), frozenset("fv")  # first letters of phonemes' names, alike in all languages
NEARLY_SHUT = 0.35
HOLD_S = 0.07  # of b and p lips are shut at most so long before they burst
LEAST_HALF_S = 0.055  # half of the shortest closure: two pictures are wholly shut
# How wide vowels are, by the letters of their names: "eI" is two of them, one after the other.
WIDTHS = {
    **dict.fromkeys("iIeEj", 0.90),
    **dict.fromkeys("&a", 0.65),
    **dict.fromkeys("AV@3", 0.50),
    **dict.fromkeys("oO089", 0.25),
    **dict.fromkeys("uUwyYW", 0.10),
}
REST_WIDTH = 0.5


@dataclass(frozen=True)
class Drive:
    """Opening, width and pressed lips (frames,), each 0 … 1."""

    opening: NDArray[np.float64]
    width: NDArray[np.float64]
    press: NDArray[np.float64]

    def since(self, frame: int) -> Drive:
        """Return what comes from a picture on."""
        return Drive(self.opening[frame:], self.width[frame:], self.press[frame:])


def drive(waveform_T: NDArray[np.float32], phonemes: Sequence[Phoneme], frames: int) -> Drive:
    """Return the mouth of a voice at 16 kHz, at 25 pictures a second. Deterministic; silence is a shut mouth."""
    level, _ = mouth_from_audio(waveform_T, frames, FPS, SMOOTH_FRAMES)
    middles_s = (np.arange(frames, dtype=np.float64) + 0.5) / float(FPS)
    press, gate = np.zeros(frames), np.ones(frames)
    for each in phonemes:
        middle_s, half_s = _closure(each)
        # 1 within three quarters of the half, 0 from seven quarters on.
        near = np.clip(1.75 - np.abs(middles_s - middle_s) / half_s, 0, 1)
        if is_shut(each):
            press = np.maximum(press, near)
        elif each.name[:1] in NEARLY:
            gate = np.minimum(gate, 1 - (1 - NEARLY_SHUT) * near)
    opening = np.clip(level * gate * (1 - press), 0, 1)
    return Drive(opening, _width(phonemes, level, middles_s), press)


def closures(phonemes: Sequence[Phoneme], frames: int) -> list[int]:
    """Return the pictures in the middle of m, b and p, without those at the very ends."""
    found = [int(_closure(each)[0] * float(FPS)) for each in phonemes if is_shut(each)]
    return [frame for frame in found if 1 <= frame < frames - 1]


def vowels(phonemes: Sequence[Phoneme]) -> list[Phoneme]:
    """Return the vowels: sounds that open the mouth."""
    return [each for each in phonemes if each.name[:1] in WIDTHS and each.name[:1] not in "jw"]


def is_shut(phoneme: Phoneme) -> bool:
    """Tell whether lips are shut at a sound."""
    return phoneme.name[:1] in SHUT


def _closure(phoneme: Phoneme) -> tuple[float, float]:
    """Return the middle of a sound and half its length; of b and p that of the hold before the burst."""
    stop_s = phoneme.stop_s
    if phoneme.name[:1] in "bp":
        stop_s = min(stop_s, phoneme.start_s + HOLD_S)
    return (phoneme.start_s + stop_s) / 2, max((stop_s - phoneme.start_s) / 2, LEAST_HALF_S)


def _width(
    phonemes: Sequence[Phoneme], level: NDArray[np.float64], middles_s: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the width: of the vowel that is heard, as much as it is heard; else that of rest."""
    wanted, heard = np.full(len(level), REST_WIDTH), np.zeros(len(level))
    for each in vowels(phonemes):
        letters = [WIDTHS[letter] for letter in each.name if letter in WIDTHS]
        span = (middles_s >= each.start_s) & (middles_s < each.stop_s)
        place = (middles_s[span] - each.start_s) / (each.stop_s - each.start_s) * len(letters)
        wanted[span] = np.array(letters)[np.minimum(place.astype(int), len(letters) - 1)]
        heard[span] = level[span]
    return (smooth(wanted * heard, WIDTH_FRAMES) + REST_WIDTH * 0.05) / (smooth(heard, WIDTH_FRAMES) + 0.05)
