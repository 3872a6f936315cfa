"""Tests with machines with something wrong (torch, driver, memory, ffmpeg, weights, settings): the row that says so."""

from __future__ import annotations

import os
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from avatarctl.checks import fit, graphics, machine
from avatarctl.checks.check import GIB, Check
from avatarctl.checks.graphics import Driver, Probe
from avatarctl.networks.dims import TRANSFORMER_1_3B
from avatarctl.networks.memory import estimate

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("home")
# A torch good enough for the first stages of the probe; WHAT happens in the second.
FAKE_TORCH = """
import os, sys, types, warnings
__version__ = "9.9"
version = types.SimpleNamespace(cuda={cuda!r}, hip=None)
def _look():
    {what}
    return False
cuda = types.SimpleNamespace(is_available=_look, device_count=lambda: 0)
"""


def fake_torch(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (folder / "torch.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def program(folder: Path, name: str, script: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


# -- torch ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "found", "fix"),
    [
        (
            "raise ImportError('libcudart.so.13: cannot open shared object file')",
            "broken: ImportError: libcudart.so.13: cannot open shared object file",
            "pip install --force-reinstall torch",
        ),
        (
            'raise ModuleNotFoundError("No module named \'torch\'", name="torch")',
            "not installed",
            "pip install torch",
        ),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "broken: killed by SIGSEGV", "--force-reinstall"),
        ("import os; os._exit(3)", "broken: ended with 3", "--force-reinstall"),
        ("import os; os._exit(0)", "broken: ended early in 'torch'", "--force-reinstall"),
        ("__version__ = '9.9'", "has no attribute 'version'", "--force-reinstall"),
    ],
    ids=["raises", "missing", "segfault", "exits", "exits well", "half"],
)
def test_a_broken_torch_is_a_row(
    text: str, found: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_torch(tmp_path, monkeypatch, text)
    rows = graphics.torch_checks(graphics.probe(), None)
    assert [(row.name, row.state) for row in rows] == [("torch", "fail")]
    assert found in rows[0].found and fix in rows[0].fix


def test_a_torch_that_never_comes_back_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_torch(tmp_path, monkeypatch, "import time; time.sleep(60)")
    rows = graphics.torch_checks(graphics.probe(timeout_s=1.0), None)
    assert rows[0].state == "fail" and rows[0].found == "broken: no answer in 1 s"


@pytest.mark.parametrize(
    ("what", "found"),
    [
        ("os.kill(os.getpid(), 11)", "killed by SIGSEGV"),
        ("raise SystemError('no such device')", "SystemError: no such device"),
    ],
)
def test_a_torch_that_dies_on_gpus_tells_its_version_still(
    what: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_torch(tmp_path, monkeypatch, FAKE_TORCH.format(cuda="13.0", what=what))
    rows = {row.name: row for row in graphics.torch_checks(graphics.probe(), None)}
    assert rows["torch"].state == "ok" and rows["torch"].found == "9.9 (CUDA 13.0)"
    assert rows["GPU"].state == "fail" and found in rows["GPU"].found


def test_networks_that_cant_be_imported_are_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "diffusers").mkdir()
    (tmp_path / "diffusers" / "__init__.py").write_text("raise ImportError('torch is too old')")
    fake_torch(tmp_path, monkeypatch, FAKE_TORCH.format(cuda=None, what="print('chatter')"))
    rows = {row.name: row for row in graphics.torch_checks(graphics.probe(), None)}
    assert rows["GPU"].state == "warn" and rows["attention"].state == "fail"
    assert "the networks can't be imported: " in rows["attention"].found


def test_lines_of_other_libraries_are_not_taken_for_ours() -> None:
    text = '3\n"text"\nloading …\n{"stage": "torch", "version": "1"}\n{broken\n'
    assert list(graphics._json_lines(text)) == [{"stage": "torch", "version": "1"}]


# -- driver and GPUs ------------------------------------------------------------------------------------------------
def probe_of(cuda: str | None, gpus: list[dict[str, Any]] | None = None, warnings: tuple[str, ...] = ()) -> Probe:
    """Return what the process says of a torch that is built for ``cuda`` and computes on ``gpus``."""
    return Probe(
        {
            "torch": {"version": "2.13.0", "cuda": cuda, "hip": None},
            "gpus": {"usable": bool(gpus), "gpus": gpus or [], "warnings": list(warnings)},
            "attention": {"device": "cuda" if gpus else "cpu", "usable": ["native"], "cpu_float8": True},
        }
    )


def gpu(free_gib: float, total_gib: float = 24, index: int = 0, **changes: Any) -> dict[str, Any]:
    about = {
        "index": index,
        "name": "NVIDIA L4",
        "capability": "8.9",
        "computes": True,
        "bfloat16": True,
        "float8": True,
    }
    return {**about, "free_bytes": int(free_gib * GIB), "total_bytes": int(total_gib * GIB), **changes}


L4 = {"index": "0", "name": "NVIDIA L4", "memory.total": "23034", "memory.free": "22574"}
OLD_BANNER = "| NVIDIA-SMI 535.183.01    Driver Version: 535.183.01    CUDA Version: 12.2     |"
NEW_BANNER = "| NVIDIA-SMI 610.43.02    KMD Version: 610.43.02    CUDA UMD Version: 13.3    |"


@pytest.mark.parametrize(
    ("banner", "version", "cuda"), [(OLD_BANNER, "535.183.01", "12.2"), (NEW_BANNER, "610.43.02", "13.3")]
)
def test_nvidia_smi_is_read(
    banner: str, version: str, cuda: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = ", ".join(L4.values())
    program(tmp_path, "nvidia-smi", f"case \"$1\" in --query*) echo '{row}';; *) echo '{banner}';; esac")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert graphics.driver() == Driver(version, cuda, (L4,))


def test_a_driver_that_fails_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "Failed to initialize NVML: Driver/library version mismatch"
    program(tmp_path, "nvidia-smi", f"echo '{said}'; exit 18")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    rows = {row.name: row for row in graphics.torch_checks(probe_of("13.0"), graphics.driver())}
    assert rows["driver"].state == "fail" and said in rows["driver"].found and "restart" in rows["driver"].fix


def test_no_driver_is_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert graphics.driver() is None
    assert "driver" not in [row.name for row in graphics.torch_checks(probe_of(None), None)]


@pytest.mark.parametrize(
    ("build", "runs", "state"),
    [
        ("13.0", "12.2", "fail"),
        ("12.8", "12.2", "ok"),
        ("12.8", "13.3", "ok"),
        (None, "12.2", "ok"),
        ("13.0", "", "ok"),
    ],
)
def test_driver_against_the_build_of_torch(build: str | None, runs: str, state: str) -> None:
    rows = graphics.torch_checks(probe_of(build, [gpu(20)]), Driver("535", runs, (L4,)))
    row = next(row for row in rows if row.name == "driver")
    assert row.state == state
    if state == "fail":
        assert "built for CUDA 13.0" in row.found and "torch built for CUDA 12" in row.fix


def test_why_no_gpu_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def row(probe: Probe, smi: Driver | None) -> Check:
        return next(row for row in graphics.torch_checks(probe, smi) if row.name == "GPU")

    seen = Driver("535", "12.2", (L4,))
    assert row(probe_of(None), None).state == "warn", "a CPU renders too"
    assert "for the CPU only" in row(probe_of(None), seen).found and row(probe_of(None), seen).state == "fail"
    old = row(probe_of("13.0", warnings=("The NVIDIA driver on your system is too old",)), seen)
    assert old.state == "fail" and "too old" in old.found
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    hidden = row(probe_of("12.8"), seen)
    assert hidden.state == "fail" and "CUDA_VISIBLE_DEVICES='' hides them" in hidden.found


def test_each_gpu_has_a_row() -> None:
    bad = gpu(20, index=2, computes=False, error="CUDA error: no kernel image is available")
    rows = graphics.torch_checks(probe_of("12.8", [gpu(20.5), gpu(0.5, index=1), bad]), None)
    by_name = {row.name: row for row in rows}
    assert [by_name[f"GPU {i}"].state for i in range(3)] == ["ok", "warn", "fail"]
    assert "20.5 GiB of 24.0 GiB free" in by_name["GPU 0"].found
    assert "no kernel image" in by_name["GPU 2"].found and "8.9" in by_name["GPU 2"].fix


@pytest.mark.parametrize(
    ("changes", "state", "found"),
    [
        ({}, "ok", "bfloat16, float8 weights"),
        ({"float8": False}, "warn", "bfloat16, no float8 weights"),
        ({"bfloat16": False}, "warn", "no bfloat16: computes in float16"),
    ],
)
def test_number_formats(changes: dict[str, bool], state: str, found: str) -> None:
    rows = graphics.torch_checks(probe_of("12.8", [gpu(20), gpu(20, index=1, **changes)]), None)
    row = next(row for row in rows if row.name == "number formats")
    assert (row.state, row.found) == (state, found)


# -- what fits ------------------------------------------------------------------------------------------------------
def test_what_fits_is_what_memory_auto_chooses() -> None:
    square = fit.preset_settings()["square"]
    whole = fit.fit_of(square, 80 * GIB)
    assert (whole.memory, whole.tiling) == ("full", None)
    assert whole.estimate.peak == estimate(TRANSFORMER_1_3B, 512, 512, vae_bytes=2, on_gpu=False).peak
    row = fit.fit([gpu((whole.estimate.needed - 1) / GIB)], None)
    assert row.facts["memory"]["square"] == "model" and "memory model: " in row.found, (
        "a byte short of all on the device"
    )
    assert fit.fit([gpu(whole.estimate.needed / GIB)], None).facts["memory"]["square"] == "full"
    old = fit.fit([gpu(whole.estimate.needed / GIB, bfloat16=False)], None)
    assert old.facts["memory"]["square"] == "model", "without bfloat16 the VAE computes in float32"
    wide = estimate(TRANSFORMER_1_3B, 512, 512, value_bytes=4, on_gpu=False).peak
    assert fit.peak_on_cpu(square) == wide == fit.fit([], 64 * GIB).facts["peak_bytes"]["square"]["full"]


def test_fit_by_size_of_the_gpu() -> None:
    large = fit.fit([gpu(2), gpu(80, 80, index=1)], None)
    assert large.state == "ok" and "--device cuda:1" in large.found and "too large" not in large.found
    small = fit.fit([gpu(3)], None)
    assert small.state == "ok" and small.facts["memory"]["low-memory"] == "group", "never less frugal than the preset"
    assert "memory group and tiles: " in small.found
    tight = fit.fit([gpu(1.78)], None)
    assert tight.state == "warn" and "landscape" in tight.found.split("too large:")[1]
    nothing = fit.fit([gpu(0.5)], None)
    assert nothing.state == "fail" and nothing.error.exit_code == 8
    assert fit.fit([], 64 * GIB).state == "ok" and fit.fit([], GIB).state == "fail"
    assert fit.fit([gpu(80, computes=False)], 64 * GIB).facts["where"] == "the CPU"
    assert "unknown" in fit.fit([], None).found


def test_presets_with_weights_of_their_own_are_not_estimated(home: Path) -> None:
    folder = home / "config" / "presets" / "render"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("weights: /mine\n")
    (folder / "broken.yaml").write_text("steps: [\n")
    (folder / "wide.yaml").write_text("size: 1280x720\n")
    known = fit.preset_settings()
    assert "mine" not in known and "broken" not in known
    assert fit.peak_on_cpu(known["wide"]) > fit.peak_on_cpu(known["square"])


# -- machine --------------------------------------------------------------------------------------------------------
def test_python_and_packages() -> None:
    assert machine.python((3, 10, 4)).state == "fail" and "3.11" in machine.python((3, 10, 4)).fix
    assert machine.python().state == "ok"
    assert machine.packages(["numpy>=1", "torch>=999", "no-such; python_version < '3'"]).state == "ok"
    row = machine.packages(["numpy>=999", "typer", "no-such-package-here<2", "extra-one; extra == 'test'"])
    assert row.state == "fail" and "numpy: got " in row.found and "expected >=999" in row.found
    assert "no-such-package-here: got not installed, expected <2" in row.found and "typer" not in row.found
    assert row.fix == "pip install 'numpy>=999' 'no-such-package-here<2'"


REST = "; ".join(f"echo ' V....D {name} x'" for name in ("libopus", "libvpx-vp9", "libsvtav1", "prores_ks"))
LISTED = "echo ' V....D libx264 x'; echo ' A....D aac x'; echo 'ffmpeg version 8'"


@pytest.mark.parametrize(
    ("script", "state", "found"),
    [
        (f"{LISTED}; {REST}; echo ' V....D libx265 x'", "ok", "with libx264, aac, libx265"),
        (f"{LISTED}; {REST}", "warn", "can't encode libx265: no --codec hevc"),
        (LISTED, "warn", "no --codec hevc, sound in .mkv and .webm, --codec vp9, --codec av1, --codec prores"),
        ("echo ' V....D libx264 x'", "fail", "can't encode aac"),
        ("exit 1", "fail", "doesn't run"),
    ],
)
def test_ffmpeg(script: str, state: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program(tmp_path, "ffmpeg", script)))
    row = machine.ffmpeg()
    assert row.state == state and found in row.found
    assert ("imageio-ffmpeg" in row.fix) == (state != "ok")


def test_ffmpeg_that_comes_along_and_one_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMAGEIO_FFMPEG_EXE", raising=False)
    assert machine.ffmpeg().state == "ok"
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "gone"))
    assert machine.ffmpeg().state == "fail"


