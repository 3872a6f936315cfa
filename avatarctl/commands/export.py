"""`avatarctl export` and `avatarctl lora export`: write what a run had trained at a step as a file to use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from avatarctl import console, durable, ownership
from avatarctl.commands.options import AsJson, Force
from avatarctl.errors import InputFileError, UsageError
from avatarctl.networks import lean

RunStep = Annotated[
    Path, typer.Argument(metavar="RUN[@STEP]", help="Run folder, or with a step: run@500. Without: the newest.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="File to write (.safetensors).")]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    typer.Option("--dtype", help="Number format of the file; auto: the run's own (export_dtype)."),
]


def lora_export(
    run: RunStep,
    output: Output,
    dtype: Dtype = "auto",
    to: Annotated[
        Literal["diffusers", "released", "kohya", "comfy"] | None,
        typer.Option("--to", help="Whose names; without: the run's own (lora_format)."),
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write the LoRA of a run, from its newest checkpoint or that of a step. The run may be training meanwhile.

    Example: avatarctl lora export run@500 --output person-500.safetensors
    """
    _export("lora export", run, output, True, dtype, to, force, as_json)


def export(
    run: RunStep,
    output: Output,
    dtype: Dtype = "auto",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write the transformer of a full training run, from its newest checkpoint or that of a step.

    Example: avatarctl export run@500 --output mine/transformer.safetensors
    """
    _export("export", run, output, False, dtype, None, force, as_json)


def _export(
    command: str, named: Path, output: Path, lora: bool, dtype: str, form: Any, force: bool, as_json: bool
) -> None:
    from avatarctl.settings.values import split_run

    run, step = split_run(named)
    if not run.is_dir():
        raise InputFileError(
            f"{run}: got no such folder, expected a run", "name the --output that `avatarctl train` was given"
        )
    ownership.check_name(output, "--output", "the name of a file", f"--output {named.name}.safetensors")
    if output.suffix != ".safetensors":
        raise UsageError(
            f"--output: got {output}, expected a file that ends in .safetensors",
            f"such as --output {output.with_suffix('.safetensors')}",
        )
    files = [("a file of the run", each) for each in run.rglob("*") if each.is_file()]
    ownership.check_target(output, "--output", files, force)
    ownership.check_can_make(durable.through(output).parent, "--output")
    lean.import_networks()
    from avatarctl.training.export import export_run

    done = export_run(run, step, durable.through(output), lora, dtype, form)
    data = {"path": str(output), "run": str(run), "step": done}
    console.note(f"step {done} of {run}")
    console.result(command, data, str(output), as_json)
