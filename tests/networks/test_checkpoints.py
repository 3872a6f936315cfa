"""Tests with weights in every stored form: they load name by name, save back and wrong ones are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from golden.recorded import read, seeded_weights, shipped
from safetensors.torch import load_file, save_file
from tiny import TINY, tiny_inputs, tiny_transformer

from avatarctl.errors import UsageError, WeightsError
from avatarctl.networks import checkpoints as c
from avatarctl.networks import kinds
from avatarctl.networks.dims import CLIP_VIT_H14, TRANSFORMER_1_3B, TRANSFORMER_14B, UMT5_XXL, WAN_VAE, TransformerDims

DATA = Path(__file__).parents[1] / "golden" / "data"
RELEASED = json.loads((DATA / "checkpoint_keys.json").read_text())
FULL_SIZE = {
    "StableAvatar-1.3B/transformer3d-square.pt": (c.TRANSFORMER, TRANSFORMER_1_3B, "stableavatar_dit_1.3B"),
    "StableAvatar-14B (trained by the user)": (c.TRANSFORMER, TRANSFORMER_14B, None),
    "Wan2.1-Fun-V1.1-1.3B-InP/Wan2.1_VAE.pth": (c.VAE, WAN_VAE, "wan21_vae"),
    "Wan2.1-Fun-V1.1-1.3B-InP/models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth": (
        c.IMAGE_ENCODER,
        CLIP_VIT_H14,
        "clip_vit_h14_vision",
    ),
    "Wan2.1-Fun-V1.1-1.3B-InP/models_t5_umt5-xxl-enc-bf16.pth": (c.TEXT_ENCODER, UMT5_XXL, "umt5_xxl_encoder"),
}
# Not part of the vision network: the projection into the space shared with text.
UNUSED = {"visual.head"}


def meta_state(names: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in names.items()}


@pytest.mark.parametrize("file", FULL_SIZE)
def test_every_released_name_has_one_parameter_of_that_shape_and_back(file: str) -> None:
    network, dims, keymap = FULL_SIZE[file]
    released = {name: shape for name, shape in RELEASED[file].items() if name not in UNUSED}
    names = c.name_map(network, dims)
    assert set(names) == set(released)
    with c.init_empty_weights(include_buffers=False):
        model = network.build(dims)
    parameters = {name: list(parameter.shape) for name, parameter in model.state_dict().items()}
    ours = [name for group in names.values() for name in group]
    assert len(ours) == len(set(ours))
    assert set(parameters) - set(ours) == set(c._tied_names(model))
    for name, group in names.items():
        shape = [released[name][0] // len(group), *released[name][1:]]
        for our in group:
            assert [n for n in parameters[our] if n > 1] == [n for n in shape if n > 1], name
    if keymap:
        verified = json.loads((DATA / "keymaps" / f"{keymap}.json").read_text())["map"]
        assert names == {name: [ours] if isinstance(ours, str) else ours for name, ours in verified.items()}


@pytest.mark.parametrize("file", FULL_SIZE)
def test_full_sizes_are_read_off_the_shapes(file: str) -> None:
    network, dims, _ = FULL_SIZE[file]
    assert network.infer({name: tuple(shape) for name, shape in RELEASED[file].items()}) == dims


@pytest.mark.parametrize("prefix", ["transformer", "vae", "text_encoder", "clip"])
def test_released_weights_come_back_unchanged(prefix: str) -> None:
    load = {
        "transformer": c.load_transformer,
        "vae": c.load_vae,
        "text_encoder": c.load_text_encoder,
        "clip": c.load_image_encoder,
    }[prefix]
    config = read(shipped(prefix)).config
    weights = seeded_weights(config["seed"], config["weights"])
    back = c.released_state(load(weights, dims=config))
    assert set(back) == set(weights) - UNUSED
    for name, tensor in back.items():
        assert torch.equal(tensor.flatten(), weights[name].flatten()), name


@pytest.fixture(scope="module")
def released() -> dict[str, torch.Tensor]:
    return c.released_state(tiny_transformer())


@pytest.fixture(scope="module")
def expected() -> torch.Tensor:
    with torch.no_grad():
        return tiny_transformer()(**tiny_inputs()).sample


def sharded(folder: Path, weights: dict[str, torch.Tensor]) -> Path:
    names = sorted(weights)
    where = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(names)}
    for shard in set(where.values()):
        save_file({name: weights[name].contiguous() for name in names if where[name] == shard}, folder / shard)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    return index


@pytest.mark.parametrize(
    "form", ["dict", "pt", "nested", "legacy", "safetensors", "index", "folder", "diffusers", "ours"]
)
def test_every_stored_form_loads(form: str, tmp_path: Path, released: dict, expected: torch.Tensor) -> None:
    source: object = tmp_path / "weights.pt"
    dims: TransformerDims | None = TINY
    if form == "dict":
        source = released
    elif form == "pt":
        torch.save(released, source)
    elif form == "nested":
        torch.save({"state_dict": released}, source)
    elif form == "legacy":
        torch.save(released, source, _use_new_zipfile_serialization=False)
    elif form == "safetensors":
        source = c.save_weights(tiny_transformer(), tmp_path / "w.safetensors")
        dims = None  # they are in its metadata
    elif form == "ours":
        source = c.save_weights(tiny_transformer(), tmp_path / "w.safetensors", names="ours")
        dims = None
    elif form == "diffusers":
        tiny_transformer().save_pretrained(tmp_path, max_shard_size="100KB")
        source, dims = tmp_path, None
    else:
        source = sharded(tmp_path, released)
        source = source.parent if form == "folder" else source
    model = c.load_transformer(source, dims=dims)
    assert model.dims == TINY
    with torch.no_grad():
        assert torch.equal(model(**tiny_inputs()).sample, expected)


def test_saved_file_has_released_names_and_sizes(tmp_path: Path, released: dict) -> None:
    path = c.save_weights(tiny_transformer(), tmp_path / "deep" / "w.safetensors")
    assert set(load_file(path)) == set(released)
    assert [p.name for p in path.parent.iterdir()] == ["w.safetensors"]
    with pytest.raises(UsageError, match=r"\.safetensors"):
        c.save_weights(tiny_transformer(), tmp_path / "w.pt")


def test_the_same_weights_are_the_same_bytes(tmp_path: Path) -> None:
    model = tiny_transformer()
    written = {c.save_weights(model, tmp_path / f"{number}.safetensors").read_bytes() for number in range(8)}
    assert len(written) == 1
    again = c.load_transformer(tmp_path / "0.safetensors", dtype=torch.float32, device="cpu")
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="what is mapped is read from /proc")
@pytest.mark.parametrize("metadata", [{}, *({"a": "x" * length} for length in (1, 7, 30))])
def test_written_weights_are_used_where_they_are_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metadata: dict[str, str]
) -> None:
    write = c.write_weights
    monkeypatch.setattr(
        c, "write_weights", lambda path, state, about, how: write(path, state, {**about, **metadata}, how)
    )
    path = c.save_weights(tiny_transformer(), tmp_path / "w.safetensors")
    loaded = c.load_transformer(path).state_dict()
    rows = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    spans = [[int(end, 16) for end in row[0].split("-")] for row in rows if row[5:] == [str(path)]]
    copied = [name for name, tensor in loaded.items() if not any(a <= tensor.data_ptr() < b for a, b in spans)]
    assert spans and all(loaded[name].nbytes % 64 for name in copied), copied
    assert sum(loaded[name].nbytes for name in copied) < 0.05 * sum(tensor.nbytes for tensor in loaded.values())
    assert {loaded[name].data_ptr() % 64 for name in loaded} == {0}


def test_14b_layout_is_told_by_its_second_projection() -> None:
    model = tiny_transformer(TINY.with_(vocal_hidden=32))
    assert c.load_transformer(c.released_state(model), dims=TINY).dims == model.dims


@pytest.mark.parametrize("prefix", ["vae", "text_encoder", "clip"])
@pytest.mark.parametrize("names", ["released", "ours"])
def test_other_networks_round_trip_through_files(prefix: str, names: str, tmp_path: Path) -> None:
    load = {"vae": c.load_vae, "text_encoder": c.load_text_encoder, "clip": c.load_image_encoder}[prefix]
    config = read(shipped(prefix)).config
    model = load(seeded_weights(config["seed"], config["weights"]), dims=config)
    again = load(c.save_weights(model, tmp_path / "w.safetensors", names=names))
    assert c.dims_of(again) == c.dims_of(model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_speech_encoder_loads_recorded_and_published_names(tmp_path: Path) -> None:
    config = read(shipped("render")).config
    weights = seeded_weights(config["seeds"]["wav2vec"], config["weights"]["wav2vec"])
    model = c.load_speech_encoder(weights, dims=config["wav2vec"])
    waveform = torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(waveform).last_hidden_state
    # A published folder: prefixed names, older weight-norm names, heads that are not used, and a config.json.
    published = {f"wav2vec2.{name}": tensor for name, tensor in c.released_state(model).items()}
    assert any(name.endswith(".weight_g") for name in published)
    published |= {"lm_head.weight": torch.zeros(3, 32), "wav2vec2.masked_spec_embed": torch.zeros(32)}
    torch.save(published, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 32, **config["wav2vec"]}))
    with torch.no_grad():
        assert torch.equal(c.load_speech_encoder(tmp_path)(waveform).last_hidden_state, expected)


def test_half_precision_keeps_sensitive_weights_in_float32() -> None:
    model = c.load_transformer(c.released_state(tiny_transformer()), dims=TINY, dtype=torch.bfloat16)
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert dtypes["blocks.0.attn1.to_q.weight"] == torch.bfloat16
    for name in ("condition_embedder.time_embedder.linear_1.weight", "condition_embedder.time_proj.weight"):
        assert dtypes[name] == torch.float32
    assert dtypes["blocks.0.scale_shift_table"] == torch.float32
    assert dtypes["blocks.0.norm2.weight"] == torch.float32
    with torch.no_grad():
        assert torch.isfinite(model(**tiny_inputs()).sample).all()


def test_text_encoder_keeps_float32_in_float16_alone() -> None:
    config = read(shipped("text_encoder")).config
    weights = seeded_weights(config["seed"], config["weights"])
    for dtype, kept in ((torch.bfloat16, torch.bfloat16), (torch.float16, torch.float32)):
        model = c.load_text_encoder(weights, config, dtype)
        assert model.encoder.block[0].layer[1].DenseReluDense.wo.weight.dtype == kept


# -- What is wrong with a file --------------------------------------------------------------------------------------


def wan_like(released: dict[str, torch.Tensor], image: bool) -> dict[str, torch.Tensor]:
    drop = ("vocal",) if image else ("vocal", "img")
    return {name: tensor for name, tensor in released.items() if not any(part in name for part in drop)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: wan_like(w, image=False), "these are Wan text-to-video weights: no audio adapter"),
        (lambda w: wan_like(w, image=True), "these are Wan image-to-video weights: no audio adapter"),
        (lambda w: {"visual.transformer.0.norm1.weight": torch.ones(2)}, "Wan's CLIP image encoder"),
        (lambda w: {"encoder.downsamples.0.residual.0.gamma": torch.ones(2)}, "a Wan VAE"),
        (lambda w: {"blocks.0.pos_embedding.embedding.weight": torch.ones(2)}, "Wan's umT5 text encoder"),
        (
            lambda w: {"diffusion_model.blocks.0.self_attn.q.lora_A.weight": torch.ones(2)},
            "a LoRA, not a whole network",
        ),
        (lambda w: {"something.else": torch.ones(2)}, r"unknown weights \(something.else …\)"),
        (lambda w: {n: t for n, t in w.items() if n != "head.head.bias"}, "missing 1: head.head.bias"),
        (lambda w: {**w, "extra.weight": torch.ones(1)}, "left over 1: extra.weight"),
        (lambda w: {**w, "head.head.bias": torch.ones(3)}, r"head.head.bias: got \(3,\), expected \(64,\)"),
        (lambda w: {**w, "head.head.bias": w["head.head.bias"][None]}, None),
        (lambda w: {**w, "step": 3}, r"entries that are no tensors: step \(int\)"),
        (lambda w: {}, "no tensors"),
    ],
)
def test_foreign_weights_are_named(change: object, words: str | None, released: dict) -> None:
    weights = change(released)
    if words is None:  # an axis of length one more is the same weight
        c.load_transformer(weights, dims=TINY)
        return
    with pytest.raises(WeightsError, match=words) as caught:
        c.load_transformer(weights, dims=TINY)
    assert caught.value.exit_code == 5


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def legacy(weights: dict, folder: Path) -> bytes:
    torch.save(weights, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    return (folder / "legacy.pt").read_bytes()


def test_damaged_files_are_named(tmp_path: Path, released: dict) -> None:
    torch.save(released, tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    good = c.save_weights(tiny_transformer(), tmp_path / "whole.safetensors").read_bytes()
    index = sharded(tmp_path, released)
    cases = {
        tmp_path / "missing.pt": "no such file",
        write(tmp_path / "empty.pt", b""): "an empty file",
        write(tmp_path / "half.pt", whole[: len(whole) // 2]): "truncated",
        write(tmp_path / "noise.pt", b"this is not a checkpoint at all"): "not a torch checkpoint",
        write(tmp_path / "cut.bin", legacy(released, tmp_path)[:900]): "damaged or truncated",
        write(tmp_path / "half.safetensors", good[: len(good) // 2]): "truncated safetensors",
        write(tmp_path / "noise.safetensors", b"x" * 100): "damaged",
        write(tmp_path / "weights.gguf", b"GGUF"): "the ending '.gguf'",
        write(tmp_path / "broken.index.json", b"{"): "broken JSON",
        write(tmp_path / "other.index.json", b"{}"): "without a weight_map",
    }
    (tmp_path / "nothing").mkdir()
    cases[tmp_path / "nothing"] = "a folder with nothing"
    for path, words in cases.items():
        with pytest.raises(WeightsError, match=words) as caught:
            c.load_transformer(path, dims=TINY)
        assert str(path) in caught.value.message
        assert caught.value.hint
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"missing 1 of 2 shards: model-1\.safetensors"):
        c.load_transformer(index, dims=TINY)


class Surprise:
    def __reduce__(self) -> tuple:
        return (print, ("code ran",))


def test_code_in_a_checkpoint_never_runs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save({"weight": Surprise()}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match="not a plain checkpoint"):
        c.load_transformer(tmp_path / "evil.pt", dims=TINY)
    assert "code ran" not in capsys.readouterr().out


def test_dims_are_checked() -> None:
    with pytest.raises(UsageError, match=r"layer \(did you mean layers\?\)"):
        c.load_transformer({"a": torch.ones(1)}, dims={"layer": 3})
    with pytest.raises(UsageError, match="missing"):
        TransformerDims.parse({"dim": 3})
    with pytest.raises(UsageError, match="width 50 with 4 heads"):
        kinds.build_transformer(TINY.with_(dim=50))
    with pytest.raises(WeightsError, match="number of heads can't be told"):
        c.load_transformer(c.released_state(tiny_transformer()))


def test_tokenizer_folder_is_checked(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="tokenizer"):
        c.load_tokenizer(tmp_path)
