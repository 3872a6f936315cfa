"""Tests with LoRA files on the command line: what they are, merges and converts them; every mistake has its message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_inputs, tiny_weights
from typer.testing import CliRunner

from avatarctl import cli
from avatarctl.errors import AvatarError, InputFileError, UsageError, WeightsError
from avatarctl.networks.adapters import load_merged, merge_lora
from avatarctl.networks.attach import attach, changes_of
from avatarctl.networks.checkpoints import load_transformer, name_map, save_weights
from avatarctl.networks.dims import TRANSFORMER_1_3B
from avatarctl.networks.kinds import TRANSFORMER
from avatarctl.networks.lora_formats import parse_lora, write_lora
from avatarctl.settings.student import STUDENT
from avatarctl.weights import find_weights


def out(*words: Any) -> str:
    done = CliRunner().invoke(cli.app, ["lora", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def data(*words: Any) -> Any:
    return json.loads(out(*words, "--json"))["data"]


def refusal(*words: Any) -> AvatarError:
    with pytest.raises(AvatarError) as caught:
        CliRunner().invoke(cli.app, ["lora", *map(str, words)], catch_exceptions=False)
    assert caught.value.message and caught.value.exit_code != 1
    return caught.value


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two LoRAs, with audio trained in full, for the transformer of a folder of weights."""
    folder = tmp_path_factory.mktemp("loras")
    tiny_weights(folder / "weights")
    base = load_transformer(folder / "weights" / "transformer.safetensors")
    for seed, form in ((1, "diffusers"), (2, "kohya")):
        model = load_transformer(folder / "weights" / "transformer.safetensors")
        generator = torch.Generator().manual_seed(seed)
        groups = {"attention": "lora", "feed_forward": "lora", "audio": "full"}
        for parameter in attach(model, groups, 4, 6.0, 0.0).values():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
        low_rank, full = changes_of(model, dict(base.named_parameters()))
        write_lora(folder / f"{form}.safetensors", low_rank, full, form, model, {"trained_by": "a test"})
    return folder


@torch.no_grad()
def out_of(model: torch.nn.Module) -> torch.Tensor:
    return model(**tiny_inputs(model.dims)).sample


# -- info -----------------------------------------------------------------------------------------------------------


def test_info_tells_what_a_file_is(folder: Path) -> None:
    found = data("info", folder / "kohya.safetensors")
    tensors = load_file(folder / "kohya.safetensors")
    numbers = {name: tensor for name, tensor in tensors.items() if not name.endswith(".alpha")}
    assert found["form"] == "kohya" and found["made_for"] == "StableAvatar, width 48, 2 blocks"
    assert (
        found["ranks"] == {"4": 24} and found["alphas"] == {"6.0": 24} and found["dtypes"] == {"float32": len(numbers)}
    )
    assert found["layers"]["attention"] == {"low_rank": 20, "whole": 0}
    assert found["layers"]["feed_forward"] == {"low_rank": 4, "whole": 0}
    assert found["layers"]["audio"]["whole"] == sum(".diff" in name for name in tensors) > 20
    assert found["layers"]["norms"] == {"low_rank": 0, "whole": 0}
    assert found["parameters"] == sum(tensor.numel() for tensor in numbers.values())
    assert found["bytes"] == (folder / "kohya.safetensors").stat().st_size
    assert found["metadata"]["trained_by"] == "a test" and found["unknown"] == []


def test_info_as_text(folder: Path) -> None:
    text = out("info", folder / "diffusers.safetensors")
    rows = {line.split("  ")[0]: line.split("  ", 1)[1].strip() for line in text.splitlines() if "  " in line}
    assert rows["names of"] == "diffusers" and rows["rank"] == "4" and rows["alpha"] == "6.0"
    assert rows["attention"] == "20 low rank" and rows["audio"].endswith("whole")
    assert max(map(len, text.splitlines())) < 120 + len(str(folder))


