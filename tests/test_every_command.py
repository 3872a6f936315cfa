"""Tests with mistakes on every command line: exit code, a message that names the thing, the fix, and nothing half-written."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
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
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with some good inputs and many bad ones."""
    desk = tmp_path_factory.mktemp("desk")
    tiny_weights(desk / "weights")
    Image.radial_gradient("L").convert("RGB").save(desk / "face.png")
    Image.new("RGB", (1, 1)).save(desk / "dot.png")
    write_wave(desk / "voice.wav", np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32))
    (desk / "text.mp3").write_text("this is not a recording\n" * 20)
    (desk / "text.safetensors").write_text("these are not weights")
    save_file(
        {"strange.lora_A.weight": torch.ones(2, 2), "strange.lora_B.weight": torch.ones(2, 2)},
        desk / "lora.safetensors",
    )
    (desk / "empty").mkdir()
    (desk / "novels").mkdir()
    (desk / "novels" / "one.txt").write_text("once upon a time")
    film = ["-f", "lavfi", "-i", "testsrc=s=64x64:d=1", str(desk / "mute.mp4")]
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *film], check=True)
    (desk / "list.txt").write_text("nowhere/one\nnowhere/two\n")
    broken = desk / "render"
    broken.mkdir()
    (broken / "render.json").write_text("{")
    (broken / "holder.json").write_text('{"pid": 1, "host": "there", "since": "then"}')
    (desk / "scene").mkdir()
    (desk / "scene" / "render.json").write_text('{"scene": "mine"}')
    (desk / "tabs.yaml").write_text("steps:\t3\n\tcrf: 2\n")
    (desk / "many.yaml").write_text("stepz: 3\ncrf: 99\nguidance: louder\n")
    (desk / "list.yaml").write_text("- steps\n- 3\n")
    (desk / "twice.yaml").write_text("steps: 3\nsteps: 4\n")
    (desk / "orphan.yaml").write_text("extends: nobody\n")
    (desk / "latin.yaml").write_bytes("prompt: Frühling\n".encode("latin-1"))
    (desk / "voices").mkdir()
    shutil.copy(desk / "voice.wav", desk / "voices" / "a.wav")
    shutil.copy(desk / "voice.wav", desk / "voices" / "a.flac")
    (desk / "jobs.yaml").write_text("- {audio: voice.wav, image: face.png, stepz: 3}\n- {image: face.png}\n")
    (desk / "jobs.csv").write_text("audio,image\nnone.wav,face.png\nvoice.wav,face.png\n")
    return desk


def listing(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.name != "attempt.log"
    }


