"""Tests with recordings with silence and of known level: the span without silence, the loudness and the gain."""

import math

import numpy as np
import pytest
from pydub import AudioSegment

from avatarctl.audio.decode import read_blocks
from avatarctl.audio.levels import Loudness, gain_db, loudness, trimmed_span
from avatarctl.errors import InputFileError, UsageError

FLOAT_WAV = ("-c:a", "pcm_f32le")


@pytest.mark.parametrize("rate_hz", [11025, 16000, 44100])
def test_silence_at_both_ends_is_left_out(encode, noise, rate_hz):
    samples_TC = noise(6 * rate_hz, 2)
    hush = np.ones((6 * rate_hz, 1), np.float32)
    hush[: round(1.53 * rate_hz)] = hush[round(4.21 * rate_hz) :] = 1e-4
    hush[round(2.5 * rate_hz) : round(3.8 * rate_hz)] = 0  # a pause, longer than a block
    path = encode("a.wav", samples_TC * hush, rate_hz, *FLOAT_WAV)

    start_s, duration_s = trimmed_span(path)
    assert start_s == pytest.approx(1.53, abs=0.011)
    assert start_s <= 1.5301
    assert start_s + duration_s == pytest.approx(4.21, abs=0.011)
    assert start_s + duration_s >= 4.2099

    assert trimmed_span(path, -50, 2, 1) == pytest.approx((2, 0.5), abs=0.011)  # seconds of the file, not of the span
    assert trimmed_span(path, -120) == pytest.approx((0, 6))
    assert sum(map(len, read_blocks(path, start_s, duration_s)[2])) == pytest.approx(duration_s * rate_hz, abs=1)


def test_nothing_but_silence(encode, noise):
    path = encode("a.wav", 1e-4 * noise(30_000), 16000, *FLOAT_WAV)
    with pytest.raises(InputFileError, match=r"nothing but silence below -50 dBFS"):
        trimmed_span(path)
    assert trimmed_span(path, -110) == pytest.approx((0, 30_000 / 16000), abs=0.001)


def test_loudness_is_that_of_pydub(encode, noise):
    samples_TC = noise(50_000, 2) * np.array([1, 0.1], np.float32)
    path = encode("a.wav", samples_TC, 16000, "-c:a", "pcm_s16le")
    whole = AudioSegment(
        np.rint(np.concatenate(list(read_blocks(path)[2])) * 32768).astype("<i2").tobytes(),
        sample_width=2,
        frame_rate=16000,
        channels=2,
    )
    assert loudness(path).dbfs == pytest.approx(whole.dBFS, abs=0.01)
    assert loudness(path).peak_dbfs == pytest.approx(whole.max_dBFS, abs=0.01)


def test_gain_reaches_the_target_unless_it_would_clip(encode, noise):
    samples_TC = noise(40_000)
    measured = loudness(encode("a.wav", samples_TC, 16000, *FLOAT_WAV))
    quieter = samples_TC * 10 ** (gain_db(measured, -30) / 20)
    assert loudness(encode("b.wav", quieter, 16000, *FLOAT_WAV)).dbfs == pytest.approx(-30, abs=1e-3)

    loudest = samples_TC * 10 ** (gain_db(measured, -3) / 20)
    assert np.abs(loudest).max() == pytest.approx(1)
    assert loudness(encode("c.wav", loudest, 16000, *FLOAT_WAV)).dbfs < -3


def test_gain_that_can_not_be(encode):
    silence = loudness(encode("a.wav", np.zeros((100, 1)), 16000))
    assert silence == (-math.inf, -math.inf)
    with pytest.raises(InputFileError, match="got digital silence, expected sound"):
        gain_db(silence, -20)
    with pytest.raises(UsageError, match="got a target of 3 dBFS, expected 0 or less"):
        gain_db(Loudness(-20, -3), 3)
