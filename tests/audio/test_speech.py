"""Tests with tiny wav2vec 2.0 models: windows are normalised, placed and encoded as the released ones expect."""

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from avatarctl.audio.speech import normalise, speech_states
from avatarctl.audio.track import SAMPLE_RATE_HZ
from avatarctl.errors import UsageError


@pytest.fixture(scope="module", params=["group", "layer"])
def model(request):
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        feat_extract_norm=request.param,
        do_stable_layer_norm=request.param == "layer",
    )
    return Wav2Vec2Model(config).eval()


@pytest.fixture(scope="module")
def waveform_T():
    return (0.3 + 0.05 * np.random.default_rng(1).standard_normal(51_840)).astype(np.float32)


def test_normalise_is_that_of_the_feature_extractor(waveform_T):
    theirs_T = Wav2Vec2FeatureExtractor(do_normalize=True)(waveform_T, sampling_rate=SAMPLE_RATE_HZ).input_values[0]
    ours_T = normalise(waveform_T)
    assert ours_T.dtype == np.float32
    assert np.array_equal(ours_T, theirs_T)
    assert not np.array_equal(ours_T, (waveform_T - waveform_T.mean()) / (waveform_T.std(ddof=1) + 1e-7))


def test_states_are_those_of_the_model_on_the_normalised_window(model, waveform_T):
    states_1LD = speech_states(model, waveform_T)
    with torch.no_grad():
        expected_1LD = model(torch.from_numpy(normalise(waveform_T))[None]).last_hidden_state
    assert states_1LD.shape == (1, (51_840 - 400) // 320 + 1, 32)
    assert not states_1LD.requires_grad
    assert torch.equal(states_1LD, expected_1LD)
    assert torch.equal(states_1LD, speech_states(model, torch.from_numpy(waveform_T)))
    assert torch.equal(states_1LD, speech_states(model, torch.from_numpy(waveform_T).double().requires_grad_()))


def test_loudness_of_a_window_does_not_matter(model, waveform_T):
    assert torch.allclose(speech_states(model, 4 * waveform_T), speech_states(model, waveform_T), atol=1e-3)


def test_states_come_in_the_type_of_the_model(model, waveform_T):
    states_1LD = speech_states(model, waveform_T)
    half = Wav2Vec2Model(model.config).eval()
    half.load_state_dict(model.state_dict())
    half_1LD = speech_states(half.to(torch.bfloat16), waveform_T)
    assert half_1LD.dtype == torch.bfloat16
    assert torch.corrcoef(torch.stack([half_1LD.float().flatten(), states_1LD.flatten()]))[0, 1] > 0.99


def test_silence_has_states(model):
    silence_T = np.zeros(16_000, np.float32)
    assert not normalise(silence_T).any()
    assert torch.isfinite(speech_states(model, silence_T)).all()


def test_window_read_from_a_mapped_file(model, waveform_T, tmp_path):
    waveform_T.tofile(tmp_path / "waveform")
    mapped_T = np.memmap(tmp_path / "waveform", "<f4", "r")[1000:33_000]
    assert torch.equal(speech_states(model, mapped_T), speech_states(model, waveform_T[1000:33_000]))


def test_shortest_window(model):
    assert speech_states(model, np.ones(400, np.float32)).shape == (1, 1, 32)
    with pytest.raises(UsageError, match=r"got 399 samples, expected at least 400 \(25 ms\)"):
        speech_states(model, np.ones(399, np.float32))


def test_model_in_training_is_our_mistake(model, waveform_T):
    model.train()
    with pytest.raises(AssertionError):
        speech_states(model, waveform_T)
    model.eval()
