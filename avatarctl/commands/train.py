"""`avatarctl train` and `avatarctl lora train`: train a transformer or a LoRA."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from avatarctl import console, launcher, ownership
from avatarctl.commands import complete
from avatarctl.commands import options as o
from avatarctl.commands.pages import INPUT, MACHINE, OUTPUT, TRAINING
from avatarctl.commands.shared import parsed_settings
from avatarctl.commands.stages import one_student, refuse_of_stages
from avatarctl.errors import AvatarError, Ended, Interrupted, UsageError
from avatarctl.progress import showing

if TYPE_CHECKING:
    from avatarctl.training.plan import TrainingPlan

# A launcher ends all processes when one has failed: by then the first has told what all of them met.
PATIENCE_S = 4.0

Data = Annotated[
    list[Path],
    typer.Option(
        "--data",
        metavar="CACHE",
        help="Samples that `avatarctl data encode` made; repeat for several sizes or lengths.",
        rich_help_panel=INPUT,
    ),
]
Run = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="RUN",
        help="Run folder: checkpoints, curves, the trained weights.",
        rich_help_panel=OUTPUT,
    ),
]
PRESET_HELP = "Settings to start from: a name of `avatarctl presets list`, or a YAML file. Flags win over it."
TrainPreset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        "-p",
        metavar="NAME",
        autocompletion=complete.train_presets,
        help=PRESET_HELP,
        show_default="full-1.3b's settings",
        rich_help_panel=INPUT,
    ),
]
LoraPreset = Annotated[
    str,
    typer.Option(
        "--preset",
        "-p",
        metavar="NAME",
        autocompletion=complete.lora_presets,
        help=PRESET_HELP,
        rich_help_panel=INPUT,
    ),
]
Base = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="PATH",
        help="Folder of weights, or a transformer, to start from.",
        show_default="where `avatarctl fetch` puts them",
        rich_help_panel=INPUT,
    ),
]
InitLora = Annotated[
    Path | None,
    typer.Option(
        "--init-lora",
        metavar="PATH",
        help="LoRA file or run folder of one to start from.",
        rich_help_panel=INPUT,
    ),
]
Steps = Annotated[
    int | None,
    typer.Option("--steps", help="Training steps.", show_default="the preset's", rich_help_panel=TRAINING),
]
Rate = Annotated[
    float | None,
    typer.Option(
        "--learning-rate",
        help="How far each step changes the weights, after the warm-up.",
        show_default="the preset's",
        rich_help_panel=TRAINING,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        help="Samples computed together on each GPU.",
        show_default="the preset's",
        rich_help_panel=TRAINING,
    ),
]
Accumulate = Annotated[
    int | None,
    typer.Option(
        "--accumulate",
        help="Batches per step: steadier and slower, without more memory.",
        show_default="the preset's",
        rich_help_panel=TRAINING,
    ),
]
Rank = Annotated[
    int | None,
    typer.Option(
        "--rank",
        help="Size of the LoRA: 8 for a look, 32 for a person.",
        show_default="the preset's",
        rich_help_panel=TRAINING,
    ),
]
Distill = Annotated[
    str | None,
    typer.Option(
        "--distill",
        metavar="guidance|steps",
        help="Train a student that needs fewer passes: of guidance, or also of steps.",
        show_default="the preset's",
        rich_help_panel=TRAINING,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", help="Same seed and settings, same run.", show_default="0", rich_help_panel=TRAINING),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any other setting of the preset; repeat for several.",
        rich_help_panel=TRAINING,
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="auto|float32|bfloat16",
        help="Number format of the computation; auto: bfloat16 on a GPU.",
        show_default="auto",
        rich_help_panel=MACHINE,
    ),
]
Force = Annotated[
    bool,
    typer.Option("--force", help="Start over: what the run folder holds is removed.", rich_help_panel=OUTPUT),
]


def train(
    data: Data,
    output: Run,
    preset: TrainPreset = None,
    weights: Base = None,
    init_lora: InitLora = None,
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

    The same command again continues from the last checkpoint, to the bit. `touch RUN/save` saves now, `touch RUN/stop`
    saves and stops; so does Ctrl-C. Several GPUs or machines: accelerate launch -m avatarctl train …
    `avatarctl presets show full-1.3b` explains every setting.

    Example: avatarctl train --data cache --output run --preset full-1.3b
    """
    flags = _flags(
        settings,
        weights=weights,
        init_lora=init_lora,
        steps=steps,
        learning_rate=learning_rate,
        batch_size=batch_size,
        accumulate=accumulate,
        seed=seed,
        device=device,
        dtype=dtype,
    )
    with _one_speaks(progress) as progress:
        _run("train", data, output, preset, flags, settings or [], force, dry_run, as_json, quiet, progress)


