"""`avatarctl data prepare`: turn raw footage into clips to train on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from avatarctl import console, ownership
from avatarctl.commands import complete
from avatarctl.commands import options as o
from avatarctl.commands.pages import INPUT, OUTPUT, SAMPLES
from avatarctl.commands.shared import parsed_settings
from avatarctl.errors import InputFileError, PartialFailure
from avatarctl.networks import lean
from avatarctl.progress import showing

if TYPE_CHECKING:
    from avatarctl.data.prepare.run import Prepared

Raw = Annotated[
    list[Path], typer.Argument(metavar="RAW", help="Folders of footage, at any depth, or single videos with sound.")
]
Clips = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="CLIPS",
        help="Folder of clips, masks and captions; continued if it is there.",
        rich_help_panel=OUTPUT,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        "-p",
        metavar="NAME",
        autocompletion=complete.prepare_presets,
        help="Thresholds to start from: a name of `avatarctl presets list`, or a YAML file.",
        show_default="talking-head's",
        rich_help_panel=INPUT,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any setting of the preset; repeat for several.",
        rich_help_panel=SAMPLES,
    ),
]
Separate = Annotated[
    bool | None,
    typer.Option(
        "--separate-vocals/--no-separate-vocals",
        help="Take the voice out of the music first; clips then hold the voice alone.",
        show_default="no",
        rich_help_panel=SAMPLES,
    ),
]
CaptionCommand = Annotated[
    str | None,
    typer.Option(
        "--caption-command",
        metavar="COMMAND",
        help="Program that is called with the path of each clip and writes its caption.",
        rich_help_panel=SAMPLES,
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Look at everything and score it, write no clips.", rich_help_panel=OUTPUT)
]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 3 when a file is damaged.", rich_help_panel=OUTPUT)]
SHOWN = 12


def prepare(
    raw: Raw,
    output: Clips,
    preset: Preset = None,
    settings: Set = None,
    separate_vocals: Separate = None,
    caption_command: CaptionCommand = None,
    weights: o.Weights = None,
    device: o.Device = None,
    dry_run: DryRun = False,
    force: o.Force = False,
    strict: Strict = False,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
    progress: o.Progress = "auto",
) -> None:
    """Turn raw footage into clips of one person speaking, with masks, in step with their sound, as `data encode` reads them.

    Cuts are found, faces followed, and kept is who speaks, sharp and large enough, alone or told from others by the lips;
    the sound is moved where it is a little late or early. CLIPS/prepare.jsonl has every candidate with its scores and why it
    was dropped, summary.json the sums, contact-sheet.jpg a picture of each.

    Several processes may work on one folder at once. Ctrl-C or a kill loses one file at most; the same command again does
    what is new. A text beside the footage (NAME.txt) is the caption of its clips.

    Example: avatarctl data prepare footage/ --output clips/
    """
    console.quiet(quiet)
    ownership.check_name(output, "--output", "a folder for the clips", "--output clips")
    for place in raw:
        ownership.check_apart(output, "--output", place, "RAW")
    from avatarctl.networks import devices
    from avatarctl.settings import presets
    from avatarctl.settings.check import make
    from avatarctl.settings.prepare import PrepareJob, PrepareSettings

    named = {"separate_vocals": separate_vocals, "caption_command": caption_command}
    given = parsed_settings(settings or [], named, "min_face_px=64")
    values, places = presets.resolve(PrepareSettings.model_fields, preset, given, kind="prepare")
    places |= {name: f"--set {name}" for name in given if named.get(name) is None}
    made = make(PrepareSettings, values, places, example=presets.example_of(preset, "prepare"))
    rest = {"raw": tuple(raw), "clips": output, "weights": weights, "device": device or "auto"}
    job = make(PrepareJob, {**rest, "settings": made, "force": force, "dry_run": dry_run}, {"device": "--device"})
    devices.refuse_missing(job.device)
    kind: Any = "none" if quiet and progress == "auto" else progress
    with console.warnings_as_notes(), showing(kind, "files") as show:
        show(0, 0, stage="loading")
        lean.import_networks()
        from avatarctl.data.prepare.run import prepare as run

        done = run(job, show)
    _tell(done, dry_run, as_json, strict)


def _tell(done: Prepared, dry_run: bool, as_json: bool, strict: bool) -> None:
    from avatarctl.data.prepare.report import shown

    summary = done.summary
    if done.passed_over:
        more = f" and {len(done.passed_over) - SHOWN} more" if len(done.passed_over) > SHOWN else ""
        count = f"{len(done.passed_over)} file{'s' if len(done.passed_over) != 1 else ''}"
        console.note(f"passed over {count}, no videos: {', '.join(done.passed_over[:SHOWN])}{more}")
    for note in summary.notes[:SHOWN]:
        console.note(note)
    for name, why in summary.damaged[:SHOWN]:
        console.note(f"damaged: {name}: {why}")
    data = {
        **{name: value for name, value in vars(summary).items() if name != "notes"},
        "clips": str(done.clips),
        "new": done.new,
        "known": done.known,
        "rows": done.rows,
        "wall_s": round(done.wall_s, 3),
    }
    error: InputFileError | PartialFailure | None = None
    if not summary.kept and not dry_run:
        reasons = [f"{row['source']}: {row['detail'] or row['reason']}" for row in done.rows if not row["kept"]]
        error = InputFileError(
            f"{done.clips}: {summary.in_words()}\n  " + "\n  ".join(reasons[:SHOWN]),
            f"{done.clips / 'prepare.jsonl'} has every candidate with its scores; thresholds are settings: "
            "`avatarctl presets show talking-head --long`",
        )
    elif strict and summary.damaged:
        error = PartialFailure(
            f"{len(summary.damaged)} of {summary.files} files are damaged:\n  "
            + "\n  ".join(f"{name}: {why}" for name, why in summary.damaged[:SHOWN]),
            "fix or remove them, then run the same command again",
        )
    if error is not None:
        error.data = data
        raise error
    if not as_json:
        console.note(shown(summary))
    status = {"status": "dry run"} if dry_run else {}
    console.result("data prepare", data, str(done.clips), as_json, **status)
