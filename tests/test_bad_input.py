"""Tests with what users get wrong: the right exit code, a message that names the thing, a hint, and nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image
from served import Server
from tiny import tiny_weights

ROOT = Path(__file__).parents[1]
# Tells at the end whether torch was imported: mistakes have to show before that.
RUN = """
import sys
sys.argv = ["avatarctl", *sys.argv[1:]]
from avatarctl.cli import main
try:
    main()
finally:
    sys.stderr.write("\\nTORCH" if "torch" in sys.modules else "\\nLIGHT")
"""
TINY = ("--size", "64x64", "--steps", "1", "--device", "cpu")


def write_wav(path: Path, samples: np.ndarray, width: int = 2) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(width)
        file.setframerate(16000)
        file.writeframes(samples.tobytes())


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with good inputs and many bad ones."""
    folder = tmp_path_factory.mktemp("desk")
    tiny_weights(folder / "weights")
    Image.radial_gradient("L").convert("RGB").save(folder / "face.png")
    noise = np.random.default_rng(0).normal(0, 3000, 8000).astype("<i2")
    write_wav(folder / "voice.wav", noise)
    write_wav(folder / "silent.wav", np.empty(0, "<i2"))
    broken = noise.astype("<f4") / 32768
    broken[4000] = np.nan
    data = broken.tobytes()
    header = b"RIFF" + (36 + len(data)).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little")
    header += (3).to_bytes(2, "little") + (1).to_bytes(2, "little") + (16000).to_bytes(4, "little")
    header += (64000).to_bytes(4, "little") + (4).to_bytes(2, "little") + (32).to_bytes(2, "little")
    (folder / "nan.wav").write_bytes(header + b"data" + len(data).to_bytes(4, "little") + data)
    (folder / "text.wav").write_text("this is not a recording\n" * 20)
    (folder / "text.png").write_text("this is not a picture")
    (folder / "cut.png").write_bytes((folder / "face.png").read_bytes()[:400])
    for name in ("empty.png", "empty.wav"):
        (folder / name).touch()
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    film = ["-f", "lavfi", "-i", "testsrc=s=64x64:d=1", str(folder / "mute.mp4")]
    subprocess.run([ffmpeg, "-v", "error", "-y", *film], check=True)
    shutil.copytree(folder / "weights", folder / "partial")
    (folder / "partial" / "vae.safetensors").unlink()
    shutil.copytree(folder / "weights", folder / "foreign")
    shutil.copy(folder / "weights" / "vae.safetensors", folder / "foreign" / "transformer.safetensors")
    (folder / "strangers").mkdir()
    (folder / "strangers" / "novel.txt").write_text("mine")
    (folder / "done.mp4").write_bytes(b"a video")
    (folder / "is_folder.mp4").mkdir()
    (folder / "unknown.yaml").write_text("size: 64x64\nstpes: 3\n")
    (folder / "broken.yaml").write_text("size: [64\n")
    (folder / "loop.yaml").write_text(f"extends: {folder / 'loop.yaml'}\n")
    return folder


def run(desk: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "AVATARCTL_HOME": str(desk / "home"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", RUN, *words], cwd=desk, env=environment, capture_output=True, text=True, timeout=120
    )


def generate(desk: Path, *words: str, **inputs: str) -> subprocess.CompletedProcess[str]:
    return run(desk, *line(*words, **inputs))


def line(
    *words: str, image: str = "face.png", audio: str = "voice.wav", output: str = "out.mp4", weights: str = "weights"
) -> list[str]:
    return ["generate", f"--image={image}", f"--audio={audio}", f"--output={output}", f"--weights={weights}", *words]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("home"))
    yield running
    running.close()


