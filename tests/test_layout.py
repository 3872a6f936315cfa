"""Takes the source, shows that it keeps the house rules: imports go down only, and some things happen in one place."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "avatarctl"
FILES = sorted(ROOT.rglob("*.py"))
# Lower numbers may be imported from higher ones.
LAYERS = {
    "ground": 0,
    "networks": 1,
    "audio": 1,
    "sampling": 2,
    "data": 3,
    "render": 4,
    "training": 4,
    "evaluation": 4,
    "puppet": 4,
    "commands": 5,
    "cli": 6,
    "__main__": 7,
}


def place(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in LAYERS else "ground"


def module_of(path: Path) -> str:
    return ".".join(("avatarctl", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            if node.module == "avatarctl":
                found |= {f"avatarctl.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_file_keeps_the_rules(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    module, where = module_of(path), place(module_of(path))
    assert source.startswith('"""Takes '), "a file says in its first line what it takes and gives"
    for name in imports(path):
        if name.startswith("avatarctl."):
            assert LAYERS[place(name)] <= LAYERS[where], f"{module} imports {name} from above"
        root = name.split(".")[0]
        assert root != "typer" or where in ("cli", "commands"), f"{module}: typer belongs to the command line"
        assert root != "rich" or module == "avatarctl.console", f"{module}: rich belongs to the console"
        assert root != "click", f"{module}: typer carries its own click"
        if root == "safetensors":
            assert module in (
                "avatarctl.networks.weight_files",
                "avatarctl.networks.checkpoints",
                "avatarctl.render.folder",
            )
    if where in ("ground", "cli", "commands"):
        heavy = {"torch", "numpy", "transformers", "diffusers", "accelerate", "peft", "pydub", "rich"}
        assert not {name.split(".")[0] for name in imports(path, top_level_only=True)} & heavy
    if module != "avatarctl.networks.weight_files":
        assert not re.search(r"\btorch\.load\(", source), "weights are opened in one file"
    if module != "avatarctl.networks.checkpoints":
        assert ".from_pretrained(" not in source
    assert not re.search(r"(?<!\w)print\(", source), "only the console writes"
    if module != "avatarctl.cli":
        assert not re.search(r"except( Exception| BaseException)?( as \w+)?:", source)
    assert len(source.splitlines()) <= 520, "a file this long is two files"
