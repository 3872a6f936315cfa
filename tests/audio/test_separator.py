"""Tests with separators that do what is known to tones and noise: a voice comes out whole, in place, of any length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from separators import write_separator

from avatarctl.audio.decode import read_blocks, waveform_16k, write_waveform
from avatarctl.audio.vocals import GAIN, MARGIN, N_FFT, RATE_HZ, Separator, voice_alone
from avatarctl.errors import WeightsError

FLOAT_WAV = ("-c:a", "pcm_f32le")


def tone(hz: float, seconds: float, rate_hz: int) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz, dtype=np.float64)


@pytest.fixture(scope="module")
def keeps_all(tmp_path_factory) -> Separator:
    return Separator(write_separator(tmp_path_factory.mktemp("nets") / "all.onnx"))


@pytest.mark.parametrize("seconds", [0.02, 1.0, 5.9, 12.34])
@pytest.mark.parametrize(("rate_hz", "channels"), [(16000, 1), (44100, 2), (48000, 6)])
def test_what_the_network_keeps_comes_out_in_place(encode, keeps_all, seconds, rate_hz, channels):
    samples_TC = np.stack([tone(440, seconds, rate_hz)] * channels, 1).astype(np.float32)
    path = encode("a.wav", samples_TC, rate_hz, *FLOAT_WAV)
    rate, _, blocks = read_blocks(path)
    pieces = []
    rate, blocks = voice_alone(keeps_all, rate, blocks, lambda: pieces.append(1))
    voice_TC = np.concatenate(list(blocks))
    assert rate == RATE_HZ
    assert voice_TC.shape == (pytest.approx(seconds * RATE_HZ, abs=1), 2)
    assert len(pieces) == -(-len(voice_TC) // (keeps_all.piece - 2 * MARGIN))
    expected = GAIN * tone(440, seconds, RATE_HZ)[: len(voice_TC)]
    inner = slice(N_FFT, -N_FFT)  # without its lowest bins the tone's ends ring; the shortest is all end
    np.testing.assert_allclose(voice_TC[inner, 0], expected[: len(voice_TC)][inner], atol=2e-3)
    np.testing.assert_allclose(voice_TC[:, 0], voice_TC[:, 1], atol=1e-6)


def test_borders_between_pieces_can_t_be_heard(encode, keeps_all, noise):
    samples_TC = noise(RATE_HZ * 13, 2)
    rate, _, blocks = read_blocks(encode("a.wav", samples_TC, RATE_HZ, *FLOAT_WAV))
    voice_TC = np.concatenate(list(voice_alone(keeps_all, rate, blocks)[1]))
    # One spectrum over all of it; what the network doesn't see (below 17 Hz, above 17.6 kHz) is gone there too.
    spectrum = torch.stft(
        torch.from_numpy(samples_TC.T.copy()),
        N_FFT,
        window=torch.hann_window(N_FFT),
        hop_length=1024,
        return_complex=True,
    )
    spectrum[:, :3] = spectrum[:, 3072:] = 0
    whole_CT = GAIN * torch.istft(spectrum, N_FFT, 1024, window=torch.hann_window(N_FFT), length=len(samples_TC))
    step = keeps_all.piece - 2 * MARGIN
    for border in (step, 2 * step):
        near = slice(border - 2000, border + 2000)
        difference = voice_TC[near] - whole_CT.T.numpy()[near]
        # Frames of a piece lie elsewhere than those of the whole: that tells a little at the edge of the band alone.
        assert np.abs(difference).max() < 0.02
        assert np.sqrt((difference**2).mean()) < 0.005


def test_music_is_left_out_and_channels_stay_apart(encode, tmp_path):
    separator = Separator(write_separator(tmp_path / "low.onnx", keep_below=round(1000 * N_FFT / RATE_HZ)))
    voice, music = tone(300, 8, RATE_HZ), tone(5000, 8, RATE_HZ)
    samples_TC = np.stack([voice + music, 0.5 * voice + music], 1).astype(np.float32)
    rate, _, blocks = read_blocks(encode("song.flac", samples_TC, RATE_HZ))
    found_TC = np.concatenate(list(voice_alone(separator, rate, blocks)[1]))
    inner = slice(2000, -2000)
    np.testing.assert_allclose(found_TC[inner, 0], GAIN * voice[inner], atol=2e-3)
    np.testing.assert_allclose(found_TC[inner, 1], 0.5 * GAIN * voice[inner], atol=2e-3)


def test_a_span_is_written_as_the_rest_of_the_program_hears_it(encode, tmp_path):
    separator = Separator(write_separator(tmp_path / "low.onnx", keep_below=round(1000 * N_FFT / RATE_HZ)))
    voice, music = tone(300, 4, 48000), tone(5000, 4, 48000)
    path = encode("song.wav", (voice + music).astype(np.float32)[:, None], 48000, *FLOAT_WAV)
    alone = encode("voice.wav", voice.astype(np.float32)[:, None], 48000, *FLOAT_WAV)
    count = write_waveform(path, tmp_path / "w.f32", 1.5, 2, lambda rate, blocks: voice_alone(separator, rate, blocks))
    heard, expected = np.fromfile(tmp_path / "w.f32", "<f4"), waveform_16k(alone, 1.5, 2)
    assert count == len(heard) == pytest.approx(32000, abs=1)
    np.testing.assert_allclose(heard[500:-500], GAIN * expected[500 : len(heard) - 500], atol=3e-3)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_bytes(b"no network at all"), "no whole ONNX network"),
        (lambda path: path.write_bytes(b""), "no whole ONNX network"),
        (lambda path: path.write_bytes(write_separator(path).read_bytes()[:-3000]), "no whole ONNX network"),
        (lambda path: write_separator(path, shape=(2, 3072, 256)), r"got a network of .*2, 3072, 256"),
        (lambda path: write_separator(path, shape=(4, 4096, 8)), "at most 3841 frequencies"),
    ],
)
def test_other_files_are_named(tmp_path: Path, make, said):
    path = tmp_path / "Kim_Vocal_2.onnx"
    make(path)
    with pytest.raises(WeightsError, match=said) as caught:
        Separator(path)
    assert str(path) in str(caught.value)
    assert "avatarctl fetch vocal-separator" in caught.value.hint
