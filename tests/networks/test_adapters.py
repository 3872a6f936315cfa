"""Tests with tiny transformers and LoRA: what trains, that merged equals unmerged and misfits are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import save_file
from tiny import TINY, tiny_inputs, tiny_transformer

from avatarctl.errors import UsageError, WeightsError
from avatarctl.networks.adapters import merge_lora, merge_loras, read_lora
from avatarctl.networks.attach import GROUPS, attach, changes_of, groups_of, load_trained, trained_state
from avatarctl.networks.dims import TransformerDims
from avatarctl.networks.lora_formats import FORMS, Form, write_lora
from avatarctl.networks.names import transformer_names
from avatarctl.networks.transformer import StableAvatarTransformer3DModel

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
    """Return the change under a trainer's names; alpha stands in the file or, as peft has it, in the weights."""
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
            "no such layer.*: .*blocks.9",
        ),
        ({**good, "something": torch.zeros(1)}, "no such layer.*: something"),
        (half, "another shape or half missing: blocks.0.attn1.to_q"),
        (wide, "another shape or half missing"),
    ):
        with pytest.raises(WeightsError, match=words):
            read_lora(tensors, model)
    assert torch.equal(out_of(model), out_of(tiny_transformer()))


# -- Groups and training ------------------------------------------------------------------------------------------------

ALL_LORA = {"attention": "lora", "feed_forward": "lora", "audio": "lora"}


@pytest.mark.parametrize("dims", [TINY, TINY.with_(vocal_hidden=40)])
def test_groups_are_a_partition(dims: TransformerDims) -> None:
    model = tiny_transformer(dims)
    groups = groups_of(model)
    named = [name for names in groups.values() for name in names]
    assert sorted(named) == sorted(name for name, _ in model.named_parameters())
    assert set(groups) == set(GROUPS) and all(groups.values())


def test_each_group_has_what_its_name_says() -> None:
    groups = groups_of(tiny_transformer())
    for group, inside in {
        "attention": ["blocks.0.attn1.to_q.weight", "blocks.1.attn2.add_k_proj.bias", "blocks.0.attn2.to_out.0.weight"],
        "feed_forward": ["blocks.0.ffn.net.0.proj.weight", "blocks.1.ffn.net.2.bias"],
        "audio": ["blocks.0.attn2.to_k_vocal.weight", "vocal_projector.blocks.0.attn2.norm_q.weight",
                  "vocal_projector.scale_shift_table", "vocal_projector.norm_in.bias"],
        "norms": ["blocks.0.norm2.weight", "blocks.0.attn1.norm_q.weight", "blocks.1.scale_shift_table"],
        "embeddings": ["patch_embedding.weight", "condition_embedder.image_embedder.norm1.weight", "proj_out.bias",
                       "scale_shift_table", "condition_embedder.time_proj.weight"],
    }.items():  # fmt: skip
        assert set(inside) <= set(groups[group])


@pytest.mark.parametrize("groups", [{}, {**ALL_LORA, "audio": "full", "norms": "full"}, {"embeddings": "lora"}])
def test_attaching_changes_nothing_yet(groups: dict) -> None:
    model = tiny_transformer()
    attach(model, groups, RANK, ALPHA, 0.0)
    assert torch.equal(out_of(model), out_of(tiny_transformer()))


def test_exactly_what_was_asked_for_trains() -> None:
    model = tiny_transformer()
    base = groups_of(model)
    given = attach(model, {"attention": "lora", "audio": "full", "norms": "frozen"}, RANK, ALPHA, 0.0)
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trains == set(given)
    factors = {name for name in trains if ".lora_" in name}
    linear = [name for name in base["attention"] if name.endswith(".weight")]
    assert trains - factors == set(base["audio"])
    # The adapter's layers are named like the blocks' and must not be taken for them.
    assert len(factors) == 2 * len(linear) and not any(name.startswith("vocal_projector") for name in factors)
    model(**tiny_inputs()).sample.square().mean().backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == trains