def test_main_memory(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  33554432 kB\nMemAvailable:  16777216 kB\n")
    assert machine.available_bytes(meminfo, tmp_path) == 16 * GIB
    (tmp_path / "memory.max").write_text(f"{8 * GIB}\n")
    (tmp_path / "memory.current").write_text(f"{3 * GIB}\n")
    assert machine.available_bytes(meminfo, tmp_path) == 5 * GIB, "a container has less"
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.available_bytes(meminfo, tmp_path) == 16 * GIB
    assert machine.available_bytes(tmp_path / "none", tmp_path) is None
    assert machine.main_memory(16 * GIB).state == "ok" and machine.main_memory(5 * GIB).state == "warn"
    assert "unknown" in machine.main_memory(None).found


Usage = namedtuple("Usage", "total used free")


def test_disks_and_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.shared_memory(tmp_path / "none") == []
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(0, 0, 10**8))
    assert machine.shared_memory(tmp_path)[0].state == "warn"
    states = {row.name: row.state for row in machine.disks(tmp_path / "not" / "yet", False, tmp_path)}
    assert states == {"disk for weights": "warn", "disk for renders": "warn"}
    assert machine.disks(tmp_path, True, tmp_path)[0].state == "ok", "weights that are there need no more room"
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(0, 0, 10**12))
    assert {row.state for row in machine.disks(tmp_path, False, tmp_path)} == {"ok"}
    assert machine.shared_memory(tmp_path)[0].state == "ok"
    assert machine.hour_bytes() == 3600 * 25 / 4 * 64 * 64 * 16 * 4


def test_folders(home: Path, tmp_path: Path) -> None:
    assert machine.folders(tmp_path).state == "ok" and not home.exists(), "looking changes nothing"
    home.mkdir()
    (home / "config").write_text("a file")
    row = machine.folders(tmp_path)
    assert row.state == "fail" and f"{home / 'config'} is a file" in row.found and "AVATARCTL_HOME" in row.fix


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folders_that_cant_be_written(home: Path, tmp_path: Path) -> None:
    home.mkdir(mode=0o500)
    assert machine.folders(tmp_path).state == "fail"
