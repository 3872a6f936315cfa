"""Everything that is measured of a video of a drawn person, against the voice that it speaks and the face that it is of."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from avatarctl.evaluation.colour import lab
from avatarctl.evaluation.identity import colour_distance, nearest, slope_interval
from avatarctl.evaluation.sync import correlation, sync
from avatarctl.puppet.world.clips import EYE_REGIONS, HEAD_REGION, MOUTH_REGION, region_mask
from avatarctl.puppet.world.drive import FPS, closures, drive, vowels
from avatarctl.puppet.world.identity import Identity, Pose
from avatarctl.puppet.world.portrait import draw
from avatarctl.puppet.world.scores import blinks_of, closures_shown, onset_lag, openings
from avatarctl.puppet.world.see import first_change, flash, own_iris_is_nearest, saturation, see
from avatarctl.puppet.world.voice import Voice

FACES = 20  # that a person is told apart from
LEAST_FOR_DRIFT_S = 60
LOOK = ("bowler", "glasses")  # that a LoRA is taught
SETTLED = 5  # pictures after which a look that the reference lacks has to be there


def measure(frames_THWC: NDArray[np.uint8], who: Identity, voice: Voice) -> dict[str, Any]:
    """Measure pictures at 25 a second of a person who speaks. Curves are kept, rounded; what doesn't occur is None.

    ``flash``, ``first_change``: of the first pictures; ``saturation_first``: of the reference's; ``drift``: intervals of the
    slopes per minute of the distance in colour (Lab) and of the face (grey levels), of a minute at least.
    """
    count, size, fps = len(frames_THWC), frames_THWC.shape[1], float(FPS)
    expected, seen = drive(voice.samples, voice.phonemes, count), see(frames_THWC, who)
    follows = sync(seen.opening, expected.opening)
    lips = closures_shown(seen.opening, expected.opening, closures(voice.phonemes, count))
    spoken = [each for each in vowels(voice.phonemes) if each.start_s < count / fps]
    rate, pictures = blinks_of(seen.shut, fps)

    still = region_mask(size, [MOUTH_REGION, *EYE_REGIONS]) == 0
    face = still & (region_mask(size, [HEAD_REGION]) > 0)
    reference = draw(who, Pose(), size)
    others = [draw(Identity.of(who.seed + number), Pose(), size) for number in range(1, FACES)]
    distance = colour_distance(frames_THWC, reference, face)
    colour = np.array([np.linalg.norm(_tint(frame, face) - _tint(reference, face)) for frame in frames_THWC])
    return {
        "correlation": follows.correlation,
        "lag": follows.lag,
        "amplitude": follows.amplitude,
        "width_correlation": correlation(seen.width, expected.width),
        "width_amplitude": float(seen.width.std() / max(expected.width.std(), 1e-9)),
        "closures": {"wanted": lips.wanted, "found": lips.found, "shown": lips.shown, "right": lips.right},
        "openings": openings(seen.opening),
        "openings_expected": openings(expected.opening),
        "vowels": len(spoken),
        "onset_lag": onset_lag(seen.opening, expected.opening),
        "blinks_per_minute": rate,
        "blink_pictures": pictures if np.isfinite(pictures) else None,
        "saturation_first": float(saturation(frames_THWC[:1])[0] / saturation(reference[None])[0]),
        "flash": flash(frames_THWC, still),
        "first_change": first_change(frames_THWC, still),
        "own_iris": own_iris_is_nearest(frames_THWC, seen, who),
        "nearest_of_20_faces": nearest(frames_THWC, np.stack([reference, *others]), face) == 0,
        "distance": float(distance.mean()),
        "look": look_distance(frames_THWC[SETTLED:], who),
        "drift": _drift(colour, distance),
        "opening": _rounded(seen.opening),
        "expected": _rounded(expected.opening),
    }


def look_distance(frames_THWC: NDArray[np.uint8], who: Identity) -> float:
    """Return how far pictures are from the face with bowler and glasses, in grey levels, where these change the face."""
    size = frames_THWC.shape[1]
    bare, dressed = draw(who, Pose(), size), draw(who.with_look(*LOOK), Pose(), size)
    changed = (np.abs(dressed.astype(int) - bare).mean(2) > 8) & (region_mask(size, [MOUTH_REGION]) == 0)
    return float(colour_distance(frames_THWC, dressed, changed).mean())


def _drift(colour_T: NDArray[np.float64], distance_T: NDArray[np.float64]) -> dict[str, tuple[float, float]] | None:
    per_second = round(float(FPS))
    if len(colour_T) < LEAST_FOR_DRIFT_S * per_second:
        return None
    return {name: slope_interval(curve, per_second) for name, curve in (("colour", colour_T), ("face", distance_T))}


def _tint(frame_HWC: NDArray[np.uint8], mask_HW: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the mean colour (3) in Lab where a mask is true."""
    return lab(frame_HWC[mask_HW].astype(np.float64).mean(0))


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return [round(float(value), 4) for value in values]
