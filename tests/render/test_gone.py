"""Tests with what goes away while a render runs: readers of its output, its folder, the folder it was started in."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from workshop import Case, Server, straight


@pytest.fixture(scope="module")
def expected(studio: Path, server: Server, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The video, rendered with its output read."""
    return straight(Case(studio, server, tmp_path_factory.mktemp("straight") / "case"))


def shell(case: Case, line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which ``AVATARCTL`` is the command line of a render."""
    words = shlex.join([sys.executable, "-m", "avatarctl", *case.argv()])
    command = ["bash", "-c", line.replace("AVATARCTL", words)]
    everything = {**case.server.environment, **environment}
    return subprocess.run(
        command, cwd=case.folder, env=everything, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize(
    ("line", "out"),
    [
        ("AVATARCTL 2>&1 | head -1; echo ${PIPESTATUS[0]}", "{{"),
        pytest.param("AVATARCTL 2> >(head -1 >&2); echo $?", "{case}/talk.mp4\n0", marks=pytest.mark.long),
        pytest.param("AVATARCTL >&- 2>/dev/null; echo $?", "0", marks=pytest.mark.long),
        ("AVATARCTL 2>&-; echo $?", "{case}/talk.mp4\n0"),
    ],
)
def test_a_render_outlives_the_readers_of_its_output(case: Case, expected: bytes, line: str, out: str) -> None:
    done = shell(case, line)
    assert done.stdout.rstrip().endswith("0") and done.stdout.startswith(out.format(case=case.folder)), done
    assert "Traceback" not in done.stderr and "Broken pipe" not in done.stderr
    assert case.bytes() == expected


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_list_that_is_read_in_part_is_no_mistake(case: Case, unbuffered: str) -> None:
    words = shlex.join([sys.executable, "-m", "avatarctl", "presets", "show", "square"])
    done = shell(case, f"{words} | head -1; echo ${{PIPESTATUS[0]}}", PYTHONUNBUFFERED=unbuffered)
    assert done.stdout.splitlines()[-1] == "0" and done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_no_missing_reader(case: Case) -> None:
    words = shlex.join([sys.executable, "-m", "avatarctl", "presets", "show", "square"])
    assert shell(case, f"{words} > /dev/full; exit $?").returncode != 0


def gone_while_it_renders(case: Case, what: Path) -> subprocess.CompletedProcess[str]:
    """Start a render in a folder of its own, delete ``what`` once it has saved something, and let it end."""
    inside = case.folder / "here"
    inside.mkdir()
    argv = case.argv("-o", "talk.mp4", "-a", str(case.studio / "long.wav"))
    command = [sys.executable, "-m", "avatarctl", *argv]
    process = subprocess.Popen(
        command, cwd=inside, env=case.server.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 120
    while not list(inside.glob("talk.mp4.render/frontier/*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGSTOP)  # so that nothing is written while the folder is being removed
    shutil.rmtree(what)
    os.kill(process.pid, signal.SIGCONT)
    said, _ = process.communicate(timeout=120)
    return subprocess.CompletedProcess(command, process.returncode, said, "")


def test_a_render_folder_that_is_deleted_meanwhile_is_told_and_not_made_again(case: Case) -> None:
    ended = gone_while_it_renders(case, case.folder / "here" / "talk.mp4.render")
    assert ended.returncode == 4, ended.stdout
    assert "talk.mp4.render: was deleted or moved while the render ran" in ended.stdout
    assert "bug of ours" not in ended.stdout and list((case.folder / "here").iterdir()) == []


def test_a_current_folder_that_is_deleted_meanwhile_is_told(case: Case) -> None:
    ended = gone_while_it_renders(case, case.folder / "here")
    assert ended.returncode == 4, ended.stdout
    assert "was deleted or moved" in ended.stdout and "bug of ours" not in ended.stdout  # it, or the render in it
    assert not (case.folder / "here").exists()


@pytest.mark.parametrize("words", ["demo", "batch . -o out", "doctor"])
def test_a_command_in_a_folder_that_was_deleted_says_so(case: Case, words: str) -> None:
    line = f"mkdir gone; cd gone; rmdir ../gone; {sys.executable} -m avatarctl {words}"
    done = shell(case, line)
    assert done.returncode == 4 and "the current folder was deleted or moved" in done.stderr, done
    assert "bug of ours" not in done.stderr and "cd ~" in done.stderr
