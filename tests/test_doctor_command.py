"""Tests with `avatarctl doctor` as a whole: weights, settings, the table, what repairs them, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import tiny_weights

from avatarctl import paths
from avatarctl.checks import able, files
from avatarctl.checks.check import Check, Unfit, report
from avatarctl.commands.doctor import _text
from avatarctl.errors import UsageError, WeightsError
from avatarctl.fetching.sets import SETS
from avatarctl.weights import WAN

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("home")


# -- weights, settings ----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights"))


def test_weights(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert files.weights(bundle).state == "ok"
    row = files.weights(None)
    assert row.state == "fail" and row.error is WeightsError and str(paths.weights_folder()) in row.found
    assert "avatarctl fetch" in row.fix
    monkeypatch.setenv("AVATARCTL_WEIGHTS", str(bundle))
    assert files.weights(None).state == "ok"


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("vae.safetensors", b"", "got an empty file"),
        ("vae.safetensors", b"version https://git-lfs.github.com/spec/v1\noid", "pointer of git-lfs"),
        ("vae.safetensors", b"\x02\0\0\0\0\0\0\0[]", "not a safetensors file"),
        ("vae.safetensors", b"short", "got 5 bytes, expected"),
        ("vae.safetensors", -1, "bytes, expected"),
        ("text_encoder.safetensors", 300, "got 300 bytes, expected"),
        (f"{WAN}/Wan2.1_VAE.pth", b"PK\x03\x04" + b"\0" * 200, "the end of the file is missing"),
        ("tokenizer", None, "got an empty folder"),
    ],
)
def test_damaged_weights(bundle: Path, name: str, content: bytes | int | None, found: str, tmp_path: Path) -> None:
    """``content``: what the file holds; an int: how many of its bytes; None: an empty folder."""
    folder = tmp_path / "weights"
    folder.mkdir()
    for file in bundle.iterdir():
        (folder / file.name).symlink_to(file)
    place = folder / name
    if place.is_symlink():
        place.unlink()
    else:
        (folder / "vae.safetensors").unlink()
        place.parent.mkdir()
    if content is None:
        place.mkdir()
    else:
        place.write_bytes(content if isinstance(content, bytes) else (bundle / name).read_bytes()[:content])
    row = files.weights(folder)
    assert row.state == "fail" and str(place) in row.found and found in row.found and row.error is WeightsError


def test_weights_that_cant_be_read(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    for file in bundle.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "vae.safetensors").unlink()
    (folder / "vae.safetensors").symlink_to("/proc/self/mem")  # its first page can't be read by anyone
    assert "vae.safetensors: can't be read (" in files.weights(folder).found


def test_weights_for_square_videos_alone_are_a_warning(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    (folder / "StableAvatar-1.3B").mkdir(parents=True)
    for file in bundle.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "transformer.safetensors").rename(folder / "StableAvatar-1.3B" / "transformer3d-square.safetensors")
    row = files.weights(folder)
    assert row.state == "warn" and "none for sizes that aren't square" in row.found and "rec-vec" in row.found


@pytest.mark.parametrize(
    ("variables", "state", "found"),
    [
        ({"PATH": "/bin", "HOME": "/"}, "ok", "no AVATARCTL_"),
        ({"AVATARCTL_STEPS": "20", "AVATARCTL_DEBUG": "1", "AVATARCTL_RANK": "4"}, "ok", "AVATARCTL_STEPS"),
        ({"AVATARCTL_STEPZ": "20"}, "warn", "AVATARCTL_STEPZ: no setting is called so, did you mean AVATARCTL_STEPS?"),
        ({"AVATARCTL_STEPS": "many"}, "fail", "steps (AVATARCTL_STEPS): got 'many'"),
        ({"AVATARCTL_STEPS": "[1"}, "fail", "AVATARCTL_STEPS: got '[1'"),
        ({"AVATARCTL_DTYPE": "float16"}, "warn", "for training: dtype (AVATARCTL_DTYPE): got 'float16'"),
        ({"AVATARCTL_CRF": "99", "AVATARCTL_XYZZY": ""}, "fail", "AVATARCTL_XYZZY: no setting is called so"),
    ],
)
def test_environment(variables: dict[str, str], state: str, found: str) -> None:
    row = files.environment(variables)
    assert row.state == state and found in row.found
    assert bool(row.fix) == (state != "ok") and (state == "ok" or row.error is UsageError)


def test_own_presets(home: Path) -> None:
    assert files.own_presets().found == "0 of yours"
    folder = home / "config" / "presets" / "render"
    folder.mkdir(parents=True)
    (folder / "draft.yaml").write_text("extends: draft\nsteps: 3\n")
    assert files.own_presets().found == "1 of yours, draft in place of shipped ones"
    (folder / "mine.yaml").write_text("stepz: 3\n")
    row = files.own_presets()
    assert row.state == "warn" and "mine.yaml, line 1): unknown setting, did you mean steps?" in row.found


# -- the command ----------------------------------------------------------------------------------------------------
def test_the_table_ends_with_what_mends_it() -> None:
    text = _text([Check("Python", "ok", "3.11"), Check("GPU", "warn", "none", "buy one")])
    assert text.splitlines() == [
        "STATE  CHECK   FOUND",
        "ok     Python  3.11",
        "warn   GPU     none",
        "",
        "CHECK  TO FIX IT",
        "GPU    buy one",
    ]
    assert "TO FIX" not in _text([Check("Python", "ok", "3.11")])


def test_the_exit_code_is_that_of_the_first_failure() -> None:
    fine, device = Check("a", "warn", "so", "do"), Check("GPU", "fail", "none", "buy one")
    weights, setting = Check("w", "fail", "gone", "fetch", WeightsError), Check("e", "fail", "x", "unset", UsageError)
    assert Unfit([fine, weights, device]).exit_code == 5 and Unfit([device, weights]).exit_code == 8
    both = Unfit([fine, setting, weights])
    assert both.exit_code == 2 and both.hint == "unset" and both.message == "2 of 3 checks failed: e, w"
    assert both.data == report([fine, setting, weights]) and (both.data["warn"], both.data["fail"]) == (1, 2)
    json.dumps(both.data)


def doctor(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command, and tell on stderr whether this process imported torch."""
    code = "import sys; sys.argv = ['avatarctl', 'doctor', *sys.argv[1:]]\nfrom avatarctl.cli import main\n"
    code += "try:\n    main()\nfinally:\n    sys.stderr.write(f\"\\ntorch {'torch' in sys.modules}\")"
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=ROOT,
        env={**os.environ, **environment},
    )