# command line, exit code, what the message names, what mends it
MISTAKES: list[tuple[str, int, str, str]] = [
    # generate: what tests/test_bad_input.py doesn't have
    ("generate -a voice.wav", 2, "--image: got no picture", "--image PICTURE"),
    ("generate -i dot.png -a voice.wav -o voice.wav/such.mp4 --weights weights", 2, "voice.wav: got a file, expected a folder", "--output"),
    ("generate -i face.png -a voice.wav -o / --weights weights", 2, "--output: got '/', expected the name of a video", "--output talk.mp4"),
    ("generate -i face.png -a voice.wav -o .. --weights weights", 2, "--output: got '..'", "--output talk.mp4"),
    ("generate -i face.png -a voice.wav --work-dir . --weights weights", 2, "--work-dir: got nothing or the current folder", "--work-dir talk.render"),
    ("generate -i face.png -a voice.wav --frames face.png --weights weights", 2, "--frames: got the file face.png, expected a folder", "--frames face-frames"),
    ("generate -i face.png -a voice.wav --frames .. --weights weights", 2, "--frames: got '..'", "--frames frames"),
    ("generate -i face.png -a voice.wav -o voice.wav --weights weights", 2, "voice.wav: got the ending '.wav'", ".mp4"),
    ("generate -i face.png -a text.mp3 --weights weights", 4, "text.mp3: got a file that can't be decoded", "WAV"),
    ("generate -i face.png -a voice.wav --weights nowhere", 5, "nowhere: got no such folder", "avatarctl fetch"),
    ("generate -i face.png -a voice.wav --weights weights --enlarge 0", 2, "enlarge (--enlarge): got '0'", "presets show"),
    ("generate -i face.png -a voice.wav --weights weights --size 4096x64 --enlarge 4", 2, "got 4 at 4096x64", "at most 2"),
    ("generate -i face.png -a voice.wav --preset portrat", 2, "preset 'portrat': not found", "did you mean portrait?"),
    ("generate -i face.png -a voice.wav --preset tabs.yaml", 2, "tabs.yaml: broken YAML in line", "presets copy"),
    ("generate -i face.png -a voice.wav --preset many.yaml", 2, "stepz (many.yaml, line 1): unknown setting, did you mean steps?", "presets show"),
    ("generate -i face.png -a voice.wav --preset many.yaml", 2, "guidance (many.yaml, line 3): got 'louder'", "presets show"),
    ("generate -i face.png -a voice.wav --loudness 3", 2, "loudness (--loudness)", "presets show"),
    ("generate -i face.png -a voice.wav --duration nan", 2, "duration (--duration)", "presets show"),
    ("generate -i face.png -a voice.wav --window-batch lots", 2, "window_batch (--window-batch): got 'lots', expected 1 to 64, or auto", "presets show"),
    ("generate -i face.png -a voice.wav --weights weights --size 64x64 --steps 1 --lora lora.safetensors -o l.mp4 --device cpu", 5, "lora.safetensors: got a LoRA that doesn't fit this transformer", "made for StableAvatar"),
    ("generate -i face.png -a voice.wav --weights weights --size 64x64 --steps 1 --lora text.safetensors -o l.mp4 --device cpu", 5, "text.safetensors", "again"),
    # resume, renders
    ("resume nowhere", 4, "nowhere: got no render.json", "renders list"),
    ("resume novels", 4, "novels: got no render.json", "renders list"),
    ("resume render", 4, "render.json", "--force"),
    ("resume .", 2, "avatarctl resume: got nothing or the current folder", "from outside"),
    ("resume /", 2, "avatarctl resume: got '/'", "renders list"),
    ("resume scene", 4, "scene: got a render.json of another program", "renders list"),
    ("renders show ..", 2, "avatarctl renders show: got '..'", "renders list"),
    ("renders verify .", 2, "avatarctl renders verify: got nothing or the current folder", "renders list"),
    ("renders remove . --force", 2, "avatarctl renders remove: got nothing or the current folder", "renders list"),
    ("renders remove scene --force", 4, "scene: got a render.json of another program", "renders list"),
    ("renders show face.png", 4, "face.png: got no render.json", "renders list"),
    ("renders verify empty", 4, "empty: got no render.json", "renders list"),
    ("renders remove novels", 4, "novels: got no render.json", "renders list"),
    ("renders remove novels --force", 4, "novels: got no render.json", "renders list"),
    # presets
    ("presets show squar", 2, "preset 'squar': not found", "did you mean square?"),
    ("presets show list.yaml", 2, "list.yaml: got list, expected settings", "presets copy"),
    ("presets check many.yaml", 2, "crf (many.yaml, line 2)", ""),
    ("presets check twice.yaml", 2, "twice.yaml, line 2: 'steps' stands there twice", "line 1"),
    ("presets check orphan.yaml", 2, "extends (orphan.yaml, line 1): preset 'nobody': not found", ""),
    ("presets show latin.yaml", 2, "latin.yaml: can't be read", "UTF-8"),
    ("presets copy nobody mine", 2, "preset 'nobody': not found", "known presets"),
    ("presets copy square many.yaml", 2, "many.yaml is there already", "--force"),
    ("presets schema --kind render extra", 2, "extra", "--help"),
    # data
    ("data encode nowhere -o cache --weights weights", 4, "nowhere: got no such", "check the path"),
    ("data encode empty -o cache --weights weights", 4, "empty: got no clip", ""),
    ("data encode face.png -o cache --weights weights", 4, "face.png: got a '.png' file, expected a folder", ""),
    ("data encode novels -o cache --weights nowhere", 4, "novels: got no clip", ""),
    ("data encode mute.mp4 -o cache --weights nowhere", 5, "nowhere: got no such folder", "avatarctl fetch"),
    ("data encode mute.mp4 -o cache --weights weights --size 65x64", 2, "size", "64x64"),
    ("data encode mute.mp4 -o novels --weights weights --size 64x64", 2, "novels", "--output"),
    ("data check empty", 4, "empty", "data encode"),
    ("data check nowhere", 4, "nowhere", "data encode"),
    # training
    ("train --data nowhere -o run --preset tiny", 4, "nowhere", "data encode"),
    ("train --data empty -o run --preset tinny", 2, "preset 'tinny': not found", "did you mean tiny?"),
    ("train --data empty -o run --preset tiny --set stepz=3", 2, "stepz", "did you mean steps?"),
    ("train --data empty -o run --preset tiny --set steps", 2, "--set", "NAME=VALUE"),
    ("train --data empty -o run --preset tiny --learning-rate -1", 2, "learning_rate (--learning-rate)", "presets show"),
    ("train --data empty -o run --preset tiny --device gpu", 2, "got 'gpu', expected auto, cpu, cuda", ""),
    ("lora train --data nowhere -o run", 4, "nowhere", "data encode"),
    ("lora train --data empty -o run --rank 0", 2, "rank (--rank)", "presets show"),
    ("lora info nowhere.safetensors", 4, "nowhere.safetensors: got no such file", "check the path"),
    ("lora info text.safetensors", 5, "text.safetensors", ""),
    ("lora info weights/vae.safetensors", 5, "vae.safetensors", ""),
    ("lora convert lora.safetensors --to kohya -o face.png", 2, "face.png", ".safetensors"),
    ("lora convert lora.safetensors --to klingon -o x.safetensors", 2, "klingon", "--help"),
    ("lora merge lora.safetensors:loud -o x.safetensors --weights weights", 2, "got the strength 'loud'", "FILE:0.8"),
    ("lora merge lora.safetensors -o x.safetensors --weights weights", 5, "lora.safetensors", ""),
    ("lora merge lora.safetensors -o x.safetensors --weights nowhere", 5, "nowhere", "avatarctl fetch"),
    # machine and weights
    ("doctor --weights face.png extra", 2, "extra", "--help"),
    ("fetch stableavatar", 2, "stableavatar", "stableavatar-1.3b"),
    ("fetch --from nowhere --weights w", 4, "nowhere: got no such folder", "--from"),
    ("fetch --from empty --weights w", 5, "empty: recognised 0 files", "avatarctl fetch"),
    ("fetch --verify --weights empty", 5, "empty", "avatarctl fetch"),
    ("fetch --drop-originals --weights w", 2, "--drop-originals", "--convert"),
    ("fetch --list --remove", 2, "--remove", "one"),
    # the embedded avatar
    ("demo -o .", 2, "--output: got nothing or the current folder", "--output talk.mp4"),
    ("demo --output demo.xyz", 2, "demo.xyz: got the ending '.xyz'", ".mp4"),
    ("demo --steps 0", 2, "steps (--steps): got '0'", "presets show"),
    ("demo --image text.mp3", 4, "text.mp3: got a file that is not a picture", ""),
    ("puppet data -o clips --look hat --look wig", 2, "--look: got wig, expected hat, bowler or glasses", "--look hat --look glasses"),
    ("puppet data -o clips --bare-first", 2, "--bare-first: got no --look", "--look hat"),
    ("puppet data -o clips --clips 0", 2, "--clips", "--help"),
    ("puppet train vae --data novels -o nets", 4, "novels: got no drawn clips", "avatarctl puppet data"),
    ("puppet train speech --data empty -o nets", 4, "empty: got no drawn clips", "avatarctl puppet data"),
    ("puppet train brain --data empty -o nets", 2, "brain", "--help"),
    ("puppet pack --weights nowhere -o packed", 5, "nowhere: got no such folder", ""),
    ("puppet pack --weights weights -o packed --report novels", 4, "novels: got no report.md", "puppet evaluate"),
    ("puppet evaluate -o report --minutes 1", 2, "--minutes: got 1", "a minute is too short"),
    # the queue
    ("serve --preset puppet --host 0.0.0.0", 2, "--host: got 0.0.0.0, which others can reach, without a token", "--token-file"),
    ("serve --preset pupet", 2, "preset 'pupet': not found", "did you mean puppet?"),
    ("serve --preset puppet --folder face.png", 2, "face.png: got a file, expected a folder", "--folder"),
    ("serve --preset puppet --token short", 2, "--token: got 5 characters", "openssl"),
    ("serve --preset puppet --token-file nowhere", 4, "nowhere: got a file that can't be read", "--token-file"),
    # batch
    ("batch nowhere -i face.png -o out", 4, "nowhere", ""),
    ("batch empty -i face.png -o out", 4, "empty", ""),
    ("batch voices -o out", 2, "--image", "--image"),
    ("batch voices -i face.png -o out --weights weights", 2, "a.mp4", "--name"),
    ("batch jobs.yaml -o out --weights weights", 2, "line 1", "did you mean steps?"),
    ("batch jobs.csv -o out --weights weights", 2, "none.wav", "line 2"),
    ("batch voices -i face.png -o out --jobs none", 2, "--jobs: got 'none'", ""),
    ("batch voices -i face.png -o out --on moon", 2, "--on: got 'moon'", "ray"),
    ("batch voices -i face.png -o voice.wav", 2, "voice.wav", "folder"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "code", "message", "hint"), MISTAKES, ids=[f"{m[0]} {m[2]}" for m in MISTAKES])
