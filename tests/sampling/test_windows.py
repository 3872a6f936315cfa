"""Tests with lengths of sound: windows cover them without gap or drift and the published layout is matched."""

from __future__ import annotations

import pickle
import time
from fractions import Fraction
from itertools import pairwise

import pytest
from golden.recorded import golden_files, read
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from sampling.chaos import plans, spans

from avatarctl.errors import UsageError
from avatarctl.sampling.windows import (
    SAMPLE_RATE_HZ,
    Plan,
    latent_frames_of,
    pictures_of,
    plan_windows,
    sample_of,
    video_frames_of,
)

RATES = [Fraction(24000, 1001), Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(30), Fraction(60)]
rates = st.sampled_from(RATES)
ONE_WINDOW = 81 * 640  # samples of 81 video frames at 25 fps
TEN_HOURS = 36_000 * SAMPLE_RATE_HZ


# -- Layout -----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=200)
@given(plans())
def test_windows_cover_every_frame_in_order(plan: Plan) -> None:
    windows = list(plan.windows())
    assert [(w.start, w.stop, w.overlap) for w in windows] == spans(plan)
    assert [w.index for w in windows] == list(range(plan.count))
    assert {frame for w in windows for frame in range(w.start, w.stop)} == set(range(plan.latent_frames))
    for left, right in pairwise(windows):
        assert left.start < right.start
        assert left.stop < right.stop
        assert left.stop - right.start >= plan.overlap
        assert left.stop - right.start == right.overlap
    if plan.tail == "full":
        assert {w.frames for w in windows} == {plan.window}
    else:
        assert {w.frames for w in windows[:-1]} <= {plan.window}
        assert plan.overlap < windows[-1].frames <= plan.window


@settings(deadline=None, max_examples=100)
@given(plans(most_frames=150))
def test_final_spans_partition_the_latent_frames(plan: Plan) -> None:
    windows = list(plan.windows())
    finals = [(frame, w.index) for w in windows for frame in range(w.start, w.final_stop)]
    assert [frame for frame, _ in finals] == list(range(plan.latent_frames))
    for frame, index in finals:
        assert plan.owner(frame) == index == max(w.index for w in windows if w.start <= frame < w.stop)


@settings(deadline=None, max_examples=100)
@given(plans(most_frames=150))
def test_neighbours_are_those_that_share_frames(plan: Plan) -> None:
    windows = list(plan.windows())
    for w in windows:
        sharing = [o.index for o in windows if o is not w and o.start < w.stop and w.start < o.stop]
        assert plan.left_of(w.index) == [index for index in sharing if index < w.index]
        assert plan.right_of(w.index) == [index for index in sharing if index > w.index]


@settings(deadline=None, max_examples=100)
@given(plans(most_frames=150))
@example(Plan(1501, Fraction(25), 376, 21, 5))  # the last window is moved to the left and shares frames with two
def test_reach_counts_the_most_neighbours_to_the_right(plan: Plan) -> None:
    most = max(len(plan.right_of(index)) for index in range(plan.count))
    assert most <= plan.reach
    if plan.count > 2 * plan.window:
        assert plan.reach <= most


@pytest.mark.parametrize("index", [-1, 2])
def test_windows_outside_the_plan(index: int) -> None:
    with pytest.raises(IndexError, match="of 2"):
        plan_windows(ONE_WINDOW + 1, Fraction(25)).get(index)


# -- Lengths ----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 10_000))
def test_latent_frames_hold_all_pictures_and_no_more(video_frames: int) -> None:
    latent_frames = latent_frames_of(video_frames)
    assert pictures_of(latent_frames) >= video_frames > pictures_of(latent_frames - 1)


@given(st.integers(1, 10**9), rates, st.sampled_from([16_000, 44_100, 48_000]))
def test_pictures_last_as_long_as_the_sound(samples: int, fps: Fraction, rate_hz: int) -> None:
    video_frames = video_frames_of(samples, fps, rate_hz)
    sound_s = Fraction(samples, rate_hz)
    assert (video_frames - 1) / fps < sound_s <= video_frames / fps


