"""Show that LoHa, LoKr and DoRA change weights as peft does, under several trainers' names, and how misfits are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from tiny import TINY, tiny_inputs, tiny_transformer

from avatarctl.errors import WeightsError
from avatarctl.networks import header
from avatarctl.networks.adapters import describe_lora, merge_lora, merge_loras
from avatarctl.networks.lora_formats import convert_lora, parse_lora
from avatarctl.networks.names import transformer_names

LAYERS = ["blocks.0.attn1.to_q", "blocks.1.ffn.net.0.proj"]
TARGET = "|".join(LAYERS)  # a pattern of whole names: in a list, they would mean layers of the adapter too
KINDS = {
    "LoHa": LoHaConfig(r=3, alpha=5, target_modules=TARGET),
    "LoKr": LoKrConfig(r=2, alpha=3, target_modules=TARGET, decompose_both=True, decompose_factor=8),
    "LoKr half": LoKrConfig(r=2, alpha=3, target_modules=TARGET),
    "LoKr whole": LoKrConfig(r=64, alpha=160, target_modules=TARGET),
    "DoRA": LoraConfig(r=3, lora_alpha=5, target_modules=TARGET, use_dora=True),
}


@torch.no_grad()
def out_of(model: torch.nn.Module) -> torch.Tensor:
    return model(**tiny_inputs()).sample


def trained(config: Any) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """Return a transformer that peft changes by random numbers, and what it would save of that."""
    model = tiny_transformer()
    inject_adapter_in_model(config, model, "default")
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("lora_", "lokr_", "hada_")):
            noise = torch.randn(parameter.shape, generator=generator) * 0.3
            parameter.data = parameter.data * (1 + 0.2 * noise) if "magnitude" in name else noise
    return model.eval(), {name: tensor.contiguous() for name, tensor in get_peft_model_state_dict(model).items()}


def released(name: str) -> str:
    """Return a key of peft's under the names that LyCORIS and ComfyUI use."""
    layer = next(layer for layer in LAYERS if name.startswith(f"{layer}."))
    ending = name.removeprefix(f"{layer}.").replace("lora_magnitude_vector", "dora_scale").removesuffix(".weight")
    ending = {"lora_A": "lora_down.weight", "lora_B": "lora_up.weight"}.get(ending, ending)
    return transformer_names(TINY)(f"{layer}.weight").removesuffix(".weight") + f".{ending}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["peft", "diffusers", "comfy", "lycoris", "diffsynth"])
def test_every_kind_has_the_effect_that_peft_gives(kind: str, form: str, tmp_path: Path) -> None:
    config = KINDS[kind]
    model, state = trained(config)
    # Released trainers divide alpha by the rank that the factors show; whole Kronecker factors show none.
    factor = 160 / 64 if kind == "LoKr whole" else 1.0
    if form == "peft":
        tensors = {f"base_model.model.{name}": tensor for name, tensor in state.items()}
        config.save_pretrained(tmp_path)
    else:
        alpha = getattr(config, "alpha", None) or getattr(config, "lora_alpha", None)
        names = {name: name if form == "diffusers" else released(name) for name in state}
        prefix = {
            "diffusers": "transformer.",
            "comfy": "diffusion_model.",
            "diffsynth": "pipe.dit.",
            "lycoris": "lycoris_",
        }
        tensors = {}
        for name, tensor in state.items():
            at = min(place for part in (".lo", ".hada", ".dora") if (place := names[name].find(part)) >= 0)
            stem, ending = names[name][:at], names[name][at:]
            stem = stem.replace(".", "_") if form == "lycoris" else stem
            value = tensor[:, None] if ending == ".dora_scale" else tensor
            tensors[f"{prefix[form]}{stem}{ending}"] = value * (factor if "w2" in ending else 1.0)
            if kind != "LoKr whole":
                tensors[f"{prefix[form]}{stem}.alpha"] = torch.tensor(float(alpha))
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    merged = tiny_transformer()
    assert merge_lora(merged, tmp_path / "adapter_model.safetensors") == len(LAYERS)
    torch.testing.assert_close(out_of(merged), out_of(model), rtol=1e-4, atol=2e-5)
    assert not torch.allclose(out_of(merged), out_of(tiny_transformer()), atol=1e-2)
    facts = describe_lora(tmp_path / "adapter_model.safetensors")
    assert facts["kinds"] == {kind.split()[0]: len(LAYERS)} and facts["form"] == form


