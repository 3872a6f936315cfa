"""`avatarctl train` and `avatarctl lora train`: train a transformer or a LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from avatarctl import console
from avatarctl.commands import options as o
from avatarctl.errors import UsageError

if TYPE_CHECKING:
    from avatarctl.training.plan import TrainingPlan


def _train_presets(incomplete: str) -> list[str]:
    from avatarctl.settings.presets import names

    return [name for name in names("train") if name.startswith(incomplete)]


def _lora_presets(incomplete: str) -> list[str]:
    from avatarctl.settings.presets import names

    return [name for name in names("lora") if name.startswith(incomplete)]


Data = Annotated[Path, typer.Option("--data", help="Cache of samples that `avatarctl data encode` made.")]
Run = Annotated[Path, typer.Option("--output", "-o", help="Run folder: checkpoints, curves, the trained weights.")]
TrainPreset = Annotated[
    str | None, typer.Option("--preset", "-p", autocompletion=_train_presets, help="Preset by name, or a YAML file.")
]
LoraPreset = Annotated[
    str, typer.Option("--preset", "-p", autocompletion=_lora_presets, help="Preset by name, or a YAML file.")
]
Base = Annotated[Path | None, typer.Option("--weights", help="Folder of weights, or a transformer, to start from.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Optimizer steps.")]
Rate = Annotated[float | None, typer.Option("--learning-rate", help="Learning rate after the warm-up.")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", help="Samples per process and pass.")]
Accumulate = Annotated[int | None, typer.Option("--accumulate", help="Passes per optimizer step.")]
Rank = Annotated[int | None, typer.Option("--rank", help="Rank of the LoRA.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Where every draw comes from.")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="What passes compute in: auto, float32 or bfloat16.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any other setting of the preset; can be given several times."),
]
Force = Annotated[bool, typer.Option("--force", help="Begin anew: what the run folder holds is removed.")]


def train(
    data: Data,
    output: Run,
    preset: TrainPreset = None,
    weights: Base = None,
    steps: Steps = None,
    learning_rate: Rate = None,
    batch_size: BatchSize = None,
    accumulate: Accumulate = None,
    seed: Seed = None,
    device: o.Device = None,
    dtype: Dtype = None,
    settings: Set = None,
    force: Force = False,
    dry_run: o.DryRun = False,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
    progress: o.Progress = "auto",
) -> None:
    """Train the transformer on encoded clips.

    The same command again goes on from the last checkpoint, to the bit. `touch RUN/save` saves now, `touch RUN/stop` saves
    and stops; so does Ctrl-C. Several GPUs or machines: accelerate launch -m avatarctl train …

    Example: avatarctl train --data cache --output run --preset full-1.3b
    """
    flags = _flags(weights, steps, learning_rate, batch_size, accumulate, seed, device, dtype, settings)
    _run("train", data, output, preset, flags, force, dry_run, as_json, quiet, progress)


def lora_train(
    data: Data,
    output: Run,
    preset: LoraPreset = "person-1.3b",
    weights: Base = None,
    steps: Steps = None,
    learning_rate: Rate = None,
    batch_size: BatchSize = None,
    accumulate: Accumulate = None,
    rank: Rank = None,
    seed: Seed = None,
    device: o.Device = None,
    dtype: Dtype = None,
    settings: Set = None,
    force: Force = False,
    dry_run: o.DryRun = False,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
    progress: o.Progress = "auto",
) -> None:
    """Train a LoRA for a person or a look, on one workstation card.

    The same command again goes on from the last checkpoint. The LoRA is RUN/lora.safetensors: generate --lora takes it.

    Example: avatarctl lora train --data cache --output run --rank 32
    """
    flags = _flags(weights, steps, learning_rate, batch_size, accumulate, seed, device, dtype, settings, rank)
    _run("lora", data, output, preset, flags, force, dry_run, as_json, quiet, progress)


def _flags(
    weights: Path | None,
    steps: int | None,
    learning_rate: float | None,
    batch_size: int | None,
    accumulate: int | None,
    seed: int | None,
    device: str | None,
    dtype: str | None,
    settings: list[str] | None,
    rank: int | None = None,
) -> dict[str, Any]:
    named = {
        "weights": weights,
        "steps": steps,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "seed": seed,
        "device": device,
        "dtype": dtype,
        "rank": rank,
    }
    given = {name: value for name, value in named.items() if value is not None}
    parsed = _parsed(settings or [])
    if twice := sorted(set(given) & set(parsed)):
        flag = f"--{twice[0].replace('_', '-')}"
        raise UsageError(f"--set: got {twice[0]}, which {flag} says too, expected one of them", f"leave out {flag}")
    return {**parsed, **given}


def _parsed(settings: list[str]) -> dict[str, Any]:
    """Return NAME=VALUE pairs as values; a value is read as in a preset."""
    import yaml

    values: dict[str, Any] = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"--set: got '{text}', expected NAME=VALUE", "such as --set learning_rate=1e-4")
        try:
            values[name.strip().replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(
                f"--set: got '{text}', expected a value as in a preset", "such as --set betas=[0.9,0.99]"
            ) from error
    return values


def _run(
    kind: str,
    data: Path,
    output: Path,
    preset: str | None,
    flags: dict[str, Any],
    force: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    progress: Any,
) -> None:
    from avatarctl.data.shards import read_about
    from avatarctl.settings.check import make
    from avatarctl.settings.presets import resolve
    from avatarctl.settings.train import TrainJob, TrainSettings

    console.quiet(quiet)
    values, places = resolve(TrainSettings.model_fields, preset, flags, kind)
    settings = make(TrainSettings, values, places)
    if kind == "lora" and not settings.is_lora:
        raise UsageError(
            "lora train: got no group set to lora, expected one", "use `avatarctl train` for full training"
        )
    command = "lora train" if kind == "lora" else "train"
    job = TrainJob(data=data, output=output, train=settings)
    read_about(data)
    if dry_run:
        from avatarctl.training.plan import plan

        planned = plan(job)
        console.result(command, planned.facts(), _plan_text(planned), as_json, status="dry run")
        return
    from avatarctl.training import train as run

    with (
        console.warnings_as_notes(),
        console.progress("none" if quiet and progress == "auto" else progress, "steps") as show,
    ):
        done = run(job, show, force)
    if done is None:
        return  # process 0 of the launcher tells
    facts = {
        "run": str(done.run),
        "weights": str(done.weights),
        "steps": done.steps,
        "loss": round(done.loss, 6),
        "wall_s": round(done.wall_s, 3),
    }
    console.note(f"{done.steps} steps in {console.clock(done.wall_s)}, loss {done.loss:.4f}")
    console.result(command, facts, str(done.weights), as_json)


def _plan_text(planned: TrainingPlan) -> str:
    buckets = ", ".join(f"{count} of {size}" for size, count in planned.buckets.items())
    rows = [
        ("samples", f"{planned.samples} to train on ({buckets}), {planned.held_out} held out"),
        ("steps", f"{planned.steps}, {planned.samples_per_step} samples each: {planned.epochs:.1f} epochs"),
        ("trained", f"{planned.trained / 1e6:.1f} of {planned.parameters / 1e6:.1f} million weights"),
        ("memory", f"{planned.memory.peak / 2**30:.1f} GiB on the device, calculated: {planned.memory.in_words()}"),
    ]
    return console.table(("PLAN", ""), rows)
