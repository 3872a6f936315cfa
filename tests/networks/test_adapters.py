"""Takes LoRA files under the names of several trainers, shows that they change the same layers alike; others are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import save_file
from tiny import TINY, tiny_inputs, tiny_transformer

from avatarctl.errors import WeightsError
from avatarctl.networks.adapters import merge_lora, read_lora
from avatarctl.networks.names import transformer_names

RANK, ALPHA = 4, 2.0
LAYERS = ("blocks.0.attn1.to_q", "blocks.1.ffn.net.0.proj", "blocks.1.attn2.to_k_vocal", "vocal_projector.proj_in")


@torch.no_grad()
def out_of(model: torch.nn.Module) -> torch.Tensor:
    return model(**tiny_inputs()).sample


@pytest.fixture(scope="module")
def change() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Layer -> down and up weights."""
    generator = torch.Generator().manual_seed(0)
    layers = dict(tiny_transformer().named_modules())

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * 0.2

    return {name: (draw(RANK, layers[name].in_features), draw(layers[name].out_features, RANK)) for name in LAYERS}


def released(name: str) -> str:
    return transformer_names(TINY)(f"{name}.weight").removesuffix(".weight")


def under(form: str, change: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Give the change under a trainer's names; alpha stands in the file or, as peft has it, in the weights."""
    tensors = {}
    for name, (down, up) in change.items():
        flat, flat_released = name.replace(".", "_"), released(name).replace(".", "_")
        prefix, a, b, alpha = {
            "diffusers": (f"transformer.{name}", "lora_A", "lora_B", False),
            "peft": (f"base_model.model.{name}", "lora_A", "lora_B", False),
            "comfy": (f"diffusion_model.{released(name)}", "lora_A", "lora_B", False),
            "released": (f"lora_transformer__{flat_released}", "lora_down", "lora_up", True),
            "kohya": (f"lora_unet__{flat_released}", "lora_down", "lora_up", True),
            "musubi": (f"lora_unet_{flat}", "lora_down", "lora_up", True),
        }[form]
        tensors[f"{prefix}.{a}.weight"] = down
        tensors[f"{prefix}.{b}.weight"] = up if alpha else up * (ALPHA / RANK)
        if alpha:
            tensors[f"{prefix}.alpha"] = torch.tensor(ALPHA)
    return tensors


@pytest.fixture(scope="module")
def expected(change: dict) -> torch.Tensor:
    """What peft gives with the same change, unmerged."""
    model = tiny_transformer()
    model.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(LAYERS)))
    layers = dict(model.named_modules())
    for name, (down, up) in change.items():
        layers[name].lora_A["default"].weight.data = down
        layers[name].lora_B["default"].weight.data = up
    return out_of(model)


@pytest.mark.parametrize("form", ["diffusers", "peft", "comfy", "released", "kohya", "musubi"])
def test_every_form_has_the_effect_that_peft_gives(
    form: str, change: dict, expected: torch.Tensor, tmp_path: Path
) -> None:
    save_file({k: v.contiguous() for k, v in under(form, change).items()}, tmp_path / "style.safetensors")
    model = tiny_transformer()
    assert merge_lora(model, tmp_path / "style.safetensors") == len(LAYERS)
    assert torch.allclose(out_of(model), expected, atol=1e-5)
    assert not torch.allclose(expected, out_of(tiny_transformer()), atol=1e-2)


def test_scale_and_stack_add_up(change: dict) -> None:
    once, twice, none = tiny_transformer(), tiny_transformer(), tiny_transformer()
    merge_lora(once, under("released", change), 1.5)
    merge_lora(twice, under("comfy", change), 1.0)
    merge_lora(twice, under("kohya", change), 0.5)
    merge_lora(none, under("peft", change), 0.0)
    assert torch.allclose(out_of(once), out_of(twice), atol=1e-5)
    assert torch.equal(out_of(none), out_of(tiny_transformer()))


def test_what_does_not_fit_is_listed(change: dict) -> None:
    model = tiny_transformer()
    good = under("comfy", change)
    half = {
        name: tensor for name, tensor in good.items() if name != "diffusion_model.blocks.0.self_attn.q.lora_B.weight"
    }
    wide = {name: torch.zeros(RANK, 7) if "lora_A" in name else tensor for name, tensor in good.items()}
    for tensors, words in (
        (
            {**good, "diffusion_model.blocks.9.self_attn.q.lora_A.weight": torch.zeros(4, 48)},
            "no such layer: .*blocks.9",
        ),
        ({**good, "something": torch.zeros(1)}, "no such layer: something"),
        (half, "another shape or half missing: blocks.0.attn1.to_q"),
        (wide, "another shape or half missing"),
    ):
        with pytest.raises(WeightsError, match=words):
            read_lora(tensors, model)
    assert torch.equal(out_of(model), out_of(tiny_transformer()))
