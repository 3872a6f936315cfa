"""Takes the command line as users type it, shows quick help, a working program without torch, and true completions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from avatarctl import __version__

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "numpy", "transformers", "diffusers", "accelerate", "peft", "pydub", "rich")
RUN = "import sys; sys.argv = ['avatarctl', *sys.argv[1:]]; from avatarctl.cli import main; main()"
SHELLS = {
    "bash": "avatarctl.bash",
    "zsh": "_avatarctl",
    "fish": "avatarctl.fish",
    "powershell": "avatarctl.ps1",
}


def run(*words: str, code: str = RUN, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, **environment},
    )


def test_version_and_module() -> None:
    assert run("--version").stdout == f"avatarctl {__version__}\n"
    out = subprocess.run([sys.executable, "-m", "avatarctl", "--version"], capture_output=True, text=True, cwd=ROOT)
    assert out.stdout == f"avatarctl {__version__}\n"


def test_nothing_heavy_is_imported_for_the_command_line() -> None:
    code = f"import avatarctl.cli, avatarctl.settings, sys; print([m for m in {HEAVY} if m in sys.modules])"
    assert run(code=code).stdout == "[]\n"


def test_help_works_when_torch_is_broken(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('broken on purpose')")
    out = run("--help", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert out.returncode == 0 and "Exit codes: 0 done" in out.stdout


def test_usage_error_exits_with_2() -> None:
    assert run("--no-such-option").returncode == 2


@pytest.mark.parametrize("shell", SHELLS)
def test_committed_completions_are_what_the_program_makes(shell: str) -> None:
    made = run(_AVATARCTL_COMPLETE=f"source_{shell}").stdout
    assert made == (ROOT / "completions" / SHELLS[shell]).read_text()
    assert "avatarctl" in made