@pytest.mark.parametrize(
    ("samples", "video_frames", "latent_frames", "layout"),
    [
        (1, 1, 21, [(0, 21)]),
        (1_600, 3, 21, [(0, 21)]),  # 0.1 s: 2.5 pictures
        (ONE_WINDOW - 1, 81, 21, [(0, 21)]),
        (ONE_WINDOW, 81, 21, [(0, 21)]),
        (ONE_WINDOW + 1, 82, 22, [(0, 21), (1, 22)]),
        (ONE_WINDOW + 4 * 640, 85, 22, [(0, 21), (1, 22)]),
        (ONE_WINDOW + 4 * 640 + 1, 86, 23, [(0, 21), (2, 23)]),
        (ONE_WINDOW + 64 * 640, 145, 37, [(0, 21), (16, 37)]),
        (ONE_WINDOW + 64 * 640 + 1, 146, 38, [(0, 21), (16, 37), (17, 38)]),
    ],
)
def test_layout_of_short_sound(samples: int, video_frames: int, latent_frames: int, layout: list) -> None:
    plan = plan_windows(samples, Fraction(25))
    assert (plan.video_frames, plan.latent_frames) == (video_frames, latent_frames)
    assert [(w.start, w.stop) for w in plan.windows()] == layout
    assert plan.get(plan.count - 1).last_sample >= samples


@pytest.mark.parametrize("audio_span", ["exact", "reference"])
def test_shorter_than_a_picture_is_one_picture(audio_span) -> None:
    plan = plan_windows(639, Fraction(25), audio_span=audio_span)
    assert (plan.video_frames, plan.latent_frames, plan.count) == (1, 21, 1)


def test_plan_of_ten_hours_is_instant_and_small() -> None:
    begin = time.perf_counter()
    plan = plan_windows(TEN_HOURS, Fraction(25))
    last = plan.get(plan.count - 1)
    neighbours = plan.left_of(last.index), plan.right_of(0), plan.owner(plan.latent_frames - 1)
    assert time.perf_counter() - begin < 0.05
    assert plan.count == 14_063
    assert last.stop == plan.latent_frames == 225_001
    assert neighbours == ([14_060, 14_061], [1], 14_062)
    assert len(pickle.dumps(plan)) < 1_000


# -- Sound of a window ------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=300)
@given(
    st.integers(1, 7_200 * SAMPLE_RATE_HZ), rates, st.integers(2, 40), st.integers(2, 39), st.floats(0, 1), st.data()
)
def test_sound_of_a_window_is_that_of_its_pictures(
    samples: int, fps: Fraction, window: int, overlap: int, place: float, data: st.DataObject
) -> None:
    assume(overlap < window)
    plan = plan_windows(samples, fps, window, overlap)
    index = data.draw(st.integers(0, plan.count - 1))
    w = plan.get(index)
    exact_first = Fraction(4 * w.start * SAMPLE_RATE_HZ) / fps
    exact_length = Fraction(pictures_of(window) * SAMPLE_RATE_HZ) / fps
    assert abs(w.first_sample - exact_first) <= Fraction(1, 2)
    assert abs(w.last_sample - exact_first - exact_length) <= Fraction(1, 2)
    assert abs(w.last_sample - w.first_sample - exact_length) <= 1
    if index:
        before = plan.get(index - 1)
        assert w.first_sample == sample_of(4 * w.start, fps)
        # Where two windows share pictures, they hear the same samples: no gap between them.
        assert before.first_sample < w.first_sample < before.last_sample < w.last_sample


@pytest.mark.parametrize("fps", RATES, ids=str)
def test_no_drift_at_two_hours(fps: Fraction) -> None:
    plan = plan_windows(7_200 * SAMPLE_RATE_HZ, fps)
    lengths = {w.last_sample - w.first_sample for w in plan.windows()}
    assert max(lengths) - min(lengths) <= 1
    last = plan.get(plan.count - 1)
    assert abs(Fraction(last.first_sample, SAMPLE_RATE_HZ) - 4 * last.start / fps) <= Fraction(1, 2 * SAMPLE_RATE_HZ)
    # All the sound is heard, and not more than one latent frame of silence after it.
    assert 0 <= last.last_sample - 7_200 * SAMPLE_RATE_HZ <= 4 * SAMPLE_RATE_HZ / fps


# -- As published -----------------------------------------------------------------------------------------------------


