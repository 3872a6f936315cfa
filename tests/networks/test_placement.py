"""Tests with placement settings: networks compute the same in every mode and impossible settings are refused."""

from __future__ import annotations

import warnings

import pytest
import torch
from tiny import TINY, tiny_inputs, tiny_transformer, tiny_vae

from avatarctl.errors import DeviceError, UsageError
from avatarctl.networks.checkpoints import load_transformer, released_state
from avatarctl.networks.placement import DeviceResidency, Placement, decide, place, usable_attention
from avatarctl.settings.placement import PlacementSettings

CPU = torch.device("cpu")
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="what a machine without a GPU says")


def decided(**changes: object) -> Placement:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return decide(PlacementSettings(**{"device": "cpu", **changes}))


@pytest.fixture(scope="module")
def expected() -> torch.Tensor:
    with torch.no_grad():
        return tiny_transformer()(**tiny_inputs()).sample


@pytest.mark.parametrize("memory", ["full", "model", "group", "sequential"])
@pytest.mark.parametrize("attention", ["auto", "native", "_native_math"])
def test_every_mode_gives_the_same_numbers(memory: str, attention: str, expected: torch.Tensor) -> None:
    placement = decided(memory=memory, attention=attention)
    model = DeviceResidency(placement).use(place(tiny_transformer(), placement))
    with torch.no_grad():
        assert torch.allclose(model(**tiny_inputs()).sample, expected, atol=1e-5)


def test_float8_storage_with_half_precision_compute(expected: torch.Tensor) -> None:
    placement = decided(weights_dtype="float8", dtype="bfloat16", memory="group")
    model = load_transformer(released_state(tiny_transformer()), TINY, placement.dtype, placement.load_device)
    place(model, placement)
    bytes_ = sum(p.numel() * p.element_size() for p in model.blocks.parameters())
    assert bytes_ < 1.2 * sum(p.numel() for p in model.blocks.parameters())
    with torch.no_grad():
        error = (model(**tiny_inputs()).sample.float() - expected).norm() / expected.norm()
    assert 0 < error < 0.15


def test_attention_backend_of_one_network_is_not_everybodys() -> None:
    placed = place(tiny_transformer(), decided(attention="_native_math"))
    other = tiny_transformer()
    assert placed.blocks[0].attn1.processor._attention_backend == "_native_math"
    assert placed.vocal_projector.blocks[0].attn2.processor._attention_backend == "native"
    assert other.blocks[0].attn1.processor._attention_backend is None


def test_one_network_at_a_time() -> None:
    placement = decided(memory="model")
    residency = DeviceResidency(placement)
    transformer, vae = place(tiny_transformer(), placement), place(tiny_vae(), placement)
    assert residency.use(transformer) is transformer
    assert residency.use(vae) is vae
    residency.drop(vae)


def test_a_network_for_one_use_is_streamed_when_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8 << 30, 16 << 30))
    gpu = Placement(torch.device("cuda"), torch.bfloat16, "full", False, None, False)
    assert gpu.has_room(5 << 30) and not gpu.has_room(7 << 30)
    assert gpu.streamed().memory == "group" and gpu.streamed().load_device == CPU
    assert decided().has_room(1 << 50)


def test_dtypes_by_role() -> None:
    half = decided(dtype="bfloat16")
    assert half.dtype_of("transformer") == half.dtype_of("text encoder") == torch.bfloat16
    assert half.dtype_of("vae") == half.dtype_of("speech encoder") == torch.float32
    assert decided().dtype == torch.float32


def test_usable_attention_is_what_runs() -> None:
    usable = usable_attention(CPU)
    assert "native" in usable
    assert not any(name.endswith("_hub") for name in usable)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"memory": "sequential", "compile": True}, UsageError, "compile with memory mode sequential"),
        ({"weights_dtype": "float8", "compile": True}, UsageError, "float8 weights with compile"),
        ({"weights_dtype": "float8", "dtype": "float16"}, UsageError, "float8 weights with float16"),
        ({"attention": "flsh"}, UsageError, "got 'flsh', expected auto or one of"),
        ({"attention": "flash_hub"}, DeviceError, "downloads its kernel"),
        ({"attention": "sage"}, DeviceError, "not usable on cpu"),
    ],
)
def test_what_does_not_work_is_refused(settings: dict, error: type, words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        decided(**settings)
    assert caught.value.hint or error is UsageError


@NO_GPU
def test_missing_gpu_is_named() -> None:
    with pytest.raises(DeviceError, match="without a usable GPU") as caught:
        decided(device="cuda")
    assert "--device cpu" in caught.value.hint
    assert decided(device="auto").device == CPU


def test_useless_mode_warns() -> None:
    with pytest.warns(UserWarning, match="saves nothing on the CPU"):
        decide(PlacementSettings(device="cpu", memory="group"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("memory", ["full", "model", "group", "sequential"])
def test_gpu_gives_the_same_numbers(memory: str, expected: torch.Tensor) -> None:
    placement = decide(PlacementSettings(device="cuda", dtype="float32", memory=memory))
    model = DeviceResidency(placement).use(place(tiny_transformer(), placement))
    inputs = {name: value.cuda() for name, value in tiny_inputs().items()}
    with torch.no_grad():
        assert torch.allclose(model(**inputs).sample.cpu(), expected, atol=1e-3)
