"""Tests with the embedded avatar as the package ships it: its lips follow voices and it renders like any weights."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from served import Server, kill_after

from avatarctl.audio.decode import read_blocks
from avatarctl.audio.source import ffmpeg
from avatarctl.errors import WeightsError
from avatarctl.evaluation.findings import findings
from avatarctl.evaluation.reference import of_picture
from avatarctl.evaluation.score import score
from avatarctl.evaluation.source import opened
from avatarctl.evaluation.sync import sync
from avatarctl.evaluation.watch import watch
from avatarctl.networks.checkpoints import load_transformer, save_weights
from avatarctl.networks.header import read_header
from avatarctl.paths import EMBEDDED_PICTURES, STUDENT_FILE, embedded_avatar
from avatarctl.puppet.folders import EVALUATION_SEED
from avatarctl.puppet.measure import read_pictures
from avatarctl.puppet.mouth import RATE_HZ
from avatarctl.puppet.pack import MOST_BYTES, SAMPLE_SEEDS, pack_weights, write_wave
from avatarctl.puppet.world.clips import EYE_REGIONS, MOUTH_REGION, region_mask
from avatarctl.puppet.world.drive import drive
from avatarctl.puppet.world.identity import Identity, Pose
from avatarctl.puppet.world.portrait import draw
from avatarctl.puppet.world.see import see
from avatarctl.render.video import inspect
from avatarctl.settings.student import student_of
from avatarctl.weights import checksum

WEIGHTS, SAMPLES = embedded_avatar() / "weights", embedded_avatar() / "samples"
STUDENT = WEIGHTS / STUDENT_FILE
FACTS = student_of(STUDENT) or {}
ROOT = Path(__file__).parents[2]
MISSED = ["eyes: share of irises nearest to their own colour"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("home"))
    yield running
    running.close()


def sound(path: Path) -> np.ndarray:
    rate_hz, _, blocks = read_blocks(path)
    assert rate_hz == RATE_HZ or path.suffix == ".mp4"
    return np.concatenate(list(blocks)).mean(1).astype(np.float32)


def pictures(video: Path, size: int) -> np.ndarray:
    """Decode a video's pictures, made smaller to ``size``."""
    scale = ["-vf", f"scale={size}:{size}:flags=area", "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"]
    raw = subprocess.run([ffmpeg(), "-v", "error", "-i", str(video), *scale], capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, size, size, 3)


def asked_for(voice: np.ndarray, count: int) -> np.ndarray:
    """Return the opening that a voice asks for, but for closed lips: no phonemes are known of a recording."""
    return drive(voice, (), count).opening


