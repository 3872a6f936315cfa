"""Tests with the source tree: its wheel and its source archive install, with everything that users need, and run."""

from __future__ import annotations

import os
import site
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="builds the package")
ROOT = Path(__file__).parents[1]
INSIDE = (
    "avatarctl/_presets/render/puppet.yaml",
    "avatarctl/_presets/train/full-1.3b.yaml",
    "avatarctl/_presets/lora/puppet-look.yaml",
    "avatarctl/_presets/data/puppet.yaml",
    "avatarctl/puppet/weights/transformer.safetensors",
    "avatarctl/puppet/weights/vae.safetensors",
    "avatarctl/puppet/weights/tokenizer/tokenizer.json",
    "avatarctl/puppet/weights/README.md",
    "avatarctl/puppet/samples/picture.png",
    "avatarctl/puppet/samples/voice.wav",
    "share/bash-completion/completions/avatarctl",
    "share/zsh/site-functions/_avatarctl",
    "share/fish/vendor_completions.d/avatarctl.fish",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel and the source archive."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT, check=True, capture_output=True
    )
    return {"wheel": next(folder.glob("*.whl")), "sdist": next(folder.glob("*.tar.gz"))}


def bare(folder: Path) -> Path:
    """Make an environment that has this one's libraries, but not the checkout; return its Python."""
    venv.create(folder, with_pip=False, symlinks=True)
    found = subprocess.run(
        [folder / "bin" / "python", "-c", "import site; print(site.getsitepackages()[0])"],
        check=True,
        capture_output=True,
        text=True,
    )
    # A plain line: the checkout's own .pth file, which lies in there, is not followed.
    (Path(found.stdout.strip()) / "libraries.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return folder / "bin" / "python"


def test_wheel_holds_what_users_need(built: dict[str, Path]) -> None:
    names = zipfile.ZipFile(built["wheel"]).namelist()
    for needed in INSIDE:
        assert any(name.endswith(needed) for name in names), needed
    assert not any(name.startswith(("tests/", "benchmarks/")) or "__pycache__" in name for name in names)


def test_source_archive_holds_what_the_build_needs(built: dict[str, Path]) -> None:
    with tarfile.open(built["sdist"]) as archive:
        names = archive.getnames()
    for needed in (
        "pyproject.toml",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "presets/render/square.yaml",
        "completions/_avatarctl",
    ):
        assert any(name.split("/", 1)[-1] == needed for name in names), needed


@pytest.mark.parametrize("kind", ["wheel", pytest.param("sdist", marks=pytest.mark.long)])
def test_it_installs_and_the_demo_runs_from_there(built: dict[str, Path], kind: str, tmp_path: Path) -> None:
    python = bare(tmp_path / "env")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
    ]
    subprocess.run([*pip, "--disable-pip-version-check", str(built[kind])], check=True, timeout=300)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"AVATARCTL_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}

    def run(*words: str) -> str:
        done = subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run(str(python), "-c", "import avatarctl; print(avatarctl.__file__)").strip()
    assert Path(where).is_relative_to(tmp_path), "the checkout is not what runs"
    program = str(tmp_path / "env" / "bin" / "avatarctl")
    assert "puppet" in run(program, "presets", "list")
    assert run(program, "demo", "--quiet").strip() == "demo.mp4"
    assert (tmp_path / "demo.mp4").stat().st_size > 10_000
    for shell in ("share/bash-completion/completions/avatarctl", "share/zsh/site-functions/_avatarctl"):
        assert (tmp_path / "env" / shell).is_file()
