"""Say in words what is remarkable in the row of a video: each fault by its own measure, against bounds that are no guesses.

How each bound was chosen stands in docs/evaluate.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from avatarctl.evaluation.colour import SEEN
from avatarctl.faces.identity import SAME_PERSON

LEAST_SHARE = 0.95  # of the pictures with a face, as `data prepare` asks for
EARLY_S, LATE_S = 0.125, 0.045  # lips before and after the sound: what viewers notice, ITU-R BT.1359
FROZEN = 0.5
OF_SHARPNESS = 0.1
DRIFTED = 0.1
BORDER = 1.5
LENGTHS_S = 0.25

Row = Mapping[str, Any]


def findings(row: Row) -> list[dict[str, str]]:
    """Return what is remarkable, each with ``code`` and ``text``, the gravest first."""
    found: list[tuple[str, str]] = [*_face(row), *_lips(row), *_identity(row), *_picture(row), *_sound(row)]
    return [{"code": code, "text": text} for code, text in found]


def _face(row: Row) -> list[tuple[str, str]]:
    share = row["face"]["share"]
    if share == 0:
        return [("no_face", "no face was found in any picture")]
    return [("face_share", f"a face is seen in {share:.0%} of the pictures")] if share < LEAST_SHARE else []


def _lips(row: Row) -> list[tuple[str, str]]:
    lips = row["lips"]
    still = lips["still_in_speech"]
    if still is not None and still >= FROZEN:
        return [("frozen_lips", f"the mouth is still in {still:.0%} of the time in which somebody speaks")]
    if lips["correlation"] is None:
        return []
    if lips["correlation"] <= lips["shifted_q95"]:
        return [
            (
                "lips_do_not_follow",
                f"lips follow the voice no better ({lips['correlation']:.2f}) than voices of other moments "
                f"({lips['shifted_q95']:.2f})",
            )
        ]
    lag = lips["lag_s"]
    if lag > LATE_S:
        return [("lips_late", f"lips come {lag:.2f} s after the sound")]
    if lag < -EARLY_S:
        return [("lips_early", f"lips come {-lag:.2f} s before the sound")]
    return []


def _identity(row: Row) -> list[tuple[str, str]]:
    identity, persons = row["identity"], row["face"]["persons"]
    worst, slope, interval = identity["worst"], identity["slope_per_minute"], identity["slope_interval"]
    if worst is None:
        return []
    # A face that is turned away is far from everybody for a moment: another person stays, or the video is of one throughout.
    if worst > SAME_PERSON and (persons > 1 or identity["mean"] > SAME_PERSON):
        who = f"{persons} persons are seen" if persons > 1 else "this is another person"
        return [
            (
                "other_person",
                f"{who}: the face is up to {worst:.2f} away from the reference, {SAME_PERSON} tells persons apart",
            )
        ]
    if slope is not None and interval[0] > 0 and slope * row["duration_s"] / 60 > DRIFTED:
        return [
            ("identity_drift", f"the face drifts away from the reference: {slope:.3f} a minute ({_span(interval)})")
        ]
    return []


def _picture(row: Row) -> list[tuple[str, str]]:
    picture, found = row["picture"], []
    minutes = row["duration_s"] / 60
    slope, slopes = picture["colour_slope_per_minute"], picture["colour_slopes"]
    if slope is not None and slope * minutes >= SEEN and any(_certain(each["interval"]) for each in slopes.values()):
        found.append(("colour_drift", f"the colour of the face drifts by {slope:.2f} (Lab) a minute"))
    slope, interval = picture["sharpness_slope_per_minute"], picture["sharpness_slope_interval"]
    if slope is not None and _certain(interval) and abs(slope) * minutes >= OF_SHARPNESS:
        found.append(("sharpness_drift", f"the sharpness of the face changes by {slope:+.1%} a minute"))
    if picture["border_ratio"] is not None and picture["border_ratio"] >= BORDER:
        ratio = picture["border_ratio"]
        found.append(("borders", f"pictures change {ratio:.1f} times as much where windows join as elsewhere"))
    return found


def _sound(row: Row) -> list[tuple[str, str]]:
    difference = row["sound"]["length_difference_s"]
    if difference is None or abs(difference) < LENGTHS_S:
        return []
    return [
        (
            "lengths",
            f"the sound is {abs(difference):.2f} s {'longer' if difference > 0 else 'shorter'} than the pictures",
        )
    ]


def _certain(interval: list[float]) -> bool:
    return interval[0] > 0 or interval[1] < 0


def _span(interval: list[float]) -> str:
    return f"{interval[0]:.3f} … {interval[1]:.3f}"
