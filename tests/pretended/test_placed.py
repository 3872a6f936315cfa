"""Tests with a pretended GPU: every network computes on it in every memory mode, and a misplaced tensor is seen."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from gpu import CUDA, pretended
from safetensors.torch import save_file
from setting import MODES, TINY, Steps, loaded, placement
from variants import some

from avatarctl.networks import kinds
from avatarctl.networks import vae as V
from avatarctl.networks.adapters import load_merged
from avatarctl.networks.checkpoints import save_weights
from avatarctl.networks.conditions import image_tokens, reference_condition
from avatarctl.networks.dims import WAN_VAE, ImageDims, SpeechDims, TextDims
from avatarctl.networks.memory import Workload
from avatarctl.networks.residency import residency_of
from avatarctl.networks.text_stream import stream_text_encoder
from avatarctl.render.place import try_decoding
from avatarctl.sampling.denoise import FIELDS, schedule
from avatarctl.sampling.team import Team, TeamSampler
from avatarctl.sampling.wavefront import share_out

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


@pytest.mark.parametrize("memory", some(MODES, "full", "group"))
@pytest.mark.parametrize("float8", [False, True], ids=["same", "float8"])
def test_native_guidance(memory: str, float8: bool) -> None:
    with pretended():
        steps = Steps(TINY, memory, float8)
        [(velocity, _)] = steps.predictor(guidance="native")(steps.requests(1))
        assert velocity.device.type == "cpu"


@pytest.mark.parametrize("memory", MODES)
@pytest.mark.parametrize("float8", [False, True], ids=["same", "float8"])
def test_a_transformer_with_a_lora(memory: str, float8: bool, tmp_path: Path) -> None:
    base, lora = tmp_path / "transformer.safetensors", tmp_path / "lora.safetensors"
    save_weights(kinds.build_transformer(TINY), base)
    layer = "blocks.1.attn1.to_q"
    down, up = torch.zeros(2, TINY.dim), torch.zeros(TINY.dim, 2)
    save_file({f"transformer.{layer}.lora_A.weight": down, f"transformer.{layer}.lora_B.weight": up}, lora)
    model, changed = load_merged(base, [(lora, 0.5)], torch.bfloat16)
    assert changed == 1
    with pretended() as counted:
        steps = Steps(TINY, memory, float8, transformer=model)
        [(velocity, _)] = steps.predictor()(steps.requests(0))
        assert velocity.device.type == "cpu" and counted.peak > 0


@pytest.mark.parametrize("memory", some(MODES, "group"))
def test_what_a_team_passes_on_lies_in_main_memory(memory: str) -> None:
    """Windows after a step, with all that the solver and reused guidance keep, go over gloo to the other processes."""
    levels = schedule(4)
    with pretended():
        steps = Steps(TINY, memory)
        predict = steps.predictor(guidance_reuse=2)
        noise = torch.randn(1, TINY.out_dim, 1, steps.rows, steps.columns)
        sampler = TeamSampler(
            Team(),
            steps.plan,
            levels,
            lambda start, stop: noise.expand(-1, -1, stop - start, -1, -1),
            predict,
            solver="ab2",
        )
        kept: set[str] = set()
        for _ in range(6):
            chosen = share_out(sampler.progress, 1, 1, {})[0]
            sampler.windows.update(sampler.step([sampler.plan.get(index) for index in chosen]))
            for index in chosen:
                sampler.progress.advance(index)
            for window in sampler.windows.values():
                kept |= set(window.tensors())
                assert {tensor.device.type for tensor in window.tensors().values()} == {"cpu"}
                assert {tensor.dtype for tensor in window.tensors().values()} == {torch.float32}
        assert kept == set(FIELDS)


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
    [
        *((mode, None, False) for mode in MODES),
        ("full", TILES, False),
        ("model", None, True),
        pytest.param("group", TILES, False, marks=pytest.mark.long),
    ],
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


@pytest.mark.parametrize("memory", some(MODES, "full", "group"))
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