def test_what_is_shipped_is_small_and_described() -> None:
    files = [path for folder in (WEIGHTS, SAMPLES) for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    card = (WEIGHTS / "README.md").read_text(encoding="utf-8")
    assert all(word in card for word in ("## What it is", "## How it was trained", "## How good it is", "Apache-2.0"))
    for name in ("transformer", "vae", "text_encoder", "image_encoder", "speech_encoder"):
        head = read_header(WEIGHTS / f"{name}.safetensors")
        assert head is not None and head.parameters > 10_000, name
    goals = card[card.index("| goal |") :].split("\n\n")[0]
    page = (ROOT / "docs" / "verification.md").read_text(encoding="utf-8")
    assert goals in page, "both tell the same numbers"
    rows = goals.splitlines()[2:]
    missed = [row.split(" | ")[0].removeprefix("| ") for row in rows if not row.endswith("| yes |")]
    assert len(rows) >= 12 and missed == MISSED, "what is missed is told in the card, and nothing else is missed"
    assert all(f"Missed: {name}" in card for name in missed)


def test_demo_ends_in_a_watchable_video_whose_lips_follow(server: Server, tmp_path: Path) -> None:
    done = server.run(tmp_path, ["demo", "--output", "first.mp4", "--json"])
    assert done.status == 0, done.log
    video = inspect(tmp_path / "first.mp4")
    assert (video.width, video.height, video.fps) == (512, 512, Fraction(25))
    assert video.audio_s is not None and abs(video.picture_s - video.audio_s) <= 0.04
    assert "enlarged 4 times" in done.log
    voice = sound(SAMPLES / "voice.wav")
    opening = see(pictures(tmp_path / "first.mp4", 128), Identity.of(SAMPLE_SEEDS[0])).opening
    assert len(opening) == int(np.ceil(len(voice) / RATE_HZ * 25))
    follows = sync(opening, asked_for(voice, len(opening)))
    assert follows.correlation >= 0.7 and abs(follows.lag) <= 1
    assert {path.name for path in tmp_path.iterdir()} == {"first.mp4", "attempt.log"}
    _evaluated(tmp_path / "first.mp4")


def test_the_student_is_one_of_the_shipped_transformer(server: Server, tmp_path: Path) -> None:
    assert FACTS["steps"] in (4, 8) and FACTS["teacher"]["base_sha256"] == checksum(WEIGHTS / "transformer.safetensors")
    words = ["generate", "--preset", "puppet", "-a", str(SAMPLES / "song.wav"), "--dry-run", "--json"]
    for flags, steps in (((), 8), (("--lora", "puppet-student"), FACTS["steps"])):
        log = server.run(tmp_path, [*words, *flags]).log
        told = json.JSONDecoder().raw_decode(log[log.index("{\n") :])[0]["data"]
        assert told["passes"] == steps * told["windows"]
    # In a manifest, too, whose files lie beside it.
    (tmp_path / "jobs").mkdir()
    shutil.copy(SAMPLES / "song.wav", tmp_path / "jobs")
    (tmp_path / "jobs" / "jobs.yaml").write_text("- {audio: song.wav, lora: puppet-student}\n")
    planned = server.run(tmp_path, ["batch", "jobs/jobs.yaml", "--preset", "puppet", "--output", "v", "--dry-run"])
    assert planned.status == 0, planned.log


def test_lips_follow_in_the_steps_of_the_student(server: Server, tmp_path: Path) -> None:
    words = ["generate", "--preset", "puppet", "--lora", "puppet-student", "-a", str(SAMPLES / "voice.wav")]
    done = server.run(tmp_path, [*words, "-o", "talk.mp4", "--frames", "pictures", "--json", "--progress", "json"])
    assert done.status == 0 and done.steps()[-1] % FACTS["steps"] == 0, done.log
    frames = read_pictures(tmp_path / "pictures")
    follows = sync(
        see(frames, Identity.of(SAMPLE_SEEDS[0])).opening, asked_for(sound(SAMPLES / "voice.wav"), len(frames))
    )
    assert follows.correlation >= 0.7 and abs(follows.lag) <= 1


def test_a_student_of_another_transformer_is_not_packed(tmp_path: Path) -> None:
    model = load_transformer(WEIGHTS / "transformer.safetensors")
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    other = save_weights(model, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="got a student of another transformer"):
        pack_weights(WEIGHTS, tmp_path / "packed", other, STUDENT)
    with pytest.raises(WeightsError, match="got no student"):
        pack_weights(WEIGHTS, tmp_path / "packed", student=WEIGHTS / "vae.safetensors")


def _evaluated(video: Path) -> None:
    """Check what `avatarctl evaluate` finds: lips in time, shifted voices far below, nothing remarkable, moved sound."""
    with opened(video) as source:
        seen = watch(source)
        row = score(source, seen, of_picture(SAMPLES / "picture.png", seen.face_height), ()).row
        lips = row["lips"]
        assert lips["correlation"] > 0.7 > 2 * lips["shifted_q95"] and abs(lips["lag_s"]) <= 0.02
        assert row["face"]["share"] == 1 and row["face"]["persons"] == 1 and row["identity"]["worst"] < 0.6
        assert findings(row) == []
        assert source.waveform is not None
        for late_s in (-0.2, -0.08, 0.08, 0.2):
            late = np.roll(source.waveform, round(late_s * RATE_HZ))
            moved = score(replace(source, waveform=late), seen, None, ()).row["lips"]
            assert abs(moved["lag_s"] + late_s) <= 0.04


def test_another_face_keeps_its_looks_and_follows_its_own_voice(server: Server, tmp_path: Path) -> None:
    who = Identity.of(EVALUATION_SEED + 2**22)
    Image.fromarray(draw(who, Pose(), 300)).save(tmp_path / "me.png")
    words = ["generate", "--preset", "puppet", "-i", "me.png", "-a", str(SAMPLES / "song.wav"), "-o", "me.mp4"]
    done = server.run(tmp_path, [*words, "--frames", "pictures"])
    assert done.status == 0, done.log
    frames = read_pictures(tmp_path / "pictures")
    assert frames.shape[1:] == (128, 128, 3), "pictures are not enlarged, the video is"
    song, voice = sound(SAMPLES / "song.wav"), sound(SAMPLES / "voice.wav")
    opening = see(frames, who).opening
    assert sync(opening, asked_for(song, len(frames))).correlation >= 0.7
    assert sync(opening[:100], asked_for(voice, 100)).correlation < 0.5
    others = np.stack([draw(Identity.of(seed), Pose()) for seed in range(30)])
    own = draw(who, Pose())
    still = region_mask(128, [MOUTH_REGION, *EYE_REGIONS]) == 0
    away = np.abs(frames.mean(0) - own)[still].mean()
    assert away < min(np.abs(frames.mean(0) - other)[still].mean() for other in others)


def test_three_people_and_two_voices_are_shipped(server: Server, tmp_path: Path) -> None:
    faces = [np.asarray(Image.open(SAMPLES / name)).astype(float) for name in EMBEDDED_PICTURES.values()]
    assert min(np.abs(a - b).mean() for a, b in itertools.combinations(faces, 2)) > 15, "unlike people"
    for name in list(EMBEDDED_PICTURES)[1:]:
        words = [
            "generate",
            "-p",
            "puppet",
            "-i",
            name,
            "-a",
            str(SAMPLES / "voice-2.wav"),
            "--show-crop",
            f"{name}.png",
        ]
        done = server.run(tmp_path, words)
        assert done.status == 0 and "in its own style alone" not in done.log, done.log
        shown = np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB").resize((128, 128))).astype(float)
        away = [
            np.abs(shown - np.asarray(Image.fromarray(face.astype(np.uint8)).resize((128, 128)))).mean()
            for face in faces
        ]
        assert int(np.argmin(away)) == list(EMBEDDED_PICTURES).index(name) and min(away) < 5
    voices = tmp_path / "voices"
    voices.mkdir()
    shutil.copy(SAMPLES / "voice-2.wav", voices)
    planned = server.run(
        tmp_path, ["batch", "voices", "--image", "puppet-2", "--preset", "puppet", "--output", "v", "--dry-run"]
    )
    assert planned.status == 0, planned.log


def test_lips_close_when_the_voice_pauses(server: Server, tmp_path: Path) -> None:
    voice = sound(SAMPLES / "voice.wav")[: 2 * RATE_HZ]
    hiss = np.random.default_rng(0).normal(0, 1e-3, RATE_HZ).astype(np.float32)
    write_wave(tmp_path / "pause.wav", np.concatenate([voice, hiss]))
    words = ["generate", "--preset", "puppet", "-a", "pause.wav", "-o", "pause.mp4", "--frames", "pictures"]
    done = server.run(tmp_path, words)
    assert done.status == 0, done.log
    opening = see(read_pictures(tmp_path / "pictures"), Identity.of(SAMPLE_SEEDS[0])).opening
    assert np.quantile(opening[:50], 0.9) > 0.5 and opening[55:].max() < 0.3


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")
def test_demo_says_a_text_and_goes_on_with_it(server: Server, tmp_path: Path) -> None:
    words = ["demo", "--say", "Good morning!", "--output", "said.mp4", "--keep"]
    done = server.run(tmp_path, words)
    assert done.status == 0 and "the voice is said.wav" in done.log, done.log
    heard = len(sound(tmp_path / "said.wav")) / RATE_HZ
    assert inspect(tmp_path / "said.mp4").picture_s == pytest.approx(heard, abs=0.04)
    again = server.run(tmp_path, words)
    assert again.status == 0 and "window steps" not in again.log, "the same text is the same recording: nothing to do"
    (tmp_path / "said.wav").write_bytes(b"precious")
    refused = server.run(tmp_path, words)
    assert refused.status == 2 and "said.wav: exists already" in refused.log
    assert (tmp_path / "said.wav").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("words", "code", "message", "hint"),
    [
        (["--say", " "], 2, "--say: got no text", "--say"),
        (["--say", "a", "--sing"], 2, "got more than one", "leave out"),
        (["--say", "a", "--voice", "martian"], 2, "can't say it with voice martian", "--voices"),
        (["--say", "a", "--image", "none.png"], 4, "none.png: got no such file", "check"),
        (["--audio", "none.wav"], 4, "none.wav: got no such file", "check"),
        (["--image", "none.png"], 4, "none.png: got no such file", "check"),
        (["--enlarge", "17"], 2, "--enlarge", "presets show"),
    ],
)
def test_mistakes_leave_nothing_behind(
    server: Server, tmp_path: Path, words: list[str], code: int, message: str, hint: str
) -> None:
    if "martian" in words and shutil.which("espeak-ng") is None:
        pytest.skip("needs espeak-ng")
    done = server.run(tmp_path, ["demo", *words])
    assert done.status == code and message in done.log and hint in done.log, done.log
    assert "Traceback" not in done.log
    assert [path.name for path in tmp_path.iterdir()] == ["attempt.log"]


