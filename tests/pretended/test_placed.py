"""Tests with a pretended GPU: every network computes on it in every memory mode, and a misplaced tensor is seen."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from gpu import CUDA, pretended
from setting import MODES, TINY, Steps, loaded, placement

from avatarctl.networks import kinds
from avatarctl.networks import vae as V
from avatarctl.networks.conditions import image_tokens, reference_condition
from avatarctl.networks.dims import WAN_VAE, ImageDims, SpeechDims, TextDims
from avatarctl.networks.memory import Workload
from avatarctl.networks.residency import residency_of
from avatarctl.networks.text_stream import stream_text_encoder
from avatarctl.render.place import try_decoding

TINY_SPEECH = SpeechDims(
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    conv_dim=(8,) * 7,
    num_conv_pos_embeddings=8,
    num_conv_pos_embedding_groups=2,
)
FOLDED = {"dim_mult": (1, 2, 4), "temporal_downsample": (True, True), "patch_size": 2, "channels": 12}


@pytest.mark.parametrize("memory", MODES)
@pytest.mark.parametrize("float8", [False, True], ids=["same", "float8"])
def test_window_steps(memory: str, float8: bool) -> None:
    with pretended():
        steps = Steps(TINY, memory, float8)
        predict = steps.predictor()
        for asked in (steps.requests(0), steps.requests(1, 1)):
            for velocity, _ in predict(asked):
                assert velocity.device.type == "cpu" and velocity.shape == asked[0].latents.shape
        assert steps.transformer.device.type == "cuda"


@pytest.mark.parametrize("memory", ["full", "group"])
def test_native_guidance(memory: str) -> None:
    with pretended():
        steps = Steps(TINY, memory)
        [(velocity, _)] = steps.predictor(guidance="native")(steps.requests(1))
        assert velocity.device.type == "cpu"


def test_a_misplaced_tensor_is_seen() -> None:
    with pretended():
        steps = Steps(TINY, "group")
        predict = steps.predictor()
        predict._precompute = True  # keys and values of blocks whose weights aren't there now
        with pytest.raises(RuntimeError, match="devices"):
            predict(steps.requests(0))


TILES = V.Tiling(64, 16)


@pytest.mark.parametrize(
    ("memory", "tiling", "folded"),
    [*((mode, None, False) for mode in MODES), ("full", TILES, False), ("group", TILES, False), ("model", None, True)],
)
def test_vae(memory: str, tiling: V.Tiling | None, folded: bool) -> None:
    with pretended():
        residency = residency_of(placement(memory))
        dims = WAN_VAE.with_(base_dim=8, **(FOLDED if folded else {}))
        vae = loaded(kinds.build_vae(dims), residency, "vae")
        stream = V.DecodeStream(residency.use(vae), tiling)
        for index in range(4):
            pictures = stream.push(torch.randn(1, 16, 1, 16, 16))
            assert pictures.device == CUDA
            if index == 1:
                stream.rest()
        condition = reference_condition(residency.use(vae), torch.randn(3, 128, 128).to(CUDA), 6, tiling)
        assert condition.device == CUDA and condition.shape == (1, 20, 6, 16, 16)


@pytest.mark.parametrize("memory", MODES)
@pytest.mark.parametrize("tiling", [None, TILES], ids=["whole", "tiles"])
def test_the_trial_before_the_first_step(memory: str, tiling: V.Tiling | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two latent frames are decoded with the transformer, the speech encoder and the texts' keys where they will be."""
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    with pretended() as counted:
        steps = Steps(TINY, memory, vae_dtype=torch.bfloat16, tiling=tiling)
        vae = loaded(kinds.build_vae(WAN_VAE.with_(base_dim=8)), steps.residency, "vae")
        speech = loaded(kinds.build_speech_encoder(TINY_SPEECH), steps.residency, "speech encoder")
        networks = SimpleNamespace(
            placement=steps.residency.placement,
            residency=steps.residency,
            transformer=steps.transformer,
            vae=vae,
            speech_encoder=speech,
        )
        counted.reset()
        before = counted.live
        try_decoding(networks, Workload(TINY, 128, 128, steps.frames))
        assert counted.peak - before > 2_000_000
        assert counted.live <= before + memory_bytes(steps.transformer), "nothing of the trial stays"
        assert {place.device.type for place in vae.parameters()} == {"cuda" if memory == "full" else "cpu"}


def memory_bytes(model: Any) -> int:
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


@pytest.mark.parametrize("memory", MODES)
def test_encoders(memory: str) -> None:
    with pretended():
        residency = residency_of(placement(memory))
        image = ImageDims(dim=20, heads=2, layers=2, out_dim=8, image_size=28, patch=14, mlp_ratio=2)
        encoder = loaded(kinds.build_image_encoder(image), residency, "image encoder")
        assert image_tokens(residency.use(encoder), torch.randn(3, 64, 64).to(CUDA)).shape[-1] == 20
        residency.drop(encoder)
        hear: Any = residency.use(loaded(kinds.build_speech_encoder(TINY_SPEECH), residency, "speech encoder"))
        states = hear(torch.randn(1, 16000).to(hear.device, hear.dtype)).last_hidden_state
        assert states.shape == (1, 49, 16) and states.device == hear.device
        text = kinds.build_text_encoder(TextDims(vocab=8, dim=24, dim_attn=24, dim_ffn=32, heads=2, layers=2))
        read = stream_text_encoder(text.to(torch.bfloat16), CUDA, torch.bfloat16)
        ids = torch.zeros(1, 16, dtype=torch.long, device=CUDA)
        assert read(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state.device == CUDA
        assert {parameter.device.type for parameter in read.parameters()} == {"cpu"}, "nothing stays"
