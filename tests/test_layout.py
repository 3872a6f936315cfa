"""Tests with the source: it keeps the house rules: imports go down only, and some things happen in one place."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "avatarctl"
FILES = sorted(ROOT.rglob("*.py"))
HEAVY = {"torch", "numpy", "transformers", "diffusers", "accelerate", "peft", "pydub", "rich"}
# Who may open files of tensors: weights; render folders, caches of samples and checkpoints of runs their own.
OPENERS = (
    "avatarctl.networks.weight_files",
    "avatarctl.networks.checkpoints",
    "avatarctl.networks.lora_formats",
    "avatarctl.render.folder",
    "avatarctl.data.shard_writer",
    "avatarctl.data.shards",
    "avatarctl.data.compact",
    "avatarctl.training.checkpoints",
    "avatarctl.faces.graph",
    "avatarctl.faces.identity",
)
# Lower numbers may be imported from higher ones.
LAYERS = {
    "ground": 0,
    "networks": 1,
    "audio": 1,
    "faces": 1,
    "sampling": 2,
    "data": 3,
    "render": 4,
    "training": 4,
    "evaluation": 4,
    "puppet": 4,
    "checks": 4,
    "fetching": 4,
    "batch": 5,
    "serve": 6,
    "commands": 7,
    "cli": 8,
    "__main__": 9,
}


def place(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in LAYERS else "ground"


def module_of(path: Path) -> str:
    return ".".join(("avatarctl", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def imports(tree: ast.Module, top_level_only: bool = False) -> set[str]:
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
            if node.module == "avatarctl":
                found |= {f"avatarctl.{alias.name}" for alias in node.names}
    return found


def faults(module: str, source: str) -> list[str]:
    """Return the rules that a file of this name and content breaks."""
    found = []
    tree, where = ast.parse(source), place(module)
    if not source.startswith('"""') or source.startswith('"""Takes '):
        found.append("a file says in its first line what it is for")
    for name in imports(tree):
        root = name.split(".")[0]
        if root == "":
            found.append("imports are absolute")
        if root == "avatarctl" and name != root and LAYERS[place(name)] > LAYERS[where]:
            found.append(f"imports go down: {name}")
        if root == "typer" and where not in ("cli", "commands"):
            found.append("typer belongs to the command line")
        if root == "rich" and module != "avatarctl.progress":
            found.append("rich belongs to the progress display")
        if root == "click":
            found.append("typer carries its own click")
        if root == "safetensors" and module not in OPENERS:
            found.append("weights are opened in one place")
    if where in ("ground", "cli", "commands", "__main__"):
        heavy = {name.split(".")[0] for name in imports(tree, top_level_only=True)} & HEAVY
        found += [f"the command line starts without {name}" for name in heavy]
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and module != "avatarctl.cli":
            caught = {name.id for name in ast.walk(node.type) if isinstance(name, ast.Name)} if node.type else {"all"}
            if caught & {"Exception", "BaseException", "all"}:
                found.append("what is caught has a name")
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called == "print":
                found.append("only the console writes")
            if called == "torch.load" and module not in OPENERS:
                found.append("weights are opened in one place")
            if called.endswith(".from_pretrained") and module != "avatarctl.networks.checkpoints":
                found.append("networks are loaded in one place")
    if len(source.splitlines()) > 520:
        found.append("a file this long is two files")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_file_keeps_the_rules(path: Path) -> None:
    assert faults(module_of(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "line", "fault"),
    [
        ("sampling.blend", "import avatarctl.render.folder", "imports go down"),
        ("networks.vae", "from avatarctl.sampling import blend", "imports go down"),
        ("networks.vae", "def f():\n    from avatarctl.cli import app", "imports go down"),
        ("settings", "from avatarctl import networks", "imports go down"),
        ("render.video", "from . import folder", "imports are absolute"),
        ("render.video", "import typer", "typer belongs"),
        ("render.video", "from rich.table import Table", "rich belongs"),
        ("cli", "import click", "own click"),
        ("presets", "import numpy as np", "starts without numpy"),
        ("commands.presets", "from torch import Tensor", "starts without torch"),
        ("render.video", "import safetensors.torch", "weights are opened"),
        ("render.video", "torch.load('x')", "weights are opened"),
        ("render.video", "WanModel.from_pretrained('x')", "networks are loaded"),
        ("render.video", "print('x')", "only the console"),
        ("render.video", "try:\n    x\nexcept Exception:\n    pass", "has a name"),
        ("render.video", "try:\n    x\nexcept (OSError, BaseException) as error:\n    pass", "has a name"),
        ("render.video", "try:\n    x\nexcept:\n    pass", "has a name"),
        ("render.video", "\n" * 520, "two files"),
    ],
)
def test_each_rule_catches_what_breaks_it(module: str, line: str, fault: str) -> None:
    good = '"""Find a fault in a line."""\n'
    assert faults(f"avatarctl.{module}", good) == []
    found = faults(f"avatarctl.{module}", good + line)
    assert len(found) == 1 and fault in found[0]


def test_a_file_without_a_first_line_is_caught() -> None:
    assert faults("avatarctl.paths", "import os\n") == ["a file says in its first line what it is for"]
