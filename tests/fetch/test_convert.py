"""Tests with pickles of small networks: --convert gives the same networks as safetensors, found and loaded as such."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fakehub import Hub, serving
from shelf import NEEDED, SEPARATOR, SQUARE, WAN, Fetch, files_in
from tiny import TINY, randomise, tiny_tokenizer, tiny_vae

from avatarctl.errors import WeightsError
from avatarctl.fetching import record
from avatarctl.fetching.convert import convert
from avatarctl.fetching.sets import converted, find_set
from avatarctl.networks import checkpoints, kinds
from avatarctl.networks.dims import CLIP_VIT_H14, SpeechDims, TextDims
from avatarctl.weights import find_weights

RECTANGLE, VAE, TEXT, IMAGE = NEEDED[1:5]
SPEECH = "wav2vec2-base-960h/pytorch_model.bin"
PICKLES = (SQUARE, RECTANGLE, VAE, TEXT, IMAGE, SPEECH)
# Sizes that can be read off released weights: heads of 128, and CLIP as wide as it is.
SMALL = TINY.with_(dim=128, heads=1, layers=1, text_len=512)
KINDS = {
    SQUARE: kinds.TRANSFORMER,
    RECTANGLE: kinds.TRANSFORMER,
    VAE: kinds.VAE,
    TEXT: kinds.TEXT_ENCODER,
    IMAGE: kinds.IMAGE_ENCODER,
    SPEECH: kinds.SPEECH_ENCODER,
}


def networks() -> dict[str, tuple[torch.nn.Module, torch.dtype]]:
    """Return small networks with the number formats that they shall be stored in."""
    text = TextDims(vocab=8, dim=24, dim_attn=24, dim_ffn=32, heads=2, layers=1)
    image = CLIP_VIT_H14.with_(layers=1, patch=112)
    speech = SpeechDims(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
    )
    built: dict[str, tuple[torch.nn.Module, torch.dtype]] = {
        SQUARE: (kinds.build_transformer(SMALL), torch.bfloat16),
        RECTANGLE: (kinds.build_transformer(SMALL), torch.float32),
        VAE: (tiny_vae(), torch.float32),
        TEXT: (kinds.build_text_encoder(text), torch.bfloat16),
        IMAGE: (kinds.build_image_encoder(image), torch.float16),
        SPEECH: (kinds.build_speech_encoder(speech), torch.float32),
    }
    for seed, (model, _) in enumerate(built.values()):
        randomise(model, seed)
    return built


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files as they are released, of small networks."""
    files: dict[str, bytes] = {}
    for path, (model, dtype) in networks().items():
        state = {name: value.to(dtype).contiguous() for name, value in checkpoints.released_state(model).items()}
        if path == IMAGE:
            state["textual.not_ours"] = torch.zeros(3, dtype=dtype)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        files[path] = buffer.getvalue()
        if path == SPEECH:
            config: Any = model.config
            files["wav2vec2-base-960h/config.json"] = json.dumps(config.to_dict()).encode()
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer().save_pretrained(folder)
    return files | {f"{WAN}/google/umt5-xxl/{file.name}": file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def hub(released: dict[str, bytes]) -> Iterator[Hub]:
    with serving(dict(released) | {SEPARATOR: b"a network of another kind"}) as served:
        yield served


def states(folder: Path, ending: str) -> dict[str, dict[str, torch.Tensor]]:
    """Return the weights of every network, loaded from pickles or from what became of them."""
    found = {}
    for path, network in KINDS.items():
        source = folder / (converted(path) if ending == "safetensors" else path)
        place = source.parent if network is kinds.SPEECH_ENCODER else source
        found[path] = dict(checkpoints.load_network(network, place, None, torch.float32, "cpu").state_dict())
    return found


def convert_here(folder: Path, drop: bool = False) -> list[str]:
    """Convert as the command does, without the seconds that another process spends on imports."""
    records = record.read(folder)
    paths = [path for path in records["stableavatar-1.3b"].files if converted(path) != path]
    convert(find_set("stableavatar-1.3b"), folder, records, paths, drop, lambda *_: None)
    return paths


def test_converted_networks_are_found_loaded_and_equal(fetch: Fetch, hub: Hub, folder: Path) -> None:
    assert fetch().code == 0
    expected = states(folder, "pickles")
    assert sorted(convert_here(folder)) == sorted(PICKLES)
    assert set(files_in(folder)) == {*hub.files, *map(converted, PICKLES)} - {SEPARATOR}
    for size in ((512, 512), (480, 832)):
        files = find_weights(folder, size, "auto").by_role()
        assert {path.suffix for path in files.values() if path.is_file()} == {".safetensors"}
    loaded = states(folder, "safetensors")
    for path, state in expected.items():
        assert state.keys() == loaded[path].keys()
        assert all(torch.equal(state[name], loaded[path][name]) for name in state), path
    for path in (SQUARE, TEXT, IMAGE):
        old, new = (folder / path).stat(), (folder / converted(path)).stat()
        # Numbers keep their format, but for the few that are float32 in every transformer: else it were twice the size.
        assert new.st_size < 1.5 * old.st_size and new.st_mode == old.st_mode
    assert fetch("--verify").code == 0
    before = (folder / converted(VAE)).stat().st_mtime_ns
    convert_here(folder)
    assert (folder / converted(VAE)).stat().st_mtime_ns == before


@pytest.mark.long
def test_dropped_originals_are_not_fetched_again(fetch: Fetch, hub: Hub, folder: Path) -> None:
    done = fetch("--convert", "--drop-originals", "--json")
    assert done.code == 0, done.err
    assert sorted(done.data()["sets"]["stableavatar-1.3b"]["converted"]) == sorted(PICKLES)
    assert not {*PICKLES} & {*files_in(folder)} and record.weights_complete(folder) == []
    asked = len(hub.downloads())
    assert fetch("--convert", "--drop-originals").code == 0 and fetch("--revision", "main").code == 0
    assert len(hub.downloads()) == asked and not {*PICKLES} & {*files_in(folder)}

    # They can be linked elsewhere, where the hub's newer commit can still be asked for.
    other = folder.parent / "other"
    assert fetch("--from", str(folder), "--weights", str(other)).code == 0
    assert files_in(other) == files_in(folder) and record.weights_complete(other) == []
    assert fetch("--revision", "main", "--weights", str(other)).code == 0 and len(hub.downloads()) == asked

    # What was made of older files would be loaded in place of the newer ones.
    hub.files[RECTANGLE], hub.files[SQUARE] = hub.files[SQUARE], hub.files[RECTANGLE]
    assert fetch("--revision", "main").code == 0
    assert {SQUARE, RECTANGLE} <= {*files_in(folder)}
    assert not {converted(SQUARE), converted(RECTANGLE)} & {*files_in(folder)}
    assert len([path for path, _ in hub.downloads() if "transformer3d" in path]) == 4

    # A converted file that was lost comes back by way of its original.
    (folder / converted(VAE)).unlink()
    assert fetch().code == 0 and VAE in files_in(folder)
    assert VAE in convert_here(folder) and converted(VAE) in files_in(folder)


def test_what_is_no_such_network_is_not_converted(fetch: Fetch, hub: Hub, folder: Path) -> None:
    hub.files[SQUARE] = hub.files[VAE]
    assert fetch().code == 0
    with pytest.raises(
        WeightsError, match=r"transformer3d-square\.pt: expected a transformer, but these are a Wan VAE"
    ):
        convert_here(folder, drop=True)
    assert (folder / SQUARE).exists() and not (folder / converted(SQUARE)).exists()


def test_a_set_without_pickles_has_nothing_to_convert(fetch: Fetch, hub: Hub, folder: Path) -> None:
    done = fetch("vocal-separator", "--convert")
    assert done.code == 0 and "no pickles to convert" in done.err
