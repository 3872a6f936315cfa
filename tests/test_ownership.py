"""Every other command that writes: with its output in the place of an input or of something of the user's, nothing changes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from served import Server
from tiny import tiny_weights

from avatarctl.puppet.pack import write_wave


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("home"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with inputs, links to them, and folders of the user's that look like the program's."""
    shelf = tmp_path_factory.mktemp("shelf")
    tiny_weights(shelf / "weights")
    layer = "blocks.0.attn1.to_q"
    halves = {f"{layer}.lora_A.weight": torch.ones(2, 48), f"{layer}.lora_B.weight": torch.ones(48, 2)}
    save_file(halves, shelf / "lora.safetensors")
    for name in ("lora", "weights/transformer"):
        source = shelf / f"{name}.safetensors"
        (shelf / f"{source.stem}-soft.safetensors").symlink_to(source)
        os.link(source, shelf / f"{source.stem}-hard.safetensors")
    (shelf / "mine.yaml").write_text("extends: square\nsteps: 3\n")
    (shelf / "mine-soft.yaml").symlink_to(shelf / "mine.yaml")
    Image.radial_gradient("L").convert("RGB").save(shelf / "face.png")
    Image.radial_gradient("L").convert("RGB").save(shelf / "face.wav", format="PNG")
    write_wave(shelf / "voice.wav", np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32))
    for place in (
        "archive/shards/0000-000000.tar",
        "archive/index/0000.jsonl",
        "album/checkpoints/step-00000001/a.txt",
    ):
        (shelf / place).parent.mkdir(parents=True)
        (shelf / place).write_text("precious")
    (shelf / "locked").mkdir()
    (shelf / "locked" / "lock").write_text("precious")
    (shelf / "sheet.jpg").write_text("precious")
    (shelf / "report").mkdir()
    (shelf / "report" / "report.md").write_text("precious")
    shutil.copytree(shelf / "weights", shelf / "nets")
    return shelf


def content(folder: Path) -> dict[str, bytes | str]:
    return {
        str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.name != "attempt.log" and (path.is_symlink() or path.is_file())
    }


LINES = [
    ("lora merge lora.safetensors --weights weights -o {lora}", "one of the LoRAs"),
    ("lora merge lora.safetensors --weights weights -o {transformer}", "the weights to merge into"),
    ("lora convert lora.safetensors --to kohya -o {lora}", "the LoRA to convert"),
]
PLACES = {
    "lora": ("lora.safetensors", "lora-soft.safetensors", "lora-hard.safetensors"),
    "transformer": ("weights/transformer.safetensors", "transformer-soft.safetensors", "transformer-hard.safetensors"),
}
AS_INPUT = [
    (f"{line.format(**{name: place})}{force}", said)
    for line, said in LINES
    for name, places in PLACES.items()
    if f"{{{name}}}" in line
    for place in places
    for force in ("", " --force")
]
AS_INPUT += [
    (f"presets copy mine.yaml {place} --force", "the preset to copy") for place in ("mine.yaml", "mine-soft.yaml")
]
AS_INPUT += [("demo --say hello -i face.wav -o face.mp4 --force", "the picture")]


@pytest.mark.parametrize(("line", "said"), AS_INPUT, ids=[line for line, _ in AS_INPUT])
def test_an_output_is_never_an_input(server: Server, shelf: Path, line: str, said: str) -> None:
    before = content(shelf)
    refused = server.run(shelf, line.split())
    assert refused.status == 2, refused.log
    assert said in refused.log and "never replaced" in refused.log
    assert content(shelf) == before


OF_THE_USER = [
    ("data check archive --contact-sheet sheet.jpg", "sheet.jpg: exists already"),
    ("data encode voice.wav -o archive --weights weights --size 64x64", ""),
    ("data encode face.png -o archive --weights weights --size 64x64 --force", ""),
    ("puppet train encoders --data report -o nets", "nets/text_encoder.safetensors: exists already"),
    ("puppet evaluate -o report", "report/report.md: exists already"),
    ("lora convert lora.safetensors --to kohya -o weights/vae.safetensors", "exists already"),
    ("demo --say hello -o voice.mp4", "voice.wav: exists already"),
    ("train --data archive -o . --preset tiny", "--output: got nothing or the current folder"),
    ("data encode archive -o ..", "--output: got '..'"),
    ("lora convert lora.safetensors --to kohya -o /", "--output: got '/'"),
    ("puppet evaluate -o .", "--output: got nothing or the current folder"),
]


@pytest.mark.parametrize(("line", "said"), OF_THE_USER, ids=[line for line, _ in OF_THE_USER])
def test_what_the_user_has_there_stays(server: Server, shelf: Path, line: str, said: str) -> None:
    before = content(shelf)
    refused = server.run(shelf, line.split())
    assert refused.status in (2, 4), refused.log
    assert said in refused.log
    assert content(shelf) == before


@pytest.mark.parametrize("name", ["album", "locked"])
def test_a_folder_that_is_no_run_is_refused_before_anything_in_it_is_touched(shelf: Path, name: str) -> None:
    from avatarctl.errors import UsageError
    from avatarctl.training.folder import check_ours, held

    before = content(shelf)
    for check in (check_ours, lambda run: held(run).__enter__()):
        with pytest.raises(UsageError, match="got a folder with other files"):
            check(shelf / name)
    assert content(shelf) == before


def test_a_folder_with_names_like_a_cache_is_refused(shelf: Path) -> None:
    from avatarctl.data.cache import check_same
    from avatarctl.errors import UsageError

    with pytest.raises(UsageError, match=r"got a folder with other things in it \(index/, shards/\)"):
        check_same(shelf / "archive", {})
    (shelf / "archive" / "cache.json").write_text('{"mine": 1}')
    with pytest.raises(UsageError, match="other things in it"):
        check_same(shelf / "archive", {})
    (shelf / "archive" / "cache.json").unlink()


def test_a_link_is_written_through(server: Server, shelf: Path) -> None:
    (shelf / "store").mkdir()
    (shelf / "out.safetensors").symlink_to(shelf / "store" / "kohya.safetensors")
    done = server.run(shelf, ["lora", "convert", "lora.safetensors", "--to", "kohya", "-o", "out.safetensors"])
    assert done.status == 0, done.log
    assert (shelf / "out.safetensors").is_symlink() and (shelf / "store" / "kohya.safetensors").stat().st_size > 100