def test_info_names_released_sizes_and_what_fits_nothing(tmp_path: Path) -> None:
    tensors = {
        "lora_unet_blocks_7_self_attn_q.lora_down.weight": torch.zeros(2, 1536, dtype=torch.bfloat16),
        "lora_unet_blocks_7_self_attn_q.lora_up.weight": torch.zeros(1536, 2, dtype=torch.bfloat16),
        "lora_te_text.alpha": torch.tensor(1.0),
    }
    save_file(tensors, tmp_path / "lora.safetensors")
    found = data("info", tmp_path / "lora.safetensors")
    assert found["made_for"] == "Wan2.1 1.3B" and found["dtypes"] == {"bfloat16": 2}
    assert found["alphas"] == {"2.0": 1} and found["unknown"] == ["lora_te_text.alpha"]
    assert "lora_te_text.alpha" in out("info", tmp_path / "lora.safetensors")


def test_info_of_numbers_that_are_not_finite(tmp_path: Path) -> None:
    key = "diffusion_model.blocks.0.self_attn.q.lora"
    file = tmp_path / "n.safetensors"
    save_file({f"{key}_A.weight": torch.full((2, 48), float("nan")), f"{key}_B.weight": torch.ones(48, 2)}, file)
    for words in (("info", file), ("convert", file, "--to", "kohya", "--output", tmp_path / "o.safetensors")):
        error = refusal(*words)
        assert isinstance(error, WeightsError)
        assert f"1 tensor holds NaN or infinite numbers ({key}_A.weight)" in error.message
    assert refusal("info", file, "--json").data["not_finite"] == [f"{key}_A.weight"]
    told = CliRunner().invoke(cli.app, ["lora", "info", str(file)]).stdout
    assert "not finite" in told and "comfy" in told and "1 LoRA" in told


def test_info_of_files_that_are_none(folder: Path, tmp_path: Path) -> None:
    assert isinstance(refusal("info", tmp_path / "none.safetensors"), InputFileError)
    (tmp_path / "broken.safetensors").write_bytes(b"1234567890")
    assert "damaged" in refusal("info", tmp_path / "broken.safetensors").message
    whole = refusal("info", folder / "weights" / "transformer.safetensors")
    assert isinstance(whole, WeightsError) and "got no layer" in whole.message