def test_a_mistake_is_told(server: Server, desk: Path, line: str, code: int, message: str, hint: str) -> None:
    before = listing(desk)
    done = server.run(desk, line.split())
    assert done.status == code, done.log
    assert "Traceback" not in done.log
    told = done.log if "Usage:" in done.log else done.log.replace("\n", " ")
    assert message in told, done.log
    assert hint in told, done.log
    assert "hint: " in done.log or "Usage:" in done.log, done.log
    assert listing(desk) == before, "something half-written is left"


@pytest.mark.parametrize("name", sorted({line.split()[0] for line, *_ in MISTAKES}))
def test_as_json_it_is_one_object(server: Server, desk: Path, name: str) -> None:
    line, code, message, _ = next(each for each in MISTAKES if each[0].split()[0] == name)
    done = server.run(desk, [*line.split(), "--json"])
    told = json.loads(done.log[done.log.index("{\n") :].split("\n}\n")[0] + "\n}")
    assert told["exit_code"] == done.status == code and told["status"] != "done"
    assert message in told["errors"][0]["message"] or code == 2
    assert told["errors"][0]["hint"]


def test_the_table_is_as_long_as_it_says() -> None:
    assert len(MISTAKES) >= 60
    commands = {line.split()[0] for line, *_ in MISTAKES}
    assert commands >= {
        "generate",
        "resume",
        "renders",
        "presets",
        "data",
        "train",
        "lora",
        "doctor",
        "fetch",
        "demo",
        "puppet",
        "batch",
        "serve",
    }
