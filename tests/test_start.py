"""Show what a render and cheap answers don't import: a command starts without what it doesn't need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "avatarctl/puppet/samples"
# After a command: which of these modules are imported, on the last line of stderr.
RUN = """
import json, sys
watched, sys.argv = json.loads(sys.argv[1]), ["avatarctl", *sys.argv[2:]]
from avatarctl.cli import main
try:
    main()
except SystemExit as end:
    code = end.code or 0
else:
    code = 0
sys.stderr.write("\\n" + json.dumps({"code": code, "imported": [name for name in watched if name in sys.modules]}))
"""
HEAVY = ["torch", "transformers", "diffusers", "peft", "accelerate"]


def after(watched: list[str], *words: str, home: Path, **environment: str) -> tuple[int, list[str], str]:
    """Run a command; return its exit code, which of the watched modules it imported, and its stderr."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(watched), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "AVATARCTL_HOME": str(home), "OMP_NUM_THREADS": "1", **environment},
        cwd=home,
        capture_output=True,
        text=True,
    )
    said, _, last = done.stderr.rpartition("\n")
    found = json.loads(last)
    return found["code"], found["imported"], said


def test_a_render_of_the_embedded_avatar_imports_no_peft_and_no_compiler(tmp_path: Path) -> None:
    unneeded = [
        "peft",
        "scipy",
        "sympy",
        "jinja2",
        "sklearn",
        "pandas",
        "matplotlib",
        "onnxruntime",
        "torch._dynamo.convert_frame",
        "torch._inductor",
        "torch.distributed.tensor",
        "torch.distributed.fsdp",
        "diffusers.pipelines.pipeline_utils",
        "ray",
    ]
    voice = ("-a", str(SAMPLES / "voice.wav"), "-i", str(SAMPLES / "picture.png"))
    code, imported, said = after(
        [*unneeded, "torch", "diffusers"],
        *("generate", "--preset", "puppet", *voice, "--duration", "1", "--steps", "2", "-o", "x.mp4"),
        home=tmp_path,
    )
    assert code == 0, said
    assert imported == ["torch", "diffusers"]
    assert (tmp_path / "x.mp4").is_file()


def test_a_program_that_uses_the_package_gets_the_libraries_as_they_are(tmp_path: Path) -> None:
    code = "import avatarctl.render.engine, torch, sys; print(torch._dynamo.__spec__.name, 'torch._dynamo.exc' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["torch._dynamo", "True"]


def test_the_compiler_is_loaded_when_it_is_asked_for() -> None:
    code = """
from avatarctl.networks import lean
lean.allow()
lean.import_networks()
import sys, torch
assert "torch._dynamo.convert_frame" not in sys.modules
lean.load_compiler()
assert torch.compile(lambda x: x * 2 + 1, backend="eager")(torch.ones(2)).tolist() == [3, 3]
assert "torch._dynamo.convert_frame" in sys.modules
from diffusers.utils import is_peft_available, is_transformers_available
assert is_peft_available() and is_transformers_available()
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    "imported", ["from torch._dynamo.utils import is_compile_supported", "import torch._dynamo.eval_frame"]
)
def test_a_library_may_import_a_module_of_the_compiler(imported: str) -> None:
    """As torchvision does, which diffusers imports where it is installed."""
    code = f"""
from avatarctl.networks import lean
lean.allow()
lean.import_networks()
{imported}
import sys, torch
name = "torch._dynamo.utils" if "utils" in {imported!r} else "torch._dynamo.eval_frame"
module = sys.modules[name]
assert module.__spec__.origin == module.__file__ and getattr(torch._dynamo, name.rpartition(".")[2]) is module
assert "torch._dynamo.convert_frame" in sys.modules
assert torch.compile(lambda x: x * 2 + 1, backend="eager")(torch.ones(2)).tolist() == [3, 3]
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("words", "expected_code"),
    [
        (["lora", "info", "missing.safetensors"], 4),
        (["lora", "info", "broken.safetensors"], 5),
        (["data", "encode", "typo", "-o", "cache"], 4),
        (["data", "encode", "clips", "-o", "cache", "--weights", "nowhere"], 5),
        (["data", "check", "nothing"], 4),
        (["demo", "--say", "hi", "--voice", "klingonisch"], 2),
        (["demo", "--say", " "], 2),
        (["demo", "--voice", "de"], 2),
        (["demo", "--device", "cuda"], 2),
        (["generate", "--preset", "puppet", "-a", "v.wav", "-o", "there.mp4"], 2),
        (["generate", "--preset", "puppet", "-a", "v.wav", "-o", "x.mp4", "--device", "cuda"], 8),
        (["train", "--data", "nothing", "-o", "run"], 4),
        (["lora", "train", "--data", "nothing", "-o", "run", "--dry-run"], 4),
        (["fetch", "--list"], 0),
        (["renders", "list"], 0),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else None,
)
def test_cheap_answers_come_before_anything_heavy(words: list[str], expected_code: int, tmp_path: Path) -> None:
    (tmp_path / "v.wav").write_bytes((SAMPLES / "voice.wav").read_bytes())
    (tmp_path / "there.mp4").write_bytes(b"somebody's")
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 64)
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").touch()
    code, imported, said = after(HEAVY, *words, home=tmp_path, CUDA_VISIBLE_DEVICES="")
    assert (code, imported) == (expected_code, []), said
    assert (tmp_path / "there.mp4").read_bytes() == b"somebody's"


def test_only_networks_without_memory_draw_nothing() -> None:
    import torch
    from torch import nn

    from avatarctl.networks.lean import nothing_drawn

    drawn = vars(nn.init)["normal_"]
    with nothing_drawn():
        real, empty = torch.zeros(8), torch.zeros(8, device="meta")
        assert nn.init.normal_(real).abs().sum() > 0 and nn.init.normal_(empty) is empty
        layer = nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 6, 3), dim=2)
        bare = nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 6, 3, device="meta"), dim=2)
    shapes = [{name: tensor.shape for name, tensor in each.state_dict().items()} for each in (layer, bare)]
    assert shapes[0] == shapes[1] and layer.weight.abs().sum() > 0
    assert vars(nn.init)["normal_"] is drawn and torch._weight_norm.__module__ != "avatarctl.networks.lean"


@pytest.mark.parametrize(("name", "version"), [("torchao", "0.18.0"), ("bitsandbytes", "0.50.2")])
def test_a_library_that_quantises_changes_nothing_where_it_is_installed(
    tmp_path: Path, name: str, version: str
) -> None:
    """It asks for the compiler when it is imported, in the middle of an import of diffusers."""
    package = tmp_path / name
    package.mkdir()
    (package / "__init__.py").write_text(
        f"from torch._dynamo.utils import NP_SUPPORTED_MODULES\n__version__ = '{version}'\n"
    )
    about = tmp_path / f"{name}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    code = (
        "from avatarctl.networks import lean\nlean.allow()\nlean.import_networks()\n"
        "import avatarctl.networks.checkpoints, avatarctl.networks.attach, sys\n"
        f"assert '{name}' not in sys.modules\n"
    )
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
