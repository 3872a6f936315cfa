"""Tests with the examples of README and docs: every block that can run here runs, in the order of its page."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import pytest
from pages import ALL, PAGES, ROOT, Block

from avatarctl.paths import embedded_avatar

# What installs something, or needs a GPU's launcher, is not run; everything else is, or its page says why not.
INSTALLS = ("pip ", "uv ", "python3 -m venv", ". avatar/", "accelerate launch")
SRT = "1\n00:00:00,500 --> 00:00:01,500\nGuten Tag!\n"
MANIFEST = """
- {audio: voices/anna.wav, image: pictures/anna.jpg}
- {audio: voices/ben.wav, image: pictures/ben.jpg, duration: 1}
"""


def furnish(folder: Path) -> None:
    """Fill a folder with the files that the pages speak of: a picture, recordings, subtitles, a manifest."""
    samples = embedded_avatar() / "samples"
    shutil.copy(samples / "picture.png", folder / "me.png")
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()

    def make(target: str, *options: str) -> None:
        subprocess.run(
            [ffmpeg, "-v", "error", "-nostdin", "-y", "-i", samples / "voice.wav", *options, folder / target],
            check=True,
        )

    subprocess.run([ffmpeg, "-v", "error", "-y", "-i", folder / "me.png", "-q:v", "2", folder / "me.jpg"], check=True)
    for name in ("voices", "pictures"):
        (folder / name).mkdir()
    short = ("-t", "1")
    for target in ("speech.mp3", "song.mp3", "voice.mp3", "voice.wav", "voices/anna.wav", "voices/ben.wav"):
        make(target, *short)
    make("interview.mp4", "-t", "4", "-f", "lavfi", "-i", "color=size=64x64", "-shortest", "-map", "0:a", "-map", "1:v")
    for name in ("anna", "ben"):
        shutil.copy(folder / "me.jpg", folder / "pictures" / f"{name}.jpg")
    (folder / "talk.de.srt").write_text(SRT)
    (folder / "talk.en.srt").write_text(SRT)
    (folder / "talk.en.vtt").write_text("WEBVTT\n\n00:00.500 --> 00:01.500\nHello!\n")
    (folder / "list.yaml").write_text(MANIFEST)


def environment(folder: Path) -> dict[str, str]:
    """Return an environment in which commands for the released weights use the embedded avatar, with few steps."""
    binaries = Path(sys.executable).parent
    return {
        **os.environ,
        "PATH": f"{folder / '.bin'}{os.pathsep}{binaries}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "AVATARCTL_HOME": str(folder / ".home"),
        "AVATARCTL_WEIGHTS": "puppet",
        "AVATARCTL_SIZE": "64x64",
        "AVATARCTL_STEPS": "1",
        "OMP_NUM_THREADS": "1",
    }


def render_videos(folder: Path) -> None:
    """Add the videos that the page of `evaluate` measures."""
    command = [sys.executable, "-m", "avatarctl", "demo", "--output", str(folder / "talk.mp4")]
    subprocess.run(command, env=environment(folder), check=True, capture_output=True)
    for name in ("first.mp4", "second.mp4"):
        shutil.copy(folder / "talk.mp4", folder / name)
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run([ffmpeg, "-v", "error", "-i", folder / "talk.mp4", folder / "other-tool.webm"], check=True)


def script(block: Block) -> str:
    """Return what of a block runs."""
    lines = []
    for line in block.lines():
        parts = [part.strip() for part in line.split("&&") if not part.strip().startswith(INSTALLS)]
        lines += [part for part in parts if part]
    return "\n".join(lines)


def run_page(page: Path, folder: Path) -> int:
    """Run the blocks of a page one after the other in a furnished folder; return their number."""
    furnish(folder)
    if page.name == "evaluate.md":
        render_videos(folder)
    (folder / ".bin").mkdir()
    program = folder / ".bin" / "avatarctl"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m avatarctl "$@"\n')
    program.chmod(0o755)
    ran = 0
    for block in ALL:
        if block.page != page or block.language != "sh" or block.not_run or not script(block):
            continue
        done = subprocess.run(
            ["bash", "-e", "-c", script(block)],
            cwd=folder,
            env=environment(folder),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{block}\n{script(block)}\n{done.stdout}\n{done.stderr}"
        ran += 1
    return ran


def test_the_quick_pages_run(tmp_path: Path) -> None:
    assert run_page(PAGES[0], tmp_path) >= 2


@pytest.mark.long
@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.name)
def test_the_other_pages_run(page: Path, tmp_path: Path) -> None:
    run_page(page, tmp_path)


def test_the_python_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AVATARCTL_HOME", str(tmp_path / ".home"))
    names: dict[str, object] = {}
    python = [block for block in ALL if block.language == "python" and not block.not_run]
    assert len(python) >= 6
    for block in python:
        exec(compile(block.text, str(block), "exec"), names)  # noqa: S102 (the page is ours)
    assert (tmp_path / "talk.mp4").stat().st_size > 1000