def published_layout(samples: int, fps: Fraction, window: int, overlap: int) -> list[tuple[int, int, int, int]]:
    """Lay windows out as the published loop does: (start, stop) in latent frames, (first, last) sample.

    A window's sound is 4 F video frames of a rounded number of samples; the last window is what is left, with the rest
    of the sound.
    """
    per_frame = int(16_000 / fps)
    length = (int(samples / per_frame) - 1) // 4 + 1
    layout, start, stop = [], 0, window
    while stop < length:
        layout.append((start, stop, start * 4 * per_frame, stop * 4 * per_frame))
        start = stop - overlap
        stop = min(start + window, length)
    return [*layout, (start, stop, start * 4 * per_frame, samples)]


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 3_000_000), rates, st.integers(3, 21), st.integers(2, 20))
def test_reference_layout_is_the_published_one(extra: int, fps: Fraction, window: int, overlap: int) -> None:
    assume(overlap < window)
    samples = pictures_of(window) * (int(16_000 / fps) + 1) + extra
    plan = plan_windows(samples, fps, window, overlap, "reference", "reference")
    layout = [(w.start, w.stop, w.first_sample, w.last_sample) for w in plan.windows()]
    assert layout == published_layout(samples, fps, window, overlap)


@pytest.mark.parametrize("path", golden_files("render"), ids=lambda p: p.stem)
def test_reference_layout_of_the_recorded_renders(path) -> None:
    recorded = read(path)
    samples, config = len(recorded.inputs["audio"]), recorded.config
    window = latent_frames_of(config["clip_length"])
    plan = plan_windows(samples, Fraction(config["fps"]), window, config["overlap"], "reference", "reference")
    expected = {
        54_400: (22, [(0, 6), (4, 10), (8, 14), (12, 18), (16, 22)]),
        52_800: (21, [(0, 6), (3, 9), (6, 12), (9, 15), (12, 18), (15, 21)]),
    }[samples]
    assert (plan.latent_frames, [(w.start, w.stop) for w in plan.windows()]) == expected
    assert plan.latent_frames == recorded.inputs["noise"].shape[2]
    assert plan.get(0).last_sample == 4 * 6 * 640
    assert plan.get(plan.count - 1).last_sample == samples


def test_reference_tail_is_short() -> None:
    plan = plan_windows(25 * 640 * 4, Fraction(25), 6, 2, "reference", "reference")
    assert [(w.start, w.stop, w.overlap) for w in plan.windows()][-1] == (20, 25, 2)


# -- Mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("window", "overlap"), [(21, 1), (21, 0), (21, 21), (21, 30), (2, 2)])
def test_overlap_that_does_not_fit(window: int, overlap: int) -> None:
    with pytest.raises(UsageError, match=f"got {overlap}, expected 2 to {window - 1}"):
        plan_windows(100_000, Fraction(25), window, overlap)


@pytest.mark.parametrize("samples", [0, -1])
def test_no_sound(samples: int) -> None:
    with pytest.raises(UsageError, match="no samples"):
        plan_windows(samples, Fraction(25))


@pytest.mark.parametrize("audio_span", ["exact", "reference"])
def test_reference_tail_needs_a_whole_window(audio_span) -> None:
    with pytest.raises(UsageError, match="got 20 latent frames, expected a window of 21") as raised:
        plan_windows(77 * 640, Fraction(25), tail="reference", audio_span=audio_span)
    assert "tail full" in raised.value.hint


@given(
    frame=st.integers(0, 10**7),
    fps=st.sampled_from([Fraction(25), Fraction(24), Fraction(30), Fraction(30_000, 1001), Fraction(24_000, 1001)]),
)
def test_the_sample_of_a_frame_never_drifts(frame: int, fps: Fraction) -> None:
    assert abs(Fraction(sample_of(frame, fps)) - Fraction(frame * SAMPLE_RATE_HZ) / fps) <= Fraction(1, 2)


def test_the_sample_of_known_frames() -> None:
    assert [sample_of(frame, Fraction(25)) for frame in (0, 1, 81)] == [0, 640, 51_840]
    # A step rounded once and added up would be 16 samples late after 48 frames.
    assert sample_of(48, Fraction(24)) == 32_000
    assert sample_of(30_000, Fraction(30_000, 1001)) == 1001 * 16_000