def test_doctor_with_a_broken_torch_shows_everything_else(tmp_path: Path, bundle: Path) -> None:
    (tmp_path / "torch.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    out = doctor(PYTHONPATH=str(tmp_path), AVATARCTL_WEIGHTS=str(bundle))
    assert out.returncode == 8 and "Traceback" not in out.stderr
    assert "fail   torch" in out.stdout and "broken: killed by SIGSEGV" in out.stdout
    assert "ok     ffmpeg" in out.stdout and "ok     weights" in out.stdout and "TO FIX IT" in out.stdout
    assert "error: 1 of " in out.stderr and "hint: pip install --force-reinstall torch" in out.stderr
    out = doctor("--json", PYTHONPATH=str(tmp_path), AVATARCTL_STEPS="many")
    found = json.loads(out.stdout)
    assert out.returncode == found["exit_code"] == 8 and found["status"] == "failed" and found["errors"]
    failed = {row["name"] for row in found["data"]["checks"] if row["state"] == "fail"}
    assert failed == {"torch", "weights", "environment"} and found["data"]["fail"] == 3


def test_doctor_of_this_machine(bundle: Path) -> None:
    out = doctor("--json", "--weights", str(bundle))
    found = json.loads(out.stdout)
    rows = {row["name"]: row for row in found["data"]["checks"]}
    assert out.stderr.endswith("torch False"), "torch is looked at from outside"
    assert rows["torch"]["state"] == "ok" and "native" in rows["attention"]["facts"]["usable"]
    assert rows["weights"]["state"] == rows["ffmpeg"]["state"] == "ok" and rows["weights"]["facts"]["variants"]
    wanted = 0 if found["data"]["fail"] == 0 else 8
    assert out.returncode == found["exit_code"] == wanted and found["status"] == ("failed" if wanted else "done")
    order = [
        "Python",
        "packages",
        "torch",
        "main memory",
        "fits",
        "ffmpeg",
        "weights",
        "folders",
        "environment",
        "presets",
    ]
    assert [name for name in rows if name in order] == order


def test_never_fetched_weights_are_no_failure_where_the_embedded_avatar_runs(tmp_path: Path) -> None:
    out = doctor("--json", "--weights", str(tmp_path / "nowhere"), CUDA_VISIBLE_DEVICES="")
    found = json.loads(out.stdout)
    rows = {row["name"]: row for row in found["data"]["checks"]}
    assert (rows["embedded avatar"]["state"], rows["embedded avatar"]["found"]) == ("ok", "runs: avatarctl demo")
    assert rows["weights"]["state"] == rows["StableAvatar 1.3B"]["state"] == "warn"
    assert rows["StableAvatar 1.3B"]["fix"] == "avatarctl fetch stableavatar-1.3b"
    assert not any(name.startswith("_") for name in rows["attention"]["found"].split(", "))
    assert rows["disk for weights"]["facts"]["needed_bytes"] == SETS[0].about_bytes
    assert out.returncode == 0 and found["data"]["fail"] == 0


@pytest.mark.parametrize(
    ("weights", "failed", "expected"),
    [
        (Check("weights", "fail", "gone", "fetch", WeightsError, {"folder": "w"}), [], "the weights are missing"),
        (
            Check("weights", "fail", "cut", "fetch", WeightsError, {"folder": "w", "variants": ["square"]}),
            ["weights"],
            "the weights are damaged",
        ),
    ],
)
def test_damaged_weights_fail_and_missing_ones_warn(weights: Check, failed: list[str], expected: str) -> None:
    rows = [Check("torch", "ok", "2"), Check("fits", "ok", "all"), weights]
    assert [row.name for row in able.without_needless_failures(rows) if row.state == "fail"] == failed
    avatar, released = able.ables(rows)
    assert avatar.state == "ok" and expected in released.found
    broken = [Check("torch", "fail", "broken"), *rows[1:]]
    assert able.without_needless_failures(broken) == broken
    assert able.ables(broken)[0].found == "can't run: see torch"


def test_the_same_fix_is_told_once() -> None:
    text = _text(
        [Check("torch", "fail", "broken", "pip install torch"), Check("GPU", "fail", "no", "pip install torch")]
    )
    assert text.splitlines()[-1] == "torch, GPU  pip install torch"
