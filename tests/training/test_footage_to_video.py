"""Tests with a folder of raw footage: the command lines of docs/training.md make clips, a LoRA and a video of it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import pytest
from PIL import Image
from render.workshop import babble, write_wav
from served import Server
from tiny import tiny_weights
from training.conftest import SMALL

sys.path.append(str(Path(__file__).parents[1] / "data"))

import filmed
import filmed_sound

DOCS = Path(__file__).parents[2] / "docs" / "training.md"
LORA = {**SMALL, "attention": "lora", "feed_forward": "lora", "audio": "full", "norms": "frozen", "rank": 4, "steps": 4}
# What makes the commands of the page small enough for a test.
MORE = {
    "data prepare": ["--set", "speech=energy", "--device", "cpu"],
    "data encode": ["--weights", "weights", "--preset", "short.yaml", "--device", "cpu"],
    "lora train": ["--preset", "lora.yaml"],
    "generate": ["--weights", "weights", "--preset", "draft.yaml"],
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A process that has imported everything."""
    served = Server(tmp_path / "home")
    yield served
    served.close()


def commands() -> list[list[str]]:
    """Return the words of the commands in the first example of the page."""
    block = re.search(r"```sh\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    return [shlex.split(line, comments=True)[1:] for line in block[1].splitlines() if line.startswith("avatarctl ")]


@pytest.mark.long
def test_from_footage_to_a_lora_to_a_video(server: Server, tmp_path: Path) -> None:
    tiny_weights(tmp_path / "weights")
    seconds, size = 4.0, (320, 240)
    for seed in (1, 2):
        show = filmed.placed((filmed.speaking(1, seed, seed, seconds, 180), 70, 30), background=seed, size=size)
        heard = filmed_sound.voice(seed, seconds)
        truth = filmed.Truth(())
        filmed.write(filmed.Recording(f"talk{seed}", show, heard, seconds, truth, size=size), tmp_path / "footage")
        shutil.copy(tmp_path / "footage" / f"talk{seed}.mp4", tmp_path / "footage" / f"copy{seed}.mp4")
    Image.radial_gradient("L").convert("RGB").save(tmp_path / "me.jpg")
    write_wav(tmp_path / "voice.wav", babble(0.6), 16000)
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(tmp_path / "voice.wav")]
    subprocess.run([*ffmpeg, str(tmp_path / "speech.mp3")], check=True)
    (tmp_path / "lora.yaml").write_text(json.dumps({**LORA, "weights": "weights"}))
    (tmp_path / "draft.yaml").write_text("size: 64x64\nsteps: 2\nwindow: 3\noverlap: 2\ndevice: cpu\n")
    (tmp_path / "short.yaml").write_text("window: 3\ntext_len: 16\n")

    found = commands()
    assert [" ".join(words[:2]) for words in found][:4] == ["data prepare", "data encode", "data check", "lora train"]
    for words in found:
        words = [word.replace("512x512", "64x64") for word in words]
        key = next((key for key in MORE if " ".join(words).startswith(key)), "")
        ended = server.run(tmp_path, [*words, *MORE.get(key, [])])
        assert ended.status == 0, (words, ended.log)
    summary = json.loads((tmp_path / "clips" / "summary.json").read_text())
    assert summary["kept"] == 2 and summary["reasons"] == {"duplicate": 2}
    assert (tmp_path / "run" / "lora.safetensors").exists() and (tmp_path / "talk.mp4").stat().st_size > 1000
