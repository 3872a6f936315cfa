"""Tests with changes of layers: every form of file carries them exactly, also to diffusers; other kinds are refused."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from diffusers.loaders import WanLoraLoaderMixin
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from tiny import TINY, tiny_inputs, tiny_transformer

from avatarctl import durable
from avatarctl.errors import DeviceError, UsageError, WeightsError
from avatarctl.networks.adapters import merge_lora
from avatarctl.networks.attach import GROUPS, attach, changes_of, group_of
from avatarctl.networks.lora_formats import (
    FORMS,
    Form,
    Lora,
    LowRank,
    convert_lora,
    parse_lora,
    without_weights,
    write_lora,
)
from avatarctl.networks.names import transformer_names
from avatarctl.networks.transformer import StableAvatarTransformer3DModel

HIDDEN = TINY.with_(vocal_hidden=40)


@torch.no_grad()
def out_of(model: torch.nn.Module) -> torch.Tensor:
    return model(**tiny_inputs()).sample


def make_changes(model: StableAvatarTransformer3DModel) -> tuple[dict[str, LowRank], dict[str, torch.Tensor]]:
    """Return a change of every kind: low rank on all linear layers of three groups, whole ones elsewhere; no two alphas alike."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * 0.2

    low_rank, full = {}, {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and group_of(name) != "embeddings":
            rank = 3 + len(low_rank) % 3
            alpha = 1.5 + 0.3 * len(low_rank)
            low_rank[name] = LowRank(draw(rank, module.in_features), draw(module.out_features, rank), alpha)
    for name, parameter in model.named_parameters():
        if name.removesuffix(".weight") not in low_rank:
            full[name] = draw(*parameter.shape)
    low_rank["patch_embedding"] = LowRank(draw(3, *model.patch_embedding.weight.shape[1:]), draw(48, 3, 1, 1, 1), 2.0)
    del full["patch_embedding.weight"]
    return low_rank, full


def same(found: Lora, low_rank: dict[str, LowRank], full: dict[str, torch.Tensor]) -> None:
    assert not found.unknown and not found.halves
    assert set(found.layers) == set(low_rank) and set(found.full) == set(full)
    for name, change in found.layers.items():
        assert torch.equal(change.down, low_rank[name].down) and torch.equal(change.up, low_rank[name].up), name
        assert change.alpha == pytest.approx(low_rank[name].alpha, rel=1e-7), name
    for name, difference in found.full.items():
        assert torch.equal(difference, full[name]), name


# -- Round trips ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", FORMS)
@pytest.mark.parametrize("start", FORMS)
def test_every_form_to_every_form_and_back(start: Form, to: Form, tmp_path: Path) -> None:
    model = tiny_transformer(HIDDEN)
    low_rank, full = make_changes(model)
    assert {group_of(name) for name in (*low_rank, *full)} == set(GROUPS)
    files = [tmp_path / f"{name}.safetensors" for name in ("first", "second", "third")]
    write_lora(files[0], low_rank, full, start, model, {"trained_by": "a test"})
    assert convert_lora(files[0], to, files[1]) == (start, len(low_rank), len(full))
    assert convert_lora(files[1], start, files[2]) == (to, len(low_rank), len(full))
    for form, file in zip((start, to, start), files):
        found = parse_lora(file, model)
        same(found, low_rank, full)
        assert found.form == form
        assert ("lora_adapter_metadata" in found.metadata) == (form == "diffusers")
        assert found.metadata["trained_by"] == "a test" and json.loads(found.metadata["dims"]) == json.loads(
            json.dumps(HIDDEN.to_json())
        )
    # Not only the meaning but the file comes back.
    first, third = load_file(files[0]), load_file(files[2])
    assert first.keys() == third.keys() and all(torch.equal(first[name], third[name]) for name in first)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_as_it_is(form: Form, dtype: torch.dtype, tmp_path: Path) -> None:
    model = tiny_transformer()
    low_rank, full = make_changes(model)
    low_rank = {n: LowRank(c.down.to(dtype), c.up.to(dtype), c.alpha) for n, c in low_rank.items()}
    full = {name: difference.to(dtype) for name, difference in full.items()}
    same(parse_lora(write_lora(tmp_path / "half.safetensors", low_rank, full, form, model, {})), low_rank, full)
    merged, expected = tiny_transformer(), tiny_transformer()
    merge_lora(merged, tmp_path / "half.safetensors", 0.5)
    for name, weight in expected.named_parameters():
        change = low_rank.get(name.removesuffix(".weight"))
        added = change.change().reshape(weight.shape) if change and name.endswith("weight") else full[name].float()
        torch.testing.assert_close(merged.get_parameter(name), weight + 0.5 * added)


def test_names_are_those_that_other_programs_write(tmp_path: Path) -> None:
    model = tiny_transformer()
    low_rank, full = make_changes(model)
    for form, keys in {
        "diffusers": {
            "transformer.blocks.0.attn1.to_q.lora_A.weight",
            "transformer.blocks.1.ffn.net.0.proj.lora_B.weight",
            "transformer.blocks.0.norm2.diff",
        },
        "released": {
            "lora_transformer__blocks_0_self_attn_q.lora_down.weight",
            "lora_transformer__blocks_0_self_attn_q.alpha",
            "lora_transformer__vocal_projector_final_head_final_proj.lora_up.weight",
        },
        "kohya": {
            "lora_unet_blocks_0_self_attn_q.lora_down.weight",
            "lora_unet_blocks_1_ffn_2.lora_up.weight",
            "lora_unet_blocks_1_ffn_2.alpha",
            "lora_unet_blocks_0_norm3.diff_b",
        },
        "comfy": {
            "diffusion_model.blocks.0.self_attn.q.lora_A.weight",
            "diffusion_model.blocks.0.cross_attn.k_vocal.lora_B.weight",
            "diffusion_model.blocks.0.norm3.diff",
            "diffusion_model.blocks.0.modulation.diff",
            "diffusion_model.head.modulation.diff",
            "diffusion_model.head.head.diff_b",
        },
    }.items():
        written = load_file(write_lora(tmp_path / f"{form}.safetensors", low_rank, full, form, model, {}))
        assert keys <= written.keys(), form


def test_flattened_names_mean_one_layer_each() -> None:
    for dims in (TINY, HIDDEN):
        model, rename = tiny_transformer(dims), transformer_names(dims)
        places: dict[str, set[str]] = {}
        for name in (name for name, _ in model.named_parameters() if not name.endswith(".bias")):
            for written in (name, rename(name)):
                places.setdefault(written.removesuffix(".weight").replace(".", "_"), set()).add(name)
        assert all(len(names) == 1 for names in places.values())


@pytest.mark.parametrize("dims", [TINY, HIDDEN, TINY.with_(layers=12)])
def test_a_file_alone_tells_the_names(dims: object, tmp_path: Path) -> None:
    model = tiny_transformer(dims)
    low_rank, full = make_changes(model)
    for form in FORMS:
        write_lora(tmp_path / "lora.safetensors", low_rank, full, form, model, {})
        guessed = without_weights(load_file(tmp_path / "lora.safetensors"))
        assert {n for n, _ in guessed.named_parameters()} == {n for n, _ in model.named_parameters()}
        assert all(parameter.is_meta for parameter in guessed.parameters())


# -- What others make of it -----------------------------------------------------------------------------------------


def attached(alpha: float = 6.0) -> StableAvatarTransformer3DModel:
    model = tiny_transformer()
    generator = torch.Generator().manual_seed(2)
    for parameter in attach(model, dict.fromkeys(("attention", "feed_forward"), "lora"), 4, alpha, 0.0).values():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def test_diffusers_loads_its_form_with_the_same_effect(tmp_path: Path) -> None:
    """Alphas and ranks of every layer reach peft through the file's metadata."""
    model, loaded = tiny_transformer(), tiny_transformer()
    low_rank, _ = make_changes(model)
    del low_rank["patch_embedding"]  # peft has its own idea of a convolution's up-weight
    path = write_lora(tmp_path / "lora.safetensors", low_rank, {}, "diffusers", model, {})
    loaded.load_lora_adapter(str(tmp_path), weight_name=path.name, prefix="transformer")
    merge_lora(model, path)
    torch.testing.assert_close(out_of(loaded), out_of(model), rtol=0, atol=1e-4)
    assert (out_of(model) - out_of(tiny_transformer())).abs().max() > 1e-2


def test_a_file_of_diffusers_itself_is_read_with_its_alpha(tmp_path: Path) -> None:
    model, merged = attached(), tiny_transformer()
    model.save_lora_adapter(tmp_path, weight_name="theirs.safetensors")
    theirs = load_file(tmp_path / "theirs.safetensors")
    assert merge_lora(merged, tmp_path / "theirs.safetensors") == len(theirs) // 2
    torch.testing.assert_close(out_of(merged), out_of(model), rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", ["comfy", "kohya"])
def test_diffusers_converts_the_other_forms_alike(form: Form, tmp_path: Path) -> None:
    model = attached()
    low_rank, _ = changes_of(model, {})
    write_lora(tmp_path / "lora.safetensors", low_rank, {}, form, model, {})
    theirs = WanLoraLoaderMixin.lora_state_dict(str(tmp_path), weight_name="lora.safetensors")
    assert len(theirs) == 2 * len(low_rank)
    for name, change in low_rank.items():
        down, up = (theirs[f"transformer.{name}.lora_{side}.weight"] for side in "AB")
        torch.testing.assert_close(up @ down, change.change(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rslora", [False, True])
def test_a_folder_of_peft_is_read_with_its_alpha(rslora: bool, tmp_path: Path) -> None:
    """peft keeps alpha beside the file alone; patterns give some layers their own."""
    layers = ["blocks.0.attn1.to_q", "blocks.1.attn1.to_q", "blocks.1.ffn.net.2"]
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        use_rslora=rslora,
        target_modules=layers,
        rank_pattern={"net.2": 9},
        alpha_pattern={"net.2": 2},
    )
    model = tiny_transformer()
    model.add_adapter(config)
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
            tensors[f"base_model.model.{name.replace('.default', '')}"] = parameter.data
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    config.save_pretrained(tmp_path)
    merged = tiny_transformer()
    assert merge_lora(merged, tmp_path / "adapter_model.safetensors") == 4  # the adapter's net.2 too
    torch.testing.assert_close(out_of(merged), out_of(model), rtol=0, atol=1e-5)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"adapter_config\.json: got broken JSON"):
        parse_lora(tmp_path / "adapter_model.safetensors")


def test_community_files_with_differences_and_dotted_factors_load() -> None:
    """As distilled Wan2.1 weights are shared: ``lora_down`` under dotted names, norms and biases as differences."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=generator) * 0.2).half()

    tensors = {
        "diffusion_model.blocks.0.self_attn.q.lora_down.weight": draw(4, 48),
        "diffusion_model.blocks.0.self_attn.q.lora_up.weight": draw(48, 4),
        "diffusion_model.blocks.0.self_attn.q.diff_b": draw(48),
        "diffusion_model.blocks.0.self_attn.norm_q.diff": draw(48),
        "diffusion_model.blocks.0.norm3.diff_b": draw(48),
        "diffusion_model.patch_embedding.diff": draw(48, 36, 1, 2, 2),
        "diffusion_model.time_projection.1.diff_b": draw(288),
        "diffusion_model.img_emb.proj.1.lora_down.weight": draw(2, 20),
        "diffusion_model.img_emb.proj.1.lora_up.weight": draw(20, 2),
        "diffusion_model.img_emb.proj.1.alpha": torch.tensor(1.0, dtype=torch.float16),
    }
    base, model = dict(tiny_transformer().named_parameters()), tiny_transformer()
    assert merge_lora(model, tensors, 2.0) == 6
    for name, added in {
        "blocks.0.attn1.to_q.weight": tensors["diffusion_model.blocks.0.self_attn.q.lora_up.weight"].float()
        @ tensors["diffusion_model.blocks.0.self_attn.q.lora_down.weight"].float(),
        "blocks.0.attn1.to_q.bias": tensors["diffusion_model.blocks.0.self_attn.q.diff_b"],
        "blocks.0.attn1.norm_q.weight": tensors["diffusion_model.blocks.0.self_attn.norm_q.diff"],
        "blocks.0.norm2.bias": tensors["diffusion_model.blocks.0.norm3.diff_b"],
        "patch_embedding.weight": tensors["diffusion_model.patch_embedding.diff"],
        "condition_embedder.time_proj.bias": tensors["diffusion_model.time_projection.1.diff_b"],
        "condition_embedder.image_embedder.ff.net.0.proj.weight": 0.5
        * tensors["diffusion_model.img_emb.proj.1.lora_up.weight"].float()
        @ tensors["diffusion_model.img_emb.proj.1.lora_down.weight"].float(),
    }.items():
        torch.testing.assert_close(model.get_parameter(name), base[name] + 2.0 * added.float())


# -- Refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"lora_unet_patch_embedding.hada_t1": torch.ones(4, 4, 1, 2, 2)}, "Tucker: .*hada_t1"),
        ({"lora_unet_blocks_0_self_attn_q.oft_blocks": torch.ones(4, 4)}, "OFT"),
        ({"transformer.blocks.0.attn1.to_q.lora_B.bias": torch.ones(48)}, "LoRA with bias"),
        ({"diffusion_model.patch_embedding.set_weight": torch.ones(48)}, "replaced weights"),
    ],
)
def test_changes_of_another_kind_are_named(tensors: dict, words: str) -> None:
    good = {"lora_unet_blocks_0_self_attn_k.lora_down.weight": torch.ones(2, 48)}
    with pytest.raises(WeightsError, match=f"another kind .*{words}"):
        parse_lora({**good, **tensors})


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (
            {"diffusion_model.patch_embedding.diff": torch.ones(48, 16, 1, 2, 2)},
            r"patch_embedding\.weight \(48, 16, 1, 2, 2\)",
        ),
        ({"diffusion_model.blocks.0.norm3.diff_b": torch.ones(1536)}, r"blocks\.0\.norm2\.bias \(1536,\) for \(48,\)"),
        ({"diffusion_model.blocks.0.norm1.diff": torch.ones(48)}, r"no such layer.*: .*norm1"),
        ({"diffusion_model.blocks.0.self_attn.norm_q.diff_b": torch.ones(48)}, "no such layer"),
        ({"diffusion_model.blocks.0.modulation.lora_A.weight": torch.ones(2, 48)}, "no such layer"),
        ({"lora_te_text_model_0.lora_down.weight": torch.ones(2, 48)}, "no such layer.*: lora_te"),
        ({"diffusion_model.blocks.0.self_attn.q.alpha": torch.tensor(1.0)}, "half missing: blocks.0.attn1.to_q"),
        (
            {f"lora_unet_blocks_0_ffn_0.{end}.weight": torch.ones(48) for end in ("lora_down", "lora_up")},
            r"half missing: blocks\.0\.ffn\.net\.0\.proj",
        ),
        (
            {f"{prefix}blocks_0_ffn_0.lora_down.weight": torch.ones(2, 48) for prefix in ("lora_unet_", "lora_unet__")},
            "no such layer.*: lora_unet__blocks_0_ffn_0",
        ),
        (
            {f"{prefix}.blocks.0.norm3.diff": torch.ones(48) for prefix in ("transformer", "diffusion_model")},
            "no such layer.*: diffusion_model.blocks.0.norm3.diff",
        ),
    ],
)
def test_what_does_not_fit_is_an_error_that_lists_it(tensors: dict, words: str) -> None:
    model = tiny_transformer()
    with pytest.raises(WeightsError, match=words):
        merge_lora(model, tensors)
    assert torch.equal(out_of(model), out_of(tiny_transformer()))


def test_dora_in_the_configuration_without_magnitudes_is_refused(tmp_path: Path) -> None:
    config = json.dumps({"transformer.r": 2, "transformer.lora_alpha": 2, "transformer.use_dora": True})
    tensors = {"transformer.blocks.0.attn1.to_q.lora_A.weight": torch.ones(2, 48)}
    save_file(tensors, tmp_path / "lora.safetensors", {"lora_adapter_metadata": config})
    with pytest.raises(WeightsError, match="DoRA"):
        parse_lora(tmp_path / "lora.safetensors")


def test_broken_metadata_is_an_error(tmp_path: Path) -> None:
    tensors = {"transformer.blocks.0.attn1.to_q.lora_A.weight": torch.ones(2, 48)}
    for text in ("{", "7"):
        save_file(tensors, tmp_path / "lora.safetensors", {"lora_adapter_metadata": text})
        with pytest.raises(WeightsError, match="broken lora_adapter_metadata"):
            parse_lora(tmp_path / "lora.safetensors")


def test_conversion_lists_what_it_can_not_name(tmp_path: Path) -> None:
    save_file({"lora_te1_layer.lora_down.weight": torch.ones(2, 4)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="lora_te1_layer"):
        convert_lora(tmp_path / "other.safetensors", "comfy", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_nothing_to_write_or_another_ending_is_refused(tmp_path: Path) -> None:
    model = tiny_transformer()
    low_rank, full = make_changes(model)
    with pytest.raises(UsageError, match="no changes"):
        write_lora(tmp_path / "lora.safetensors", {}, {}, "comfy", model, {})
    with pytest.raises(UsageError, match=r"expected \.safetensors"):
        write_lora(tmp_path / "lora.bin", low_rank, full, "comfy", model, {})


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_transformer()
    low_rank, full = make_changes(model)
    path = write_lora(tmp_path / "lora.safetensors", low_rank, {}, "comfy", model, {})
    before = path.read_bytes()

    def full_disk(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(durable.os, "fsync", full_disk)
    with pytest.raises(DeviceError, match="the disk is full"):
        write_lora(path, low_rank, full, "comfy", model, {})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