def test_dora_of_columns() -> None:
    """Older LyCORIS learnt a length for each input."""
    generator = torch.Generator().manual_seed(0)
    down, up, lengths = (torch.randn(shape, generator=generator) for shape in ((2, 48), (48, 2), (1, 48)))
    tensors = {"lora_down.weight": down, "lora_up.weight": up, "dora_scale": lengths}
    model, base = tiny_transformer(), dict(tiny_transformer().named_parameters())["blocks.0.attn1.to_q.weight"]
    merge_lora(model, {f"diffusion_model.blocks.0.self_attn.q.{name}": tensor for name, tensor in tensors.items()})
    turned = base + up @ down
    torch.testing.assert_close(model.get_parameter("blocks.0.attn1.to_q.weight"), turned * lengths / turned.norm(dim=0))


def test_strength_multiplies_the_change() -> None:
    _, state = trained(KINDS["DoRA"])
    tensors = {f"base_model.model.{name}": tensor for name, tensor in state.items()}
    base, half, whole = tiny_transformer(), tiny_transformer(), tiny_transformer()
    merge_lora(half, tensors, 0.5)
    merge_lora(whole, tensors)
    for name in LAYERS:
        first, second, third = (model.get_parameter(f"{name}.weight") for model in (base, half, whole))
        torch.testing.assert_close(second, (first + third) / 2)


def test_order_of_loras_means_nothing() -> None:
    """Each change is one of the base's weights, and the sum is rounded once."""
    loras = []
    for kind in ("LoHa", "DoRA"):
        _, state = trained(KINDS[kind])
        loras.append(({f"base_model.model.{name}": tensor for name, tensor in state.items()}, 0.5))
    one, other = tiny_transformer().bfloat16(), tiny_transformer().bfloat16()
    merge_loras(one, loras)
    merge_loras(other, loras[::-1])
    for (name, first), (_, second) in zip(one.named_parameters(), other.named_parameters()):
        assert torch.equal(first, second), name


def test_modulation_of_distilled_weights() -> None:
    """``diff_m``, as CausVid and lightx2v are shared: the change of a block's modulation, and of the head's."""
    generator = torch.Generator().manual_seed(0)
    block, head = torch.randn(1, 6, 48, generator=generator), torch.randn(2, 48, generator=generator)
    model, base = tiny_transformer(), tiny_transformer()
    tensors = {"diffusion_model.blocks.1.diff_m": block, "diffusion_model.head.diff_m": head}
    assert merge_lora(model, tensors, 0.5) == 2
    for name, change in (("blocks.1.scale_shift_table", block), ("scale_shift_table", head[None])):
        torch.testing.assert_close(model.get_parameter(name), base.get_parameter(name) + 0.5 * change)
    with pytest.raises(WeightsError, match="another shape"):
        merge_lora(model, {"diffusion_model.blocks.1.diff_m": torch.ones(1, 6, 40)})


@pytest.mark.parametrize("prefix", ["pipe.dit.", "model.diffusion_model.", "diffusion_model.", ""])
@pytest.mark.parametrize("ending", ["", ".weight", ".default.weight", ".default"])
def test_names_with_and_without_weight(prefix: str, ending: str) -> None:
    generator = torch.Generator().manual_seed(0)
    down, up = (torch.randn(shape, generator=generator) for shape in ((2, 48), (48, 2)))
    key = f"{prefix}blocks.0.self_attn.q"
    lora = parse_lora({f"{key}.lora_A{ending}": down, f"{key}.lora_B{ending}": up}, tiny_transformer())
    assert not lora.unknown and torch.equal(lora.layers["blocks.0.attn1.to_q"].change(), up @ down)


