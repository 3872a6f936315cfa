"""Tests with a fake hub: Wan2.1 as released, single files of any repository, several at once, and the hub's own machinery."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from fakehub import LARGE, Fault, Hub
from shelf import Fetch, content, files_in

from avatarctl.errors import UsageError
from avatarctl.fetching import link as linking
from avatarctl.fetching import record
from avatarctl.fetching.at_once import Stopped, Work
from avatarctl.settings.values import fetched_lora, lora_file, parse_lora
from avatarctl.weights import checksum, find_transformer, find_weights

ENCODERS = (
    "Wan2.1_VAE.pth",
    "models_t5_umt5-xxl-enc-bf16.pth",
    "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",
    "google/umt5-xxl/spiece.model",
)
SPEECH = ("wav2vec2-base-960h/config.json", "wav2vec2-base-960h/model.safetensors")
SHARDS = tuple(f"diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2))
INDEX = "diffusion_pytorch_model.safetensors.index.json"


def put(hub: Hub, *names: str) -> None:
    hub.files = {name: content(name, 3 * LARGE) for name in names}
    if INDEX in names:
        hub.files[INDEX] = b'{"weight_map": {"a": "%s", "b": "%s"}}' % tuple(name.encode() for name in SHARDS)


# -- Wan2.1 -----------------------------------------------------------------------------------------------------------


def test_wan_of_1_3b_lies_where_training_looks(fetch: Fetch, hub: Hub, folder: Path) -> None:
    put(hub, "diffusion_pytorch_model.safetensors", *ENCODERS, *SPEECH, "README.md", "xlm-roberta-large/tokenizer.json")
    done = fetch("wan2.1-fun-1.3b")
    assert done.code == 0, done.err
    below = "Wan2.1-Fun-V1.1-1.3B-InP"
    wanted = [f"{below}/{name}" for name in ("diffusion_pytorch_model.safetensors", *ENCODERS)]
    assert files_in(folder) == sorted([*wanted, *SPEECH])
    assert find_transformer(folder, "wan2.1-fun-1.3b") == folder / below / "diffusion_pytorch_model.safetensors"
    # Encoding needs all but the transformer of StableAvatar.
    found = find_weights(folder, (512, 512), "auto", transformer=Path())
    assert found.vae == folder / below / "Wan2.1_VAE.pth"
    assert set(record.read(folder)) == {"speech-encoder", "wan2.1-fun-1.3b"}
    assert fetch("wan2.1-fun-1.3b", HF_HUB_OFFLINE="1").code == 0


def test_wan_of_14b_comes_in_several_files(fetch: Fetch, hub: Hub, folder: Path) -> None:
    put(hub, *SHARDS, INDEX, *ENCODERS, *SPEECH)
    assert fetch("wan2.1-i2v-14b").code == 0
    index = find_transformer(folder, "wan2.1-i2v-14b")
    assert index == folder / "Wan2.1-I2V-14B-480P" / INDEX
    assert find_transformer(folder / "Wan2.1-I2V-14B-480P", "wan2.1-i2v-14b") == index
    # The checksum of the index is that of all its files.
    before = checksum(index)
    (index.parent / SHARDS[1]).write_bytes(b"other")
    assert checksum(index) != before
    assert find_weights(folder, (512, 512), "wan2.1-i2v-14b").vae.parent == index.parent


# -- Any repository ---------------------------------------------------------------------------------------------------


def test_a_lora_of_any_repository(fetch: Fetch, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVATARCTL_WEIGHTS", str(folder))
    with pytest.raises(UsageError, match="is not on this machine") as caught:
        fetched_lora("hf://someone/style/looks/blue.safetensors")
    assert caught.value.hint == "avatarctl fetch hf://someone/style/looks/blue.safetensors"
    put(hub, "looks/blue.safetensors", "looks/red.safetensors", "README.md")
    done = fetch("hf://someone/style/looks/blue.safetensors")
    assert done.code == 0, done.err
    assert files_in(folder) == ["hf/someone/style/looks/blue.safetensors"]
    file, scale = parse_lora("hf://someone/style/looks/blue.safetensors:0.8")
    assert scale == 0.8
    assert lora_file(Path(file)) == folder / "hf/someone/style/looks/blue.safetensors"
    assert "hf://someone/style/looks/blue.safetensors" in fetch("--list").out
    assert fetch("--verify").code == 0
    assert fetch("hf://someone/style/looks/blue.safetensors", "--remove").code == 0 and files_in(folder) == []


def test_the_only_file_of_a_repository_needs_no_name(fetch: Fetch, hub: Hub, folder: Path) -> None:
    put(hub, "one.safetensors", "README.md")
    assert fetch("hf://someone/style").code == 0
    assert files_in(folder) == ["hf/someone/style/one.safetensors"]


def test_of_several_files_one_has_to_be_named(fetch: Fetch, hub: Hub, folder: Path) -> None:
    put(hub, "blue.safetensors", "red.safetensors")
    done = fetch("hf://someone/style")
    assert done.code == 2 and "has 2 files of weights (blue.safetensors, red.safetensors)" in done.err
    assert "avatarctl fetch hf://someone/style/blue.safetensors" in done.err


@pytest.mark.parametrize("name", ["hf://", "hf://someone", "hf://a//b", "hf://a/../b", "hf://a/b/../../c"])
def test_what_names_no_repository(fetch: Fetch, hub: Hub, name: str) -> None:
    done = fetch(name)
    assert done.code == 2 and "expected hf://USER/REPO" in done.err and hub.asked == []


def test_a_repository_that_is_not_there(fetch: Fetch, hub: Hub) -> None:
    done = fetch("hf://nobody/nothing/a.safetensors")
    assert done.code == 5 and "no such repository" in done.err


# -- Several at once --------------------------------------------------------------------------------------------------


def test_files_come_at_once(fetch: Fetch, hub: Hub, folder: Path) -> None:
    """Each of two answers stops half-way for as long as the other has not begun: one after the other would end in a timeout."""
    put(hub, "diffusion_pytorch_model.safetensors", *ENCODERS, *SPEECH)
    began = time.monotonic()
    hub.faults = [Fault("slow", 1, "Wan2.1_VAE.pth"), Fault("slow", 1, "models_t5")]
    done = fetch("wan2.1-fun-1.3b", HF_HUB_DOWNLOAD_TIMEOUT="2")
    assert done.code == 0, done.err
    assert time.monotonic() - began < 25
    assert len(done.err.split("the connection was cut")) == 3


def test_work_stops_where_a_piece_fails() -> None:
    seen = []

    def do(item: int, stopped: threading.Event) -> int:
        seen.append(item)
        if item == 1:
            raise ValueError("broken")
        if item > 1:
            stopped.wait(5)
            raise Stopped
        return item * 10

    with pytest.raises(ValueError, match="broken"):
        list(Work(list(range(20)), do, 2).results())
    assert len(seen) < 6
    assert sorted(Work([1, 2, 3], lambda item, _: item + 1, 2).results()) == [(1, 2), (2, 3), (3, 4)]


# -- The hub's own machinery ------------------------------------------------------------------------------------------


def test_large_files_come_through_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib
    from types import SimpleNamespace
    from typing import Any

    from avatarctl.fetching import transfer
    from avatarctl.fetching.fetch import Plan, Step, carry_out
    from avatarctl.fetching.hub import Remote
    from avatarctl.fetching.sets import find_set

    data = content("large", transfer.LARGE)
    blob = tmp_path / "hf" / "blob"
    blob.parent.mkdir()
    name = "diffusion_pytorch_model.safetensors"
    below = "Wan2.1-Fun-V1.1-1.3B-InP"
    remote = Remote(f"{below}/{name}", len(data), hashlib.sha256(data).hexdigest(), "0" * 40, below)
    asked: list[Any] = []

    def download(repo: str, file: str, tqdm_class: Any, **options: Any) -> str:
        asked.append((repo, file, options["revision"]))
        with tqdm_class(total=len(data)) as counter:
            counter.update(len(data) // 2)
        blob.write_bytes(data)
        return str(blob)

    monkeypatch.setattr(transfer, "find_spec", lambda name: name)
    monkeypatch.setattr(transfer.constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr(transfer, "get_hf_file_metadata", lambda *_, **__: SimpleNamespace(xet_file_data="chunks"))
    monkeypatch.setattr(transfer, "hf_hub_download", download)
    folder = tmp_path / "weights"
    folder.mkdir()
    shown: list[int] = []
    weight_set = find_set("wan2.1-fun-1.3b")
    todo = Plan(weight_set, "c" * 40, (Step(remote, "download"),))
    records: dict[str, record.Record] = {}
    carry_out(todo, folder, records, lambda done, of, **facts: shown.append(facts["bytes"]))
    assert asked == [("alibaba-pai/Wan2.1-Fun-V1.1-1.3B-InP", name, "c" * 40)]
    assert (folder / remote.path).samefile(blob) and records[weight_set.name].files[remote.path].source == "cache"
    assert shown[-1] == len(data)
    # Switched off, it is left to plain HTTP.
    monkeypatch.setattr(transfer.constants, "HF_HUB_DISABLE_XET", True)
    assert transfer.through_hub("a/b", "c" * 40, remote, lambda _: None) is None


def test_a_file_is_copied_where_no_link_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").write_bytes(b"weights")

    def refused(*_: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(linking.os, "link", refused)
    monkeypatch.setattr(Path, "symlink_to", refused)
    assert linking.link(tmp_path / "source", tmp_path / "target") == "copy"
    assert (tmp_path / "target").read_bytes() == b"weights" and not (tmp_path / "target").is_symlink()
