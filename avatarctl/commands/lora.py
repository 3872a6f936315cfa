"""`avatarctl lora`: describe, merge and convert LoRA files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from avatarctl import console, durable, ownership
from avatarctl.commands.options import AsJson, Force
from avatarctl.errors import InputFileError, UsageError, WeightsError, some
from avatarctl.networks import lean
from avatarctl.networks.header import damage
from avatarctl.ownership import Inputs

app = typer.Typer(help="Train, look at, merge and convert LoRA files.", no_args_is_help=True)
LoraFile = Annotated[Path, typer.Argument(metavar="FILE", help="LoRA file.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="File to write (.safetensors).")]


@app.command()
def info(file: LoraFile, as_json: AsJson = False) -> None:
    """Show whose names a LoRA has, its ranks and alphas, the layers it changes, and which transformer it was made for.

    Example: avatarctl lora info style.safetensors
    """
    from avatarctl.settings.values import lora_file

    file = lora_file(file)
    _check_there(file)
    lean.import_networks()
    from avatarctl.networks.adapters import describe_lora
    from avatarctl.networks.header import DIVERGED, not_finite_text

    facts = describe_lora(file)
    if facts["not_finite"]:
        if not as_json:
            console.result("lora info", facts, _text(facts), as_json)
        broken = WeightsError(not_finite_text(str(file), facts["not_finite"]), DIVERGED)
        broken.data = facts
        raise broken
    console.result("lora info", facts, _text(facts), as_json)


@app.command()
def merge(
    loras: Annotated[list[str], typer.Argument(metavar="FILE[:SCALE]", help="LoRA files with their strengths.")],
    output: Output,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Folder of weights, or a transformer, to merge into.")
    ] = None,
    variant: Annotated[
        Literal["square", "rec-vec", "wan2.1-fun-1.3b", "wan2.1-i2v-14b"],
        typer.Option(
            "--variant",
            metavar="NAME",
            help="Released transformer to merge into: square, rec-vec, wan2.1-fun-1.3b or wan2.1-i2v-14b.",
        ),
    ] = "square",
    dtype: Annotated[
        Literal["same", "float32", "bfloat16", "float16"],
        typer.Option("--dtype", help="Number format of the file; same: that of the weights."),
    ] = "same",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write a transformer with LoRAs merged in, under the released names: other programs load it as the released one.

    As transformer.safetensors in a folder of weights, `avatarctl generate --weights` takes it.

    Example: avatarctl lora merge person.safetensors style.safetensors:0.6 --output mine/transformer.safetensors
    """
    from avatarctl.settings.student import flags_of, student_of
    from avatarctl.settings.values import lora_file, parse_lora
    from avatarctl.weights import find_transformer

    try:
        parsed = [(lora_file(Path(file)), scale) for file, scale in map(parse_lora, loras)]
    except ValueError as error:
        raise UsageError(f"FILE: {error}", "avatarctl lora merge FILE:0.8 …") from error
    for file, _ in parsed:
        _check_there(file)
    base = weights if weights is not None and weights.is_file() else find_transformer(weights, variant)
    _check_free(
        output, force, [("the weights to merge into", base), *(("one of the LoRAs", file) for file, _ in parsed)]
    )
    lean.import_networks()
    from avatarctl.networks.adapters import merge_into
    from avatarctl.networks.header import WEIGHTS_HINT, refuse_damaged, refuse_damaged_lora

    refuse_damaged(base, "a transformer", WEIGHTS_HINT)
    for file, _ in parsed:
        refuse_damaged_lora(file)
    layers = merge_into(base, parsed, durable.through(output), dtype)
    data = {
        "path": str(output),
        "weights": str(base),
        "layers": layers,
        "loras": [{"path": str(file), "scale": scale} for file, scale in parsed],
    }
    console.note(f"{layers} layers of {base} changed")
    for file, _ in parsed:
        if (student := student_of(file)) is not None:
            console.note(
                f"{file.name} was distilled, and merged weights can't say how they are rendered: {flags_of(student)}"
            )
    console.result("lora merge", data, str(output), as_json)


