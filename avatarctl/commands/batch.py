"""`avatarctl batch`: render every recording of a folder or every item of a manifest."""

from __future__ import annotations

import shlex
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from avatarctl import console, launcher
from avatarctl.commands import complete
from avatarctl.commands import options as o
from avatarctl.commands.generate import generate
from avatarctl.commands.pages import INPUT, MACHINE, OUTPUT, RARE
from avatarctl.commands.shared import with_flags_of
from avatarctl.errors import Interrupted, PartialFailure, UsageError
from avatarctl.paths import EMBEDDED_PICTURES
from avatarctl.progress import showing

if TYPE_CHECKING:
    from avatarctl.batch.run import Batch


# Flags of `generate` that are about one video, and those that batch has in a form of its own.
ONE_VIDEO = {"audio", "work_dir", "frames", "keep", "force", "accept_changes", "show_settings", "show_crop", "for_card"}
ONE_VIDEO |= {"evaluate"}
OWN = {"image", "output", "preset", "dry_run", "as_json", "quiet", "progress"}


@with_flags_of(generate, ONE_VIDEO | OWN, after="preset")
def batch(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Folder of recordings, or a manifest (.yaml, .jsonl, .csv).")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Folder of the videos; made if it isn't there.",
            rich_help_panel=OUTPUT,
        ),
    ],
    image: Annotated[
        Path | None,
        typer.Option(
            "--image",
            "-i",
            metavar="PICTURE|FOLDER",
            autocompletion=complete.pictures,
            help="One picture for all, or a folder of pictures named like the recordings.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    name: Annotated[
        str,
        typer.Option(
            "--name",
            metavar="TEMPLATE",
            help="Names of the videos: {stem} {index} {image} {seed} {size}.",
            rich_help_panel=OUTPUT,
        ),
    ] = "{stem}",
    preset: o.Preset = None,
    jobs: Annotated[
        str,
        typer.Option(
            "--jobs", metavar="auto|N", help="Workers; auto: one per GPU, or by cores.", rich_help_panel=MACHINE
        ),
    ] = "auto",
    on: Annotated[
        str,
        typer.Option(
            "--on", metavar="local|ray://HOST:PORT", help="Where workers run.", rich_help_panel=MACHINE + RARE
        ),
    ] = "local",
    retry: Annotated[
        int,
        typer.Option(
            "--retry", min=0, help="Further tries of an item whose worker died.", rich_help_panel=MACHINE + RARE
        ),
    ] = 1,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop all, saved, when one item fails.", rich_help_panel=MACHINE)
    ] = False,
    redo: Annotated[
        bool, typer.Option("--redo", help="Render again what changed since it was made.", rich_help_panel=OUTPUT)
    ] = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Also render what is put into the folder later, until Ctrl-C.", rich_help_panel=INPUT
        ),
    ] = False,
    evaluate: Annotated[
        bool,
        typer.Option(
            "--evaluate",
            help="Measure every video at the end, as `avatarctl evaluate` does: rows in summary.json.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    dry_run: o.DryRun = False,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
    progress: o.Progress = "auto",
    **flags: Any,
) -> None:
    """Make a video for every recording of a folder, or for every item of a manifest.

    The same command again continues where it stopped: what is finished stays.

    An item of a manifest names its audio, and whatever differs from the rest: image, output, and any setting of a preset.

    Example: avatarctl batch voices/ --image me.jpg --output videos/ --preset portrait
    """
    console.quiet(quiet)
    launcher.refuse("avatarctl batch", "it starts a worker for each GPU by itself (--jobs)")
    rules = {"retry": retry, "fail_fast": fail_fast, "redo": redo}
    asked = batch_of(source, output, image, name, preset, flags, jobs, on, watch, rules, evaluate)
    if dry_run:
        _dry_run(asked, as_json)
        return
    from avatarctl.batch.run import run_batch
    from avatarctl.batch.tally import table_of

    told = not quiet and not console.events()  # each video as it was finished
    with showing("none" if quiet and progress == "auto" else progress) as show:
        try:
            summary = run_batch(asked, show)
        except (PartialFailure, Interrupted) as problem:
            if not console.events():
                console.note(table_of(problem.data, told))
            raise
    text = str(output) if quiet else table_of(summary, told) + _evaluations(summary)
    console.result("batch", summary, text, as_json)


def _evaluations(summary: dict[str, Any]) -> str:
    """Return the table of what was measured, behind an empty line."""
    rows = [row["evaluation"] for row in summary["items"] if row.get("evaluation")]
    if not rows:
        return ""
    from avatarctl.evaluation.table import table_of

    return "\n\n" + table_of(rows)


def batch_of(
    source: Path,
    output: Path,
    image: Path | None,
    name: str,
    preset: str | None,
    flags: dict[str, Any],
    jobs: str,
    on: str,
    watch: bool,
    rules: dict[str, Any],
    evaluate: bool = False,
) -> Batch:
    """Return the batch that flags, environment and preset make together; raises ``UsageError`` with every mistake of theirs."""
    from avatarctl.batch.attempts import Rules
    from avatarctl.batch.items import Base, check_name
    from avatarctl.batch.run import Batch
    from avatarctl.paths import as_spelled
    from avatarctl.settings import presets
    from avatarctl.settings.check import make
    from avatarctl.settings.names import to_fields
    from avatarctl.settings.render import AllSettings

    image = as_spelled(image) if image is not None else None
    source = as_spelled(source)
    mistakes = []
    hint = "`avatarctl batch --help` shows what each option accepts"
    if jobs != "auto" and not (jobs.isdecimal() and int(jobs) > 0):
        mistakes.append(f"--jobs: got '{jobs}', expected auto or a number of workers")
    if on != "local" and on != "ray" and not on.startswith("ray://"):
        mistakes.append(f"--on: got '{on}', expected local, ray or ray://HOST:PORT")
    if watch and on != "local":
        mistakes.append("--watch: got it with --on ray, expected --on local")
    if watch and evaluate:
        mistakes.append(
            "--evaluate: got it with --watch, expected one of them: run the batch without --watch afterwards"
        )
    if watch and "{index" in name:
        mistakes.append(
            f"--name: got '{name}' with --watch, expected no {{index}}: new files have no place in an order"
        )
    if output.exists() and not output.is_dir():
        mistakes.append(f"--output: got the file {output}, expected a folder")
    if image is not None and not image.exists() and str(image) not in EMBEDDED_PICTURES:
        near = get_close_matches(image.name, [each.name for each in image.parent.glob("*")], n=1)
        meant = shlex.quote(str(image.with_name(near[0]))) if near else ""
        mistakes.append(f"--image: got no such file or folder: {image}" + (f", did you mean {meant}?" if meant else ""))
        hint = f"--image {meant}" if meant and len(mistakes) == 1 else "check the path of --image"
    check_name(name)
    pictures = image if image is not None and image.is_dir() else None
    flags = {name: tuple(value) if isinstance(value, list) else value for name, value in flags.items()}
    given, _, _ = to_fields(flags, {}, AllSettings.model_fields)
    values, sources = presets.resolve(AllSettings.model_fields, preset, {**given, "image": None if pictures else image})
    example = presets.example_of(preset)
    make(AllSettings, values, sources, mistakes, example, hint)
    return Batch(
        source,
        Base(values, sources, output, name, example, presets.title_of(preset)),
        pictures,
        None if jobs == "auto" else int(jobs),
        on,
        Rules(**rules),
        watch,
        evaluate,
    )


def _dry_run(asked: Batch, as_json: bool) -> None:
    from avatarctl.batch.run import dry_run
    from avatarctl.batch.tally import named

    if asked.watch:
        raise UsageError("--dry-run with --watch: got both, expected one", "leave out --watch to see what is there")
    plan, problem = dry_run(asked)
    if problem is not None:
        problem.data = plan
        if as_json:
            raise problem  # its object has the plan
    rows = [
        (row["state"], row["output"], console.clock(row["video_s"]), _time(row["time_s"]), row["audio"], _remark(row))
        for row in plan["items"]
    ]
    rows += [("bad", row["output"], "", "", row["where"], row["why"]) for row in plan["bad"]]
    runs = sum(row["runs"] for row in plan["items"])
    bases = {row["time_basis"] for row in plan["items"] if row["runs"]}
    basis = f" ({min(bases)})" if len(bases) == 1 else ""
    last = f"{runs} to make with {plan['workers']} workers, time: {_time(plan['time_s'])}{basis}"
    text = console.table(("STATE", "VIDEO", "LENGTH", "TIME", "RECORDING", ""), rows)
    for note in dict.fromkeys(note for row in plan["items"] for note in (row["crop"] or {}).get("warnings", ())):
        console.note(f"warning: {note}")  # it names the picture, which many videos may share
    if plan["passed_over"]:
        console.note(f"passed over {named([Path(name) for name in plan['passed_over']])}")
    console.result("batch", plan, f"{text}\n{last}", as_json, status="dry run")
    if problem is not None:
        raise problem


def _remark(row: dict[str, Any]) -> str:
    """Return why an item is as it is, else how its picture is framed."""
    from avatarctl.render.crop import framing_in

    framing = framing_in(row)
    return row["why"] or ("" if framing is None else framing.words())


def _time(seconds: float | None) -> str:
    return "unknown" if seconds is None else console.clock(seconds)