# name: (flags, changed inputs, exit code, words of the message, words of the hint)
BAD: dict[str, tuple[tuple[str, ...], dict[str, str], int, str, str]] = {
    "image missing": ((), {"image": "nobody.png"}, 4, "nobody.png: got no such file", "path"),
    "image empty": ((), {"image": "empty.png"}, 4, "empty.png: got an empty file", "copy"),
    "image a folder": ((), {"image": "weights"}, 4, "weights: got a folder", "one file"),
    "image a text": ((), {"image": "text.png"}, 4, "text.png: got a file that is not a picture", "picture"),
    "image cut off": ((), {"image": "cut.png"}, 4, "cut.png: got a damaged or cut off picture", "copy"),
    "audio missing": ((), {"audio": "nobody.wav"}, 4, "nobody.wav: got no such file", "path"),
    "audio empty": ((), {"audio": "empty.wav"}, 4, "empty.wav: got an empty file", "copy"),
    "audio a folder": ((), {"audio": "weights"}, 4, "weights: got a folder", "one file"),
    "audio a text": ((), {"audio": "text.wav"}, 4, "text.wav: got a file that can't be decoded", "WAV"),
    "audio a picture": ((), {"audio": "face.png"}, 4, "face.png: got a file without sound", "another"),
    "video without sound": ((), {"audio": "mute.mp4"}, 4, "mute.mp4: got a file without sound", "another"),
    "size not divisible": (
        ("--size", "100x64"),
        {},
        2,
        "got 100x64, expected 64 to 4096 and divisible by 16",
        "presets",
    ),
    "size nonsense": (("--size", "big"), {}, 2, "got 'big', expected WIDTHxHEIGHT", "presets"),
    "fps nonsense": (("--fps", "fast"), {}, 2, "fps (--fps): got 'fast'", "presets"),
    "fps zero": (("--fps", "0"), {}, 2, "fps (--fps)", "presets"),
    "overlap as long as a window": (
        ("--overlap", "21"),
        {},
        2,
        "overlap (--overlap): got 21, expected less than the window",
        "presets",
    ),
    "overlap of one": (("--overlap", "1"), {}, 2, "overlap (--overlap): got '1'", "presets"),
    "no steps": (("--steps", "0"), {}, 2, "steps (--steps): got '0'", "presets"),
    "steps a word": (("--steps", "many"), {}, 2, "--steps", ""),
    "seed negative": (("--seed", "-1"), {}, 2, "seed (--seed): got '-1'", "presets"),
    "duration zero": (("--duration", "0"), {}, 2, "duration", "presets"),
    "start negative": (("--start", "-1"), {}, 2, "start", "presets"),
    "blend unknown": (("--blend", "cubic"), {}, 2, "cubic", ""),
    "guidance unknown": (("--guidance", "much"), {}, 2, "much", ""),
    "preset unknown": (("--preset", "portrat"), {}, 2, "preset 'portrat': not found", "did you mean portrait?"),
    "preset with an unknown key": (("--preset", "unknown.yaml"), {}, 2, "stpes", "presets"),
    "preset broken": (("--preset", "broken.yaml"), {}, 2, "broken.yaml: broken YAML in line", ""),
    "preset extends itself": (("--preset", "loop.yaml"), {}, 2, "extends itself", ""),
    "output below a file": (
        (),
        {"output": "voice.wav/out.mp4"},
        2,
        "voice.wav: got a file, expected a folder",
        "--output",
    ),
    "output exists": ((), {"output": "done.mp4"}, 2, "done.mp4: exists already", "--force"),
    "output not a video": ((), {"output": "out.avi"}, 2, "out.avi: got the ending '.avi', expected .mp4", ""),
    "output a folder": ((), {"output": "is_folder.mp4"}, 2, "is_folder.mp4: got a folder", ""),
    "weights nowhere": ((), {"weights": "nothing"}, 5, "nothing: got no such folder", "avatarctl fetch"),
    "weights embedded": ((), {"weights": "nothing"}, 5, "nothing: got no such folder", "--preset puppet"),
    "weights partial": ((), {"weights": "partial"}, 5, "missing 1 of 6 weights: vae", "avatarctl fetch"),
    "lora missing": (
        ("--lora", "style.safetensors"),
        {},
        4,
        "--lora: got no such file: style.safetensors",
        "run folder",
    ),
    "lora scale": (
        ("--lora", "style.safetensors:strong"),
        {},
        2,
        "got the strength 'strong' in 'style.safetensors:strong'",
        "presets show square lora",
    ),
    "work dir with other files": (("--work-dir", "strangers"), {}, 2, "novel.txt", "--work-dir"),
    "device unknown": (("--device", "gpu"), {}, 2, "device (--device): got 'gpu'", "presets"),
    "option unknown": (("--speed", "9"), {}, 2, "--speed", ""),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(desk: Path, name: str) -> None:
    flags, inputs, code, message, hint = BAD[name]
    before = listing(desk)
    out = generate(desk, *flags, **inputs)
    assert out.returncode == code, out.stderr
    told = " ".join(out.stderr.split())
    assert message in told and hint in told
    assert "Traceback" not in out.stderr and out.stdout == ""
    assert "LIGHT" in out.stderr, "torch was imported before the mistake was seen"
    assert listing(desk) == before


def listing(desk: Path) -> set[str]:
    """Return every file but the program's own caches and the torch-only leftovers of Python."""
    return {str(p.relative_to(desk)) for p in desk.rglob("*") if not str(p.relative_to(desk)).startswith("home")}


# These show only when the recording is decoded or weights are opened; a render folder may be there then, a video not.
LATER: dict[str, tuple[tuple[str, ...], dict[str, str], int, str]] = {
    "audio without samples": ((), {"audio": "silent.wav"}, 4, "without a single sample"),
    "audio not finite": ((), {"audio": "nan.wav"}, 4, "not a finite number at 0.250 s"),
    "start past the end": (("--start", "60"), {}, 4, "got a start at 60.000 s"),
    "foreign weights": ((), {"weights": "foreign"}, 5, "expected a transformer"),
    "lora of another network": (("--lora", "weights/vae.safetensors"), {}, 5, "LoRA that doesn't fit"),
    "no such gpu": (("--device", "cuda:7"), {}, 8, "cuda:7"),
}


@pytest.mark.parametrize("name", LATER)
def test_bad_input_seen_later(server: Server, desk: Path, name: str) -> None:
    flags, inputs, code, message = LATER[name]
    out = server.run(desk, line(*TINY, *flags, output="later.mp4", **inputs))
    assert out.status == code, out.log
    assert message in " ".join(out.log.split()) and "Traceback" not in out.log
    assert not (desk / "later.mp4").exists()
    shutil.rmtree(desk / "later.mp4.render", ignore_errors=True)


def test_all_mistakes_of_settings_are_told_together(desk: Path) -> None:
    out = generate(desk, "--size", "3x3", "--steps", "0", "--fps", "x", "--overlap", "0")
    assert out.returncode == 2
    assert all(word in out.stderr for word in ("size", "steps", "fps", "overlap"))


def test_errors_as_json(desk: Path) -> None:
    out = generate(desk, "--json", image="nobody.png")
    said = json.loads(out.stdout)
    assert (said["avatarctl_result"], said["command"], said["status"], said["exit_code"]) == (
        1,
        "generate",
        "failed",
        4,
    )
    assert "nobody.png" in said["errors"][0]["message"] and said["errors"][0]["hint"]


def test_resume_and_renders(desk: Path) -> None:
    for words, code, message in (
        (("resume",), 2, "no interrupted render is known"),
        (("resume", "weights"), 4, "got no render.json"),
        (("resume", "nowhere"), 4, "got no render.json"),
        (("renders", "show", "weights"), 4, "got no render.json"),
        (("renders", "remove", "weights"), 4, "got no render.json"),
    ):
        out = run(desk, *words)
        assert out.returncode == code and message in out.stderr and "Traceback" not in out.stderr, (words, out.stderr)
    assert (desk / "weights" / "vae.safetensors").exists()


@pytest.mark.parametrize("flag", ["", "--json"])
def test_dry_run_needs_no_torch_and_tells_the_plan(desk: Path, flag: str) -> None:
    before = listing(desk)
    out = generate(desk, "--dry-run", *filter(None, [flag]))
    assert out.returncode == 0 and "LIGHT" in out.stderr
    if flag:
        data = json.loads(out.stdout)["data"]
        assert (data["windows"], data["window_steps"], data["passes"], data["pictures"]) == (1, 50, 150, 13)
        assert data["time_s"] > 0 and "calculated from what this CPU reaches" in data["time_basis"]
        assert data["memory_bytes"] > 0 and "calculated for this transformer" in data["memory_basis"]
    else:
        assert all(word in out.stdout for word in ("passes", "windows", "first part", "disk", "memory", "time"))
    assert listing(desk) == before


NAMES = ("it's", 'a "quote"', "two  spaces", "new\nline", "-dash", "ünïcødé 音声", "50%", "a:b")


def test_strange_names_work(server: Server, desk: Path) -> None:
    for number, name in enumerate(NAMES):
        shutil.copy(desk / "face.png", desk / f"{name}.png")
        shutil.copy(desk / "voice.wav", desk / f"{name}.wav")
        out = server.run(desk, line(*TINY, "--quiet", image=f"{name}.png", audio=f"{name}.wav", output=f"{name}.mp4"))
        assert (out.status, out.log) == (0, f"{name}.mp4\n")
        assert (desk / f"{name}.mp4").stat().st_size > 1000, number
        assert not (desk / f"{name}.mp4.render").exists()


def test_success_as_json_with_progress(desk: Path) -> None:
    out = generate(desk, *TINY, "--json", "--progress", "json", "--contact-sheet", "0.2", output="fine.mp4")
    said = json.loads(out.stdout)
    assert said["status"] == "done" and said["data"]["output"] == "fine.mp4" and said["data"]["pictures"] == 13
    with Image.open(desk / said["data"]["contact_sheet"]) as sheet:
        assert sheet.format == "JPEG"
    steps = [json.loads(line) for line in out.stderr.splitlines() if line.startswith('{"event": "progress"')]
    assert steps[-1]["window_steps"] == steps[-1]["of"] == 1
    assert set(steps[-1]) == {"event", "window_steps", "of", "step_s", "left_s", "video_s"}