@pytest.mark.parametrize(
    "pieces",
    [
        {"hada_w1_a": (48, 2), "hada_w1_b": (2, 48)},
        {"hada_w1_a": (48, 2), "hada_w1_b": (3, 48), "hada_w2_a": (48, 2), "hada_w2_b": (2, 48)},
        {"hada_w1_a": (48, 2), "hada_w1_b": (2, 48), "hada_w2_a": (40, 2), "hada_w2_b": (2, 48)},
        {"lokr_w1": (4, 4)},
        {"lokr_w1": (4, 4), "lokr_w2_a": (12, 2)},
        {"lokr_w1": (4, 4), "lokr_w2": (11, 12)},
        {"lokr_w1": (4, 4), "lokr_w2": (12, 12), "lokr_w2_a": (12, 2), "lokr_w2_b": (2, 12)},
        {"lora_down.weight": (2, 48), "lora_up.weight": (48, 2), "dora_scale": (47, 1)},
        {"dora_scale": (48, 1)},
    ],
)
def test_pieces_that_make_no_change_are_named(pieces: dict) -> None:
    tensors = {f"diffusion_model.blocks.0.self_attn.q.{name}": torch.ones(shape) for name, shape in pieces.items()}
    with pytest.raises(WeightsError, match=r"another shape or half missing: blocks\.0\.attn1\.to_q"):
        merge_lora(tiny_transformer(), tensors)


def test_other_kinds_are_not_converted(tmp_path: Path) -> None:
    _, state = trained(KINDS["LoHa"])
    save_file({f"transformer.{name}": tensor for name, tensor in state.items()}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match="got LoHa, expected plain LoRA") as caught:
        convert_lora(tmp_path / "a.safetensors", "comfy", tmp_path / "b.safetensors")
    assert "lora merge" in caught.value.hint and not (tmp_path / "b.safetensors").exists()


# -- Hints ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensors", "hint"),
    [
        (
            {"lora_te_text_model_0.lora_down.weight": (2, 48)},
            "for another network: use a LoRA made for StableAvatar or Wan2.1",
        ),
        (
            {"blocks.0.self_attn.q.lora_A.weight": (2, 5120), "blocks.0.self_attn.q.lora_B.weight": (5120, 2)},
            "made for Wan2.1 14B: use a LoRA of the size of this transformer, width 48, 2 blocks",
        ),
        ({"blocks.0.self_attn.q.lora_A.weight": (2, 48)}, "get the LoRA again"),
        (
            {f"blocks.{n}.self_attn.q.lora_{e}.weight": (2, 48) if e == "A" else (48, 2) for n in (0, 7) for e in "AB"},
            "avatarctl lora info",
        ),
    ],
)
def test_the_hint_is_one_for_what_is_wrong(tensors: dict, hint: str) -> None:
    with pytest.raises(WeightsError) as caught:
        merge_lora(tiny_transformer(), {name: torch.ones(shape) for name, shape in tensors.items()})
    assert hint in caught.value.hint


