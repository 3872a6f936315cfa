"""Tests with videos in a folder: the whole way by command lines: encode, check, train a LoRA, make a video with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from data.footage import video
from PIL import Image
from render.workshop import babble, write_wav
from served import Server
from tiny import tiny_weights
from training.conftest import SMALL

LORA = {**SMALL, "attention": "lora", "feed_forward": "lora", "audio": "full", "norms": "frozen", "rank": 4, "steps": 8}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A process that has imported everything."""
    served = Server(tmp_path / "home")
    yield served
    served.close()


def test_from_videos_to_a_lora_to_a_video(server: Server, tmp_path: Path) -> None:
    tiny_weights(tmp_path / "weights")
    for number in range(3):
        video(tmp_path / "clips" / f"clip{number}.mkv", frames=20, seed=number)
    Image.radial_gradient("L").convert("RGB").save(tmp_path / "face.png")
    write_wav(tmp_path / "voice.wav", babble(0.6), 16000)
    (tmp_path / "lora.yaml").write_text(json.dumps({**LORA, "weights": "weights"}))
    (tmp_path / "draft.yaml").write_text("size: 64x64\nsteps: 2\nwindow: 3\noverlap: 2\ndevice: cpu\n")

    def run(*argv: str) -> str:
        ended = server.run(tmp_path, [*argv, "--json"])
        assert ended.status == 0, ended.log
        return ended.log

    encode = (
        "data",
        "encode",
        "clips",
        "--output",
        "cache",
        "--weights",
        "weights",
        "--size",
        "64x64",
        "--device",
        "cpu",
    )
    (tmp_path / "short.yaml").write_text("window: 3\ntext_len: 16\n")
    log = run(*encode, "--preset", "short.yaml")
    data = json.loads(log[log.index('{\n "avatarctl_result"') :])["data"]
    assert (data["encoded"], data["samples"]) == (3, 9)  # 20 pictures: from 0, 9, and the last 9 of them
    run("data", "check", "cache", "--contact-sheet", "sheet.jpg")
    with Image.open(tmp_path / "sheet.jpg") as sheet:
        assert sheet.width > 64
    run("lora", "train", "--data", "cache", "--output", "run", "--preset", "lora.yaml")
    generate = ("generate", "-i", "face.png", "-a", "voice.wav", "--weights", "weights", "--preset", "draft.yaml")
    generate += ("--no-metadata",)  # which names the LoRA and the weights
    run(*generate, "-o", "plain.mp4")
    run(*generate, "-o", "styled.mp4", "--lora", "run/lora.safetensors")
    run(*generate, "-o", "off.mp4", "--lora", "run/lora.safetensors:0")
    assert (tmp_path / "plain.mp4").read_bytes() == (tmp_path / "off.mp4").read_bytes()
    assert (tmp_path / "plain.mp4").read_bytes() != (tmp_path / "styled.mp4").read_bytes()
    # A transformer with the LoRA merged in makes the same video.
    run("lora", "merge", "run/lora.safetensors", "--weights", "weights", "--output", "merged/transformer.safetensors")
    for path in (tmp_path / "weights").iterdir():
        if path.name != "transformer.safetensors":
            (tmp_path / "merged" / path.name).symlink_to(path)
    merged = tuple("merged" if word == "weights" else word for word in generate)
    run(*merged, "-o", "merged.mp4")
    assert (tmp_path / "merged.mp4").read_bytes() == (tmp_path / "styled.mp4").read_bytes()