# -- merge ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_a_render_and_merged_weights_have_the_same_bits(folder: Path, tmp_path: Path, stored: torch.dtype) -> None:
    """Several LoRAs, whatever the number format of the file, that of the render being bfloat16."""
    whole = load_transformer(folder / "weights" / "transformer.safetensors", dtype=stored)
    base = save_weights(whole, tmp_path / "b.safetensors")
    loras = [(folder / "diffusers.safetensors", 0.37), (folder / "kohya.safetensors", 0.61)]
    flags = [f"{file}:{scale}" for file, scale in loras]
    out("merge", *flags, "--weights", base, "--output", tmp_path / "m.safetensors")
    narrow = stored if stored != torch.float32 else torch.bfloat16
    rendered, layers = load_merged(base, loras, narrow)
    merged = load_transformer(tmp_path / "m.safetensors", dtype=narrow)
    assert layers > 24
    for (name, one), (_, other) in zip(rendered.named_parameters(), merged.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    mapped, _ = load_merged(base, loras, None)  # as a large network is loaded for a CPU
    for name, other in load_transformer(tmp_path / "m.safetensors", dtype=None).named_parameters():
        assert torch.equal(mapped.get_parameter(name), other), name


def test_merged_weights_are_taken_by_generate(folder: Path, tmp_path: Path) -> None:
    """Under released names, in the place where `generate --weights` looks for a transformer; as LoRAs merged at a render."""
    loras = [f"{folder / 'diffusers.safetensors'}:0.5", f"{folder / 'kohya.safetensors'}"]
    path = tmp_path / "mine" / "transformer.safetensors"
    found = data("merge", *loras, "--weights", folder / "weights", "--output", path)
    assert found["path"] == str(path) and [lora["scale"] for lora in found["loras"]] == [0.5, 1.0]
    expected = load_transformer(folder / "weights" / "transformer.safetensors")
    merge_lora(expected, folder / "diffusers.safetensors", 0.5)
    merge_lora(expected, folder / "kohya.safetensors")
    merged = load_transformer(path)
    torch.testing.assert_close(out_of(merged), out_of(expected), rtol=0, atol=1e-5)
    assert load_file(path).keys() == name_map(TRANSFORMER, merged.dims).keys()  # other programs know these
    for name in ("vae", "text_encoder", "image_encoder", "speech_encoder"):
        (path.parent / f"{name}.safetensors").symlink_to(folder / "weights" / f"{name}.safetensors")
    (path.parent / "tokenizer").symlink_to(folder / "weights" / "tokenizer")
    assert find_weights(path.parent, (512, 512), "auto").transformer == path


def test_merge_takes_a_file_and_a_number_format(folder: Path, tmp_path: Path) -> None:
    base = folder / "weights" / "transformer.safetensors"
    narrow = tmp_path / "narrow.safetensors"
    out("merge", folder / "kohya.safetensors", "--weights", base, "--output", narrow, "--dtype", "bfloat16")
    assert load_file(narrow)["blocks.0.self_attn.q.weight"].dtype == torch.bfloat16
    # As stored, where nothing is said: a bfloat16 base gives bfloat16.
    again = tmp_path / "again.safetensors"
    out("merge", folder / "kohya.safetensors", "--weights", narrow, "--output", again)
    assert load_file(again)["blocks.0.self_attn.q.weight"].dtype == torch.bfloat16
    assert load_file(again)["blocks.0.cross_attn.k_vocal.weight"].dtype == torch.bfloat16


def test_a_merged_student_is_told_how_to_be_rendered(folder: Path, tmp_path: Path) -> None:
    facts = {"steps": 8, "schedule": "uniform", "shift": 5.0, "solver": "euler", "guidance": "none", "window": 21}
    path = tmp_path / "turbo.safetensors"
    save_file(load_file(folder / "kohya.safetensors"), path, {STUDENT: json.dumps(facts)})
    words = ["merge", path, "--weights", folder / "weights", "--output", tmp_path / "merged.safetensors"]
    done = CliRunner().invoke(cli.app, ["lora", *map(str, words)], catch_exceptions=False)
    flags = "--steps 8 --schedule uniform --shift 5 --solver euler --guidance none"
    assert done.exit_code == 0 and flags in " ".join(done.stderr.split())
    dry = ["generate", "--preset", "puppet", "--audio", "none.wav", *flags.split(), "--show-settings", "--json"]
    shown = CliRunner().invoke(cli.app, dry, catch_exceptions=False)
    assert json.loads(shown.stdout)["data"]["settings"]["shift"]["value"] == 5.0


def test_merge_refuses_what_can_not_be(folder: Path, tmp_path: Path) -> None:
    lora, weights, path = folder / "kohya.safetensors", folder / "weights", tmp_path / "merged.safetensors"
    base = weights / "transformer.safetensors"
    for words, kind, said in (
        ((f"{lora}:nan", "--weights", weights, "--output", path), UsageError, "expected FILE or FILE:SCALE"),
        ((tmp_path / "none.safetensors", "--weights", weights, "--output", path), InputFileError, "no such file"),
        ((lora, "--weights", tmp_path / "none", "--output", path), WeightsError, "got no transformer"),
        ((lora, "--weights", weights, "--output", tmp_path / "m.pt"), UsageError, r".safetensors"),
        ((lora, "--weights", weights, "--output", lora), UsageError, "an input is never replaced"),
        ((lora, "--weights", weights, "--output", base, "--force"), UsageError, "the weights to merge into"),
        ((lora, "--weights", weights, "--output", lora, "--force"), UsageError, "one of the LoRAs"),
        ((lora, "--weights", weights / "vae.safetensors", "--output", path), WeightsError, "expected a transformer"),
        ((base, "--weights", weights, "--output", path), WeightsError, "no such layer"),
    ):
        found = refusal("merge", *words)
        assert isinstance(found, kind) and said in found.message, found.message
    assert not path.exists()


def test_float8_weights_ask_for_a_number_format(folder: Path, tmp_path: Path) -> None:
    state = load_file(folder / "weights" / "transformer.safetensors")
    model = load_transformer(folder / "weights" / "transformer.safetensors")
    narrow = tmp_path / "narrow.safetensors"
    save_weights(model, narrow)
    metadata = {"dims": json.dumps(model.dims.to_json()), "network": "transformer"}
    save_file({name: tensor.to(torch.float8_e4m3fn) for name, tensor in state.items()}, narrow, metadata)
    words = ("merge", folder / "kohya.safetensors", "--weights", narrow, "--output", tmp_path / "merged.safetensors")
    assert "float8_e4m3fn" in refusal(*words).message
    out(*words, "--dtype", "bfloat16")


# -- convert --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["diffusers", "released", "kohya", "comfy"])
def test_convert_needs_the_file_alone(folder: Path, to: str, tmp_path: Path) -> None:
    path = tmp_path / "out.safetensors"
    found = data("convert", folder / "diffusers.safetensors", "--to", to, "--output", path)
    assert (found["from"], found["to"]) == ("diffusers", to)
    before, after = parse_lora(folder / "diffusers.safetensors"), parse_lora(path)
    assert after.form == to and (found["low_rank"], found["whole"]) == (len(after.layers), len(after.full))
    assert before.layers.keys() == after.layers.keys() and before.full.keys() == after.full.keys()
    base = folder / "weights" / "transformer.safetensors"
    models = [load_transformer(base) for _ in range(2)]
    merge_lora(models[0], folder / "diffusers.safetensors")
    merge_lora(models[1], path)
    assert torch.equal(out_of(models[0]), out_of(models[1]))
    assert data("info", path)["metadata"]["trained_by"] == "a test"


def test_convert_replaces_when_told_to(folder: Path, tmp_path: Path) -> None:
    source, path = folder / "kohya.safetensors", tmp_path / "own.safetensors"
    path.write_bytes(source.read_bytes())
    words = ("convert", source, "--to", "comfy", "--output", path)
    assert "exists already" in refusal(*words).message
    assert parse_lora(path).form == "kohya"
    out(*words, "--force")
    assert parse_lora(path).form == "comfy"
    words = ("convert", path, "--to", "kohya", "--output", path, "--force")
    assert "an input is never replaced" in refusal(*words).message and parse_lora(path).form == "comfy"


def test_convert_of_the_released_layout(tmp_path: Path) -> None:
    """A LoRA of the 1.3B transformer, thirty blocks, by name alone."""
    released = [name.removesuffix(".weight") for name in name_map(TRANSFORMER, TRANSFORMER_1_3B)]
    layers = [name for name in released if name.endswith(("_attn.q", "_attn.k_vocal", "ffn.2"))]
    assert len(layers) == 4 * 30 + 2 * 2
    tensors = {}
    for name in layers:
        tensors[f"diffusion_model.{name}.lora_A.weight"] = torch.ones(1, 3)
        tensors[f"diffusion_model.{name}.lora_B.weight"] = torch.ones(5, 1)
    save_file(tensors, tmp_path / "lora.safetensors")
    out("convert", tmp_path / "lora.safetensors", "--to", "released", "--output", tmp_path / "out.safetensors")
    written = load_file(tmp_path / "out.safetensors")
    assert len(written) == 3 * len(layers)
    assert "lora_transformer__blocks_29_cross_attn_k_vocal.lora_down.weight" in written