def test_factors_are_float32_on_any_base() -> None:
    model = tiny_transformer().bfloat16()
    given = attach(model, ALL_LORA, RANK, ALPHA, 0.0)
    assert {parameter.dtype for parameter in given.values()} == {torch.float32}
    assert model.blocks[0].attn1.to_q.base_layer.weight.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ({"norms": "lora"}, "norms: got lora, but it has no linear layers"),
        ({"attentoin": "full"}, "got attentoin, expected some of attention"),
    ],
)
def test_groups_that_can_not_be(groups: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        attach(tiny_transformer(), groups, RANK, ALPHA, 0.0)


def trained(seed: int = 3, **groups: str) -> StableAvatarTransformer3DModel:
    """Return a transformer after a training that moved everything that trains."""
    model = tiny_transformer()
    generator = torch.Generator().manual_seed(seed)
    for parameter in attach(model, groups or ALL_LORA, RANK, ALPHA, 0.0).values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def test_what_trains_is_saved_and_put_back() -> None:
    groups = {**ALL_LORA, "audio": "full", "norms": "full"}
    one, other = trained(3, **groups), trained(4, **groups)
    assert not torch.equal(out_of(one), out_of(other))
    load_trained(other, trained_state(one))
    assert torch.equal(out_of(one), out_of(other))


def test_trained_weights_of_another_run_are_refused() -> None:
    model = trained()
    before, state = out_of(model), trained_state(model)
    first = next(iter(state))
    for wrong, words in (
        ({name: t for name, t in state.items() if name != first}, f"missing: {first}"),
        ({**state, "blocks.0.norm2.weight": torch.ones(48)}, r"left over: blocks\.0\.norm2\.weight"),
        ({**state, first: torch.ones(7, 48)}, f"another shape: {first}"),
    ):
        with pytest.raises(WeightsError, match=words):
            load_trained(model, wrong)
    assert torch.equal(out_of(model), before)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "groups",
    [
        ALL_LORA,
        {**ALL_LORA, "audio": "full"},
        {"audio": "full", "norms": "full", "embeddings": "full", "attention": "lora"},
    ],
    ids=["lora", "audio in full", "mostly in full"],
)
def test_merged_equals_unmerged(form: Form, groups: dict, tmp_path: Path) -> None:
    model, merged = trained(**groups), tiny_transformer()
    low_rank, full = changes_of(model, dict(merged.named_parameters()))
    path = write_lora(tmp_path / "lora.safetensors", low_rank, full, form, model, {})
    merge_lora(merged, path)
    torch.testing.assert_close(out_of(merged), out_of(model), rtol=0, atol=1e-5)
    assert (out_of(merged) - out_of(tiny_transformer())).abs().max() > 1e-2


def test_zero_up_weights_merge_into_the_base() -> None:
    model, merged = tiny_transformer(), tiny_transformer()
    attach(model, ALL_LORA, RANK, ALPHA, 0.0)
    low_rank, full = changes_of(model, {})
    assert not full and len(low_rank) == 2 * 14 + 2 * 6 + 2
    tensors = {}
    for name, factors in low_rank.items():
        tensors |= {f"transformer.{name}.lora_A.weight": factors.down, f"transformer.{name}.lora_B.weight": factors.up}
    assert merge_lora(merged, tensors) == len(low_rank)
    assert torch.equal(out_of(merged), out_of(tiny_transformer()))


def test_several_at_once_with_scales(tmp_path: Path) -> None:
    """Adding LoRAs one after the other, all at once, or by peft with weights: all the same; so with whole changes."""
    paths = []
    base = dict(tiny_transformer().named_parameters())
    for seed in (3, 4):
        low_rank, full = changes_of(model := trained(seed, **{**ALL_LORA, "audio": "full"}), base)
        paths.append(write_lora(tmp_path / f"{seed}.safetensors", low_rank, full, "kohya", model, {}))
    in_turn, at_once = tiny_transformer(), tiny_transformer()
    layers = [merge_lora(in_turn, paths[0], 0.7), merge_lora(in_turn, paths[1], -0.4)]
    assert merge_loras(at_once, [(paths[0], 0.7), (paths[1], -0.4)]) == layers[0] == layers[1]
    torch.testing.assert_close(out_of(at_once), out_of(in_turn), rtol=0, atol=1e-5)
    expected = dict(tiny_transformer().named_parameters())
    singles = [dict(tiny_transformer().named_parameters()) for _ in paths]
    for single, path in zip(singles, paths):
        model = tiny_transformer()
        merge_lora(model, path)
        single |= dict(model.named_parameters())
    for name, parameter in at_once.named_parameters():
        added = 0.7 * (singles[0][name] - expected[name]) - 0.4 * (singles[1][name] - expected[name])
        torch.testing.assert_close(parameter, expected[name] + added, rtol=0, atol=1e-5)


def test_one_that_does_not_fit_stops_all_before_any_is_merged(change: dict) -> None:
    model = tiny_transformer()
    with pytest.raises(WeightsError, match=r"no such layer.*: something"):
        merge_loras(model, [(under("comfy", change), 1.0), ({"something": torch.zeros(1)}, 1.0)])
    assert torch.equal(out_of(model), out_of(tiny_transformer()))


def test_a_narrow_weight_is_rounded_once(change: dict) -> None:
    """Two LoRAs that cancel leave bfloat16 weights as they were; merged in turn they would not."""
    model, before = tiny_transformer().bfloat16(), tiny_transformer().bfloat16()
    merge_loras(model, [(under("comfy", change), 0.37), (under("released", change), -0.37)])
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before.get_parameter(name)), name
