"""Tests with a tiny transformer: float8 base weights are near the real ones, small, and give exact gradients."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from tiny import tiny_inputs, tiny_transformer
from torch import nn

from avatarctl.errors import UsageError
from avatarctl.networks.attach import attach, load_trained, trained_state
from avatarctl.networks.checkpoints import save_weights
from avatarctl.networks.float8 import Float8Linear, to_float8
from avatarctl.networks.transformer import StableAvatarTransformer3DModel

GROUPS = {"attention": "lora", "feed_forward": "lora", "audio": "lora"}
# Layers of a block: 4 of self-attention, 8 of cross-attention, 2 of feed-forward; the adapter: 2 blocks of 6, and 2.
LAYERS = 2 * 14 + 2 * 6 + 2


def with_lora(seed: int = 5, **groups: str) -> StableAvatarTransformer3DModel:
    """Return a tiny transformer whose LoRA is not zero, so that gradients reach both factors."""
    model = tiny_transformer()
    generator = torch.Generator().manual_seed(seed)
    for parameter in attach(model, {**GROUPS, **groups}, 4, 2.0, 0.0).values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def widened(model: StableAvatarTransformer3DModel) -> StableAvatarTransformer3DModel:
    """Return the same model with torch's own linear layers that hold the rounded weights."""
    wide = copy.deepcopy(model)
    for name, layer in list(wide.named_modules()):
        if isinstance(layer, Float8Linear):
            linear = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
            linear.weight = nn.Parameter(layer.wide(torch.float32), requires_grad=False)
            linear.bias = layer.bias
            parent, _, child = name.rpartition(".")
            setattr(wide.get_submodule(parent), child, linear)
    return wide


def gradients(model: StableAvatarTransformer3DModel, narrow: bool = False) -> dict[str, torch.Tensor]:
    """Return the gradients of what trains, and of the latents."""
    inputs = tiny_inputs()
    inputs["hidden_states"].requires_grad_(True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=narrow):
        loss = model(**inputs).sample.float().square().mean()
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {**found, "latents": inputs["hidden_states"].grad}


@pytest.mark.parametrize("narrow", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("audio", ["lora", "full"])
def test_gradients_are_those_of_the_rounded_weights(checkpointing: bool, narrow: bool, audio: str) -> None:
    model = with_lora(audio=audio).train()
    to_float8(model)
    wide = widened(model)
    for each in (model, wide):
        if checkpointing:
            each.enable_gradient_checkpointing()
    got, expected = gradients(model, narrow), gradients(wide, narrow)
    assert set(got) == set(expected) and len(got) > 2 * 20
    for name, gradient in got.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-7 if not narrow else 1e-5, msg=name)


def test_frozen_layers_of_blocks_and_adapter_are_stored_so() -> None:
    everything = with_lora()
    assert to_float8(everything) == LAYERS
    stored = {name for name, module in everything.named_modules() if isinstance(module, Float8Linear)}
    assert all(name.startswith(("blocks.", "vocal_projector.")) and name.endswith("base_layer") for name in stored)
    assert everything.proj_out.weight.dtype == torch.float32
    factors = {p.dtype for name, p in everything.named_parameters() if ".lora_" in name}
    assert factors == {torch.float32}
    # Audio trains in full: two layers of each block and fourteen of the adapter stay.
    assert to_float8(with_lora(audio="full")) == LAYERS - 2 * 2 - 14
    # Without LoRA, frozen layers only.
    plain = tiny_transformer()
    attach(plain, {"feed_forward": "full"}, 4, 4.0, 0.0)
    assert to_float8(plain) == LAYERS - 2 * 2
    assert isinstance(plain.blocks[0].ffn.net[2], nn.Linear)


def test_one_byte_per_weight_and_four_per_row() -> None:
    model = with_lora()

    def size() -> int:
        return sum(p.numel() * p.element_size() for p in model.parameters())

    before = size()
    linear = [m for name, m in model.named_modules() if name.endswith("base_layer")]
    assert len(linear) == LAYERS
    saved = sum(3 * m.weight.numel() - 4 * m.weight.shape[0] for m in linear)
    to_float8(model)
    assert before - size() == saved
    assert all("rope" in name for name, _ in model.named_buffers())