def test_say_without_espeak_tells_how_to_get_it(server: Server, tmp_path: Path) -> None:
    done = server.run(tmp_path, ["demo", "--say", "hello"], PATH=str(tmp_path))
    assert done.status == 2 and "espeak-ng: not found" in done.log and "apt-get install espeak-ng" in done.log
    assert [path.name for path in tmp_path.iterdir()] == ["attempt.log"]


def test_without_a_picture_another_preset_asks_for_one(server: Server, tmp_path: Path) -> None:
    done = server.run(tmp_path, ["generate", "--preset", "draft", "-a", str(SAMPLES / "voice.wav")])
    assert done.status == 2 and "--image: got no picture, and the preset names none" in done.log
    assert "--preset puppet" in done.log


def test_the_plan_tells_this_network_s_memory(server: Server, tmp_path: Path) -> None:
    words = [
        "generate",
        "--preset",
        "puppet",
        "-a",
        str(SAMPLES / "voice.wav"),
        "--device",
        "cpu",
        "--dry-run",
        "--json",
    ]
    told = json.loads(server.run(tmp_path, words).log)["data"]
    head = read_header(WEIGHTS / "transformer.safetensors")
    assert head is not None and f"of {head.parameters / 1e6:.1f} million weights" in told["memory_basis"]
    assert told["memory_bytes"] < 200 << 20