@app.command()
def convert(
    file: LoraFile,
    to: Annotated[
        Literal["diffusers", "released", "kohya", "comfy"],
        typer.Option("--to", help="Whose names: diffusers, StableAvatar's trainer, Kohya and musubi, or ComfyUI."),
    ],
    output: Output,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write a LoRA under another program's names. The numbers stay as they are; no other weights are needed.

    Example: avatarctl lora convert person.safetensors --to comfy --output person-comfy.safetensors
    """
    from avatarctl.settings.values import lora_file

    file = lora_file(file)
    _check_there(file)
    _check_free(output, force, [("the LoRA to convert", file)])
    lean.import_networks()
    from avatarctl.networks.lora_formats import convert_lora

    form, low_rank, whole = convert_lora(file, to, durable.through(output))
    data = {"path": str(output), "from": form, "to": to, "low_rank": low_rank, "whole": whole}
    console.note(f"{low_rank + whole} changes, from {form} to {to}")
    if whole and to != "comfy":
        console.note(f"{whole} of them are whole (.diff): avatarctl and ComfyUI apply those, few others do")
    console.result("lora convert", data, str(output), as_json)


def _check_there(file: Path) -> None:
    from avatarctl.settings.values import other_steps

    if file.is_dir():
        raise InputFileError(
            f"{file}: got a folder without lora.safetensors, expected a LoRA file or a run of `avatarctl lora train`",
            "name a .safetensors file",
        )
    if not file.is_file():
        raise InputFileError(
            f"{file}: got no such file, expected a LoRA",
            other_steps(file) or "check the path; its strength follows a colon: FILE:0.8",
        )
    if fault := damage(file):
        raise WeightsError(f"{file}: damaged: {fault}", "get the file again from where it comes")


def _check_free(output: Path, force: bool, inputs: Inputs) -> None:
    ownership.check_name(output, "--output", "the name of a file", "--output lora.safetensors")
    if output.suffix != ".safetensors":
        raise UsageError(
            f"--output: got {output}, expected a file that ends in .safetensors",
            f"such as --output {output.with_suffix('.safetensors')}",
        )
    if output.is_dir():
        raise UsageError(
            f"--output: got the folder {output}, expected a file", f"such as --output {output / 'lora.safetensors'}"
        )
    # A folder of weights in pieces is an input with all its files.
    files = [(what, each) for what, path in inputs for each in (path.rglob("*") if path.is_dir() else [path])]
    ownership.check_target(output, "--output", files, force)
    ownership.check_can_make(durable.through(output).parent, "--output")


def _text(facts: dict[str, Any]) -> str:
    from avatarctl.settings.student import in_words, student_of

    def listed(counts: dict[str, int]) -> str:
        return ", ".join(counts) if len(counts) == 1 else ", ".join(f"{v} ({n} times)" for v, n in counts.items())

    layers = [
        (
            group,
            ", ".join(f"{n} {what}" for what, n in (("low rank", counts["low_rank"]), ("whole", counts["whole"])) if n),
        )
        for group, counts in facts["layers"].items()
        if any(counts.values())
    ]
    rows = [
        ("names of", facts["form"]),
        ("made for", facts["made_for"]),
        ("changes", ", ".join(f"{count} {kind}" for kind, count in facts["kinds"].items())),
        ("rank", listed(facts["ranks"]) or "none"),
        ("alpha", listed(facts["alphas"]) or "none"),
        *layers,
        (
            "numbers",
            f"{facts['parameters'] / 1e6:.1f} million, {listed(facts['dtypes'])}, {facts['bytes'] / 1e6:.1f} MB",
        ),
    ]
    if facts["not_finite"]:
        rows.append(("not finite", some(facts["not_finite"])))
    if facts["unknown"]:
        rows.append(("fit nothing", some(facts["unknown"])))
    if student := student_of(Path(facts["path"])):
        rows.append(("distilled", in_words(Path(facts["path"]), student).partition(": ")[2]))
    rows += [(name, text if len(text) <= 80 else text[:79] + "…") for name, text in facts["metadata"].items()]
    return console.table(("LORA", facts["path"]), rows)