# -- Numbers that aren't finite ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.float8_e4m3fn]
)
def test_numbers_that_are_not_finite_are_found_without_torch(tmp_path: Path, dtype: torch.dtype, bad: float) -> None:
    values = torch.randn(5000).to(dtype)
    largest, smallest = (
        torch.full((7,), sign * torch.finfo(dtype).max, dtype=torch.float64).to(dtype) for sign in (1, -1)
    )
    fine = {"a": values, "b": largest, "c": smallest, "count": torch.arange(9), "none": torch.zeros(0)}
    save_file(fine, tmp_path / "fine.safetensors")
    assert header.not_finite(tmp_path / "fine.safetensors") == []
    spoilt = values.clone()
    spoilt[4321] = torch.tensor(bad).to(dtype)
    if dtype == torch.float8_e4m3fn and not np.isnan(bad) and torch.isfinite(spoilt[4321].float()):
        return  # it has no infinity
    save_file({**fine, "a": spoilt}, tmp_path / "spoilt.safetensors")
    assert header.not_finite(tmp_path / "spoilt.safetensors") == ["a"]


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_a_lora_with_nan_is_refused_and_told(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"nan.{ending}"
    key = "diffusion_model.blocks.0.self_attn.q.lora"
    tensors = {f"{key}_A.weight": torch.full((2, 48), float("nan")), f"{key}_B.weight": torch.ones(48, 2)}
    (save_file if ending == "safetensors" else torch.save)(tensors, path)
    model = tiny_transformer()
    for run in (lambda: merge_lora(model, path), lambda: convert_lora(path, "kohya", tmp_path / "o.safetensors")):
        with pytest.raises(WeightsError, match=r"1 tensor holds NaN or infinite numbers \(.*lora_A") as caught:
            run()
        assert "earlier checkpoint" in caught.value.hint
    assert describe_lora(path)["not_finite"] == [f"{key}_A.weight"]
    assert torch.equal(out_of(model), out_of(tiny_transformer()))


def test_weights_that_leave_the_range_of_their_format_are_told() -> None:
    key = "diffusion_model.blocks.0.self_attn.q.lora"
    tensors = {f"{key}_A.weight": torch.full((2, 48), 300.0), f"{key}_B.weight": torch.full((48, 2), 300.0)}
    merge_lora(tiny_transformer().bfloat16(), tensors)
    with pytest.raises(
        WeightsError, match=r"1 weights became NaN or infinite in float16 \(blocks\.0\.attn1\.to_q"
    ) as caught:
        merge_lora(tiny_transformer().half(), tensors)
    assert "--dtype bfloat16" in caught.value.hint


# -- What is no LoRA -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "words", "hint"),
    [
        ("a.safetensors", b"", "an empty file", "get the LoRA again"),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "git-lfs", "lfs pull"),
        (
            "a.safetensors",
            b"<!DOCTYPE html>\n<html><body>Sign in</body></html>",
            "a web page",
            "download the file itself",
        ),
        ("a.safetensors", b"PK\x03\x04" + b"\0" * 100, "a pickle of torch", "a.pt"),
        ("a.safetensors", b"\x80\x02}q\0." + b"\0" * 100, "a pickle of torch", "a.pt"),
        ("a.safetensors", (900).to_bytes(8, "little") + b'{"a":', "truncated", "get the LoRA again"),
        ("a.safetensors", b"noise" * 20, "not a safetensors file", "get the LoRA again"),
        ("a.pt", b"<html></html>", "a web page", "download the file itself"),
        ("a.pt", b"PK\x03\x04" + b"\0" * 100, "truncated", "get the LoRA again"),
        (
            "a.pt",
            (20).to_bytes(8, "little") + b'{"a":1}' + b" " * 13,
            "a safetensors file under the name",
            "a.safetensors",
        ),
    ],
)
def test_files_that_can_not_be_right_are_named(
    tmp_path: Path, name: str, content: bytes, words: str, hint: str
) -> None:
    (tmp_path / name).write_bytes(content)
    for look in (header.refuse_damaged_lora, parse_lora, describe_lora):
        with pytest.raises(WeightsError, match=words) as caught:
            look(tmp_path / name)
        assert hint in caught.value.hint and "released" not in caught.value.hint and name in caught.value.message


def test_the_hint_to_rename_helps(tmp_path: Path) -> None:
    key = "diffusion_model.blocks.0.self_attn.q.lora"
    torch.save({f"{key}_A.weight": torch.ones(2, 48), f"{key}_B.weight": torch.ones(48, 2)}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError) as caught:
        parse_lora(tmp_path / "a.safetensors")
    _, old, new = caught.value.hint.removeprefix("rename it: ").split()
    Path(old).rename(new)
    assert list(parse_lora(Path(new)).layers) == ["blocks.0.attn1.to_q"]