@pytest.mark.long
def test_kills_cost_no_bit(server: Server, tmp_path: Path) -> None:
    """The kill test of tests/render, with the weights that people use: at random instants, in `generate` and `resume`."""
    words = ["--preset", "puppet", "-a", str(SAMPLES / "song.wav"), "--checkpoint-every", "0", "--progress", "json"]
    straight = server.run(tmp_path, ["generate", *words, "-o", "straight.mp4"])
    assert straight.status == 0, straight.log
    chance, kills, where = random.Random(4), 0, []
    while kills < 6:
        done = server.run(
            tmp_path, ["generate", *words, "-o", f"cut{kills}.mp4"], meanwhile=kill_after(chance.uniform(0.3, 2.5))
        )
        command = ["generate", *words, "-o", f"cut{kills}.mp4"]
        name = f"cut{kills}.mp4"
        while done.status == -signal.SIGKILL:
            kills += 1
            where.append(done.steps()[-1] if done.steps() else 0)
            if (tmp_path / f"{name}.render" / "render.json").exists():
                command = ["resume", f"{name}.render", "--progress", "json"]
            elif (tmp_path / name).exists():
                break  # killed when all was done
            done = server.run(tmp_path, command, meanwhile=kill_after(chance.uniform(0.3, 2.5)))
        assert done.status in (0, -signal.SIGKILL), done.log
        assert (tmp_path / name).read_bytes() == (tmp_path / "straight.mp4").read_bytes()
        (tmp_path / name).unlink()
    assert any(where), "some kills fell between window steps"


def test_packing_what_is_packed_changes_no_number(tmp_path: Path) -> None:
    pack_weights(WEIGHTS, tmp_path, student=STUDENT)
    assert (tmp_path / STUDENT.name).read_bytes() == STUDENT.read_bytes()
    for path in sorted(set(WEIGHTS.glob("*.safetensors")) - {STUDENT}):
        before, after = load_file(path), load_file(tmp_path / path.name)
        assert before.keys() == after.keys()
        halves = sum(tensor.numel() for tensor in after.values() if tensor.dtype == torch.float16)
        assert halves > 0.8 * sum(tensor.numel() for tensor in after.values()), "all but what has to stay exact"
        assert all(torch.equal(before[name], after[name]) for name in before), path.name
    assert (tmp_path / "tokenizer" / "tokenizer.json").exists()
    whole = {path.name: path.read_bytes() for path in tmp_path.glob("*.safetensors")}
    pack_weights(tmp_path, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.safetensors")} == whole


def test_a_command_line_of_its_own_process_is_quick(tmp_path: Path) -> None:
    """As a user starts it, imports and all: a generous bound that a stuck render would break."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "AVATARCTL_HOME": str(tmp_path / "home")}
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "avatarctl", "demo", "-q"], cwd=tmp_path, env=environment, check=True, timeout=300
    )
    assert (tmp_path / "demo.mp4").exists() and time.monotonic() - began < 300