@pytest.mark.parametrize("width", [1e-6, 1.0, 300.0, 1e6])
def test_error_of_a_weight_is_bounded(width: float) -> None:
    layer = nn.Linear(257, 9)
    generator = torch.Generator().manual_seed(0)
    layer.weight.data = width * torch.randn(9, 257, generator=generator)
    layer.weight.data[0] *= 1e-4  # rows have scales of their own
    layer.weight.data[1] = 0
    layer.weight.data[2, 0] = 448 * 2.0**10  # the largest that its scale can hold, and just beyond
    layer.weight.data[3, 0] = torch.nextafter(torch.tensor(448.0), torch.tensor(1e9))
    wide = Float8Linear(layer).wide(torch.float32)
    largest = layer.weight.abs().amax(dim=1, keepdim=True)
    assert bool((wide[1] == 0).all())
    allowed = torch.maximum(layer.weight.abs() / 16, largest / 14336 / 16)
    assert bool(((wide - layer.weight).abs() <= allowed).all())
    assert bool((wide != layer.weight).any())


def test_scales_multiply_without_rounding_in_half_precision() -> None:
    layer = Float8Linear(nn.Linear(64, 64))
    assert torch.equal(layer.wide(torch.bfloat16).float(), layer.wide(torch.float32))


def test_autocast_reaches_the_layer_as_it_does_torch_s_own() -> None:
    layer = nn.Linear(64, 32)
    narrow = Float8Linear(layer)
    layer.weight.data = narrow.wide(torch.float32)
    results = []
    for each in (layer, narrow):
        x = torch.linspace(-1, 1, 128).view(2, 64).requires_grad_(True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = each(x)
        out.float().square().sum().backward()
        assert out.dtype == torch.bfloat16 and x.grad.dtype == torch.float32
        results.append((out, x.grad))
    torch.testing.assert_close(results[1], results[0])


def test_output_stays_near() -> None:
    model = tiny_transformer()
    with torch.no_grad():
        before = model(**tiny_inputs()).sample
        attach(model, {}, 4, 4.0, 0.0)
        to_float8(model)
        error = (model(**tiny_inputs()).sample - before).norm() / before.norm()
    assert 0 < error < 0.1


def test_a_change_of_dtype_touches_no_byte_of_the_weights() -> None:
    model = with_lora()
    to_float8(model)
    before = model.blocks[0].attn1.to_q.base_layer.wide(torch.float32)
    model.to(torch.bfloat16)
    assert torch.equal(model.blocks[0].attn1.to_q.base_layer.wide(torch.float32), before)


def test_the_wide_weight_is_not_kept_for_the_way_back() -> None:
    layer = Float8Linear(nn.Linear(64, 32))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        out = layer(torch.ones(2, 64, requires_grad=True))
    assert out.requires_grad and not kept


def test_what_trains_is_saved_but_never_the_rounded_base(tmp_path: Path) -> None:
    model, other = with_lora(5), with_lora(6)
    to_float8(model), to_float8(other)
    load_trained(other, trained_state(model))
    with torch.no_grad():
        assert torch.equal(other(**tiny_inputs()).sample, model(**tiny_inputs()).sample)
    with pytest.raises(UsageError, match="base weights are rounded"):
        save_weights(model, tmp_path / "transformer.safetensors")
    assert not list(tmp_path.iterdir())


def test_it_compiles_in_one_piece() -> None:
    layer = Float8Linear(nn.Linear(16, 8))
    x = torch.randn(3, 16, requires_grad=True, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    out = compiled(x)
    out.sum().backward()
    torch.testing.assert_close(out, layer(x))
    torch.testing.assert_close(x.grad, layer.wide(torch.float32).sum(0).expand(3, -1))