def lora_train(
    data: Data,
    output: Run,
    preset: LoraPreset = "person-1.3b",
    weights: Base = None,
    init_lora: InitLora = None,
    distill: Distill = None,
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

    The same command again continues from the last checkpoint. The newest LoRA is RUN/lora.safetensors: use it with
    `avatarctl generate --lora RUN`, that of a step with --lora RUN@500.
    `avatarctl presets show person-1.3b` explains every setting; preset distill-1.3b trains students that render in
    few passes.

    Example: avatarctl lora train --data cache --output run --rank 32
    """
    flags = _flags(
        settings,
        weights=weights,
        init_lora=init_lora,
        steps=steps,
        learning_rate=learning_rate,
        batch_size=batch_size,
        accumulate=accumulate,
        seed=seed,
        device=device,
        dtype=dtype,
        rank=rank,
        distill=distill,
    )
    with _one_speaks(progress) as progress:
        _run("lora", data, output, preset, flags, settings or [], force, dry_run, as_json, quiet, progress)


@contextmanager
def _one_speaks(progress: Any) -> Iterator[Any]:
    """Let the first process of a launcher speak alone; what fails in another one is told where the first has not failed."""
    rank = launcher.rank()
    if not rank:
        yield progress
        return
    console.json_lines(False)
    console.quiet(True)
    try:
        yield "none"
    except Interrupted as stopped:
        raise Ended(stopped.exit_code) from stopped
    except AvatarError as error:
        time.sleep(PATIENCE_S)
        console.json_lines(progress == "json")
        error.message = f"process {rank}: {error.message}"
        raise


def _flags(settings: list[str] | None, **named: Any) -> dict[str, Any]:
    """Return what flags and ``--set`` say, by the names of settings."""
    given = {name: value for name, value in named.items() if value is not None}
    return parsed_settings(settings or [], given, "learning_rate=1e-4")


def _run(
    kind: str,
    data: list[Path],
    output: Path,
    preset: str | None,
    flags: dict[str, Any],
    set_: list[str],
    force: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    progress: Any,
) -> None:
    from avatarctl.data.shards import read_about
    from avatarctl.networks import devices
    from avatarctl.settings.check import make
    from avatarctl.settings.effects import refuse_without_effect
    from avatarctl.settings.presets import example_of, resolve
    from avatarctl.settings.train import TrainJob, TrainSettings

    console.quiet(quiet or launcher.rank() > 0)
    ownership.check_name(output, "--output", "a folder for the run", "--output run")
    values, places = resolve(TrainSettings.model_fields, preset, flags, kind)
    asked = parsed_settings(set_, {}, "")
    places |= {name: f"--set {name}" for name in asked}
    values |= {name: None for name, value in asked.items() if value is None}  # of flags, None says nothing
    if values.get("dims") is not None and places.get("weights") == "AVATARCTL_WEIGHTS":
        del values["weights"]  # where weights lie in general says nothing of this run
    values = one_student(values, flags)
    settings = make(TrainSettings, values, places, example=example_of(preset, kind))
    refuse_of_stages(settings, places)
    refuse_without_effect(settings, {name: places[name] for name in flags})
    if kind == "train" and (settings.is_student or settings.stages):
        raise UsageError("train: got distill, expected a LoRA for it", "use `avatarctl lora train`")
    if kind == "lora" and not settings.is_lora:
        raise UsageError(
            "lora train: got no group set to lora, expected one", "use `avatarctl train` for full training"
        )
    command = "lora train" if kind == "lora" else "train"
    named = Path(preset).name if preset else ""
    job = TrainJob(data=data[0], more_data=tuple(data[1:]), output=output, train=settings, preset=named)
    for cache in data:
        read_about(cache)
    if not dry_run:
        devices.refuse_missing(settings.device)
    if dry_run:
        from avatarctl.training.plan import plan

        planned = plan(job)
        console.result(command, planned.facts(), _plan_text(planned), as_json, status="dry run")
        return
    from avatarctl.training import train as run
    from avatarctl.training.log import TABLE, missing

    if lacking := missing():
        console.note(
            f"without {' and '.join(lacking)} the run draws less: its numbers are in {output / TABLE} and metrics.jsonl; "
            "to draw curves: pip install 'avatarctl[train]'"
        )
    with (
        console.warnings_as_notes(),
        showing("none" if quiet and progress == "auto" else progress, "steps") as show,
    ):
        show(0, 0, stage="loading")
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
    made = done.steps - done.steps_before
    if not made:
        further = "their own steps in a preset of yours train further" if settings.stages else "--steps trains further"
        console.note(f"{output}: all {done.steps} steps were done before, nothing to do; {further}")
    else:
        whole = f" (of {done.steps})" if done.steps_before else ""
        console.note(f"{made} steps{whole} in {console.clock(done.wall_s)}, loss {done.loss:.4f}")
    console.result(command, facts, str(done.weights), as_json)


def _plan_text(planned: TrainingPlan) -> str:
    buckets = ", ".join(f"{count} of {size}" for size, count in planned.buckets.items())
    left = f", {planned.left_out} left out that share pictures with those" if planned.left_out else ""
    rows = [
        ("samples", f"{planned.samples} to train on ({buckets}), {planned.held_out} held out{left}"),
        ("steps", f"{planned.steps}, {planned.samples_per_step} samples each: {planned.epochs:.1f} epochs"),
        ("trained", f"{planned.trained / 1e6:.1f} of {planned.parameters / 1e6:.1f} million weights"),
        *(("student", words) for words in planned.students),
        ("memory", f"{planned.memory.peak / 2**30:.1f} GiB on the device, calculated: {planned.memory.in_words()}"),
        ("time", "unknown before the first steps: it depends on the device; the run tells how long is left"),
    ]
    return console.table(("PLAN", ""), rows)
