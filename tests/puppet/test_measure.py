"""The measures of a whole video: perfect on a drawn one, bad where one thing is spoilt."""

from __future__ import annotations

import shutil
from functools import cache

import numpy as np
import pytest

from avatarctl.puppet.folders import EVALUATION_SEED
from avatarctl.puppet.world.clips import Scene
from avatarctl.puppet.world.identity import Identity
from avatarctl.puppet.world.measure import measure
from avatarctl.puppet.world.portrait import Portrait
from avatarctl.puppet.world.voice import Voice, make_voice

pytestmark = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")
SEED = EVALUATION_SEED + 4
COUNT = 125


@cache
def true_video() -> tuple[np.ndarray, Identity, Voice]:
    who, voice = Identity.of(SEED), make_voice(SEED, 5.0, evaluation=True)
    portrait = Portrait.of(who)
    return np.stack([portrait.picture(pose) for pose in Scene.spoken(voice, COUNT, SEED).poses]), who, voice


def test_a_drawn_video_is_as_it_should_be() -> None:
    found = measure(*true_video())
    assert found["correlation"] > 0.985 and found["lag"] == 0 and found["onset_lag"] == 0
    assert found["amplitude"] == pytest.approx(1, abs=0.05) and found["width_correlation"] > 0.6
    lips = found["closures"]
    assert lips["wanted"] >= 2 and lips["found"] == lips["wanted"] and lips["right"] == lips["shown"] > 0
    assert found["openings"] == pytest.approx(found["openings_expected"], abs=2) and found["vowels"] >= 10
    assert 8 <= found["blinks_per_minute"] <= 40 and found["blink_pictures"] >= 3
    assert found["saturation_first"] == pytest.approx(1, abs=1e-6) and found["own_iris"]
    assert found["nearest_of_20_faces"] and found["drift"] is None


def test_another_voice_a_late_one_and_a_frozen_face_are_seen() -> None:
    frames, who, voice = true_video()
    late = measure(np.concatenate([frames[:1].repeat(4, 0), frames[:-4]]), who, voice)
    assert late["lag"] == 4 and late["onset_lag"] == 4 and late["correlation"] < 0.6
    frozen = measure(np.concatenate([frames[:1].repeat(COUNT - 1, 0), frames[60:61]]), who, voice)
    assert (frozen["blinks_per_minute"] == 0 and frozen["onset_lag"] is None) or frozen["onset_lag"] > 10
    assert frozen["openings"] <= 1
    stranger = measure(frames, Identity.of(SEED + 1), voice)
    assert not stranger["nearest_of_20_faces"] and stranger["distance"] > 3 * late["distance"]
