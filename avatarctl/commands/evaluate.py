"""`avatarctl evaluate`: measure videos of a speaking person, of any tool, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from avatarctl import console, ownership
from avatarctl.commands import complete
from avatarctl.commands import options as o
from avatarctl.commands.pages import INPUT, OUTPUT
from avatarctl.errors import AvatarError, PartialFailure, QualityError
from avatarctl.progress import showing


def evaluate(
    videos: Annotated[list[Path], typer.Argument(metavar="VIDEO", help="Videos of any tool; one row for each.")],
    reference: Annotated[
        list[Path] | None,
        typer.Option(
            "--reference",
            "-r",
            metavar="PICTURE",
            autocompletion=complete.pictures,
            help="Picture of the person, one for all or one for each video; else the first second of the video.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    audio: Annotated[
        list[Path] | None,
        typer.Option(
            "--audio",
            "-a",
            metavar="RECORDING",
            autocompletion=complete.recordings,
            help="Compare lips with this instead of the video's own sound, one for all or one for each.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    window_s: Annotated[
        float | None,
        typer.Option(
            "--window-s",
            min=0.04,
            metavar="SECONDS",
            help="Windows join so often: how much more pictures change there. A kept render folder tells by itself.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    syncnet: Annotated[
        Path | None,
        typer.Option(
            "--syncnet",
            metavar="FOLDER",
            help="Also ask SyncNet (LSE-C, LSE-D): a folder with its weights, syncnet_v2.model, which aren't shipped.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            "--gate",
            metavar="KEY=VALUE",
            help="End with exit code 9 when a measure falls short, such as lips.lag_s=0.08. Several times.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FOLDER",
            help="Also write a page with curves and pictures, and the numbers as JSON.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    force: o.Force = False,
    device: o.Device = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
    progress: o.Progress = "auto",
) -> None:
    """Measure videos of a speaking person: lips against the voice, whose face it is, colour, sharpness, joints, sound.

    Works on videos of any tool. Nothing leaves this machine.

    Example: avatarctl evaluate talk.mp4 other.mp4 --reference me.jpg --report report
    """
    console.quiet(quiet)
    from avatarctl.evaluation.gate import missed, parse_bounds

    bounds = parse_bounds(gate or ())
    if report is not None:
        _check_report(report, videos, force)
    from avatarctl.evaluation.asked import Asked, check, paired
    from avatarctl.networks.devices import refuse_missing

    refuse_missing(device or "auto")
    recordings, pictures = paired(videos, audio or [], "--audio"), paired(videos, reference or [], "--reference")
    asked = [Asked(*each, None, window_s, syncnet=syncnet) for each in zip(videos, recordings, pictures, strict=True)]
    for each in asked:
        check(each)
    if syncnet is not None:
        from avatarctl.networks.syncnet import load_syncnet

        load_syncnet(syncnet)
    from avatarctl.evaluation.evaluate import evaluate as run
    from avatarctl.networks.placement import device_named

    where = str(device_named(device or "auto"))
    found, problems = [], []
    with (
        console.warnings_as_notes(),
        showing("none" if quiet and progress == "auto" else progress, "pictures") as show,
    ):
        for each in asked:
            try:
                found.append(run(each, show, where))
            except AvatarError as problem:
                if len(asked) == 1:
                    raise
                problems.append(problem)
                console.note(f"{each.video}: not measured: {problem.message}")
    for one in found:
        if bounds:
            one.row["missed"] = missed(one.row, bounds)
        row = one.row
        console.note(
            f"{row['path']}: {row['pictures']} pictures in {row['wall_s']:.1f} s, {row['pictures_per_s']:.0f} a second"
        )
        for note in one.row["notes"]:
            console.note(f"{one.row['path']}: {note}")
    data: dict[str, Any] = {"videos": [one.row for one in found]}
    if report is not None and found:
        from avatarctl.evaluation.page import write_report

        data["report"] = [str(path) for path in write_report(report, found, data)]
    from avatarctl.evaluation.table import table_of

    short = [f"{one.row['path']}: {each}" for one in found for each in one.row.get("missed", ())]
    failure: AvatarError | None = None
    if problems:
        failure = PartialFailure(
            f"{len(problems)} of {len(asked)} videos can't be measured:\n"
            + "\n".join(each.message for each in problems),
            problems[0].hint,
        )
        if len(problems) == len(asked) and len({each.exit_code for each in problems}) == 1:
            failure.exit_code = problems[0].exit_code
    elif short:
        failure = QualityError(
            f"{len(short)} bounds are missed:\n" + "\n".join(short), "see where: the same command with --report report"
        )
    if failure is not None:
        failure.data = data
        if found and not as_json:
            console.result("evaluate", data, table_of(data["videos"]), False)
        raise failure
    console.result("evaluate", data, table_of(data["videos"]), as_json)


def _check_report(report: Path, videos: list[Path], force: bool) -> None:
    """Refuse a folder whose files of these names are not a report of ours."""
    from avatarctl import durable
    from avatarctl.evaluation.names import NUMBERS, PAGE

    ownership.check_name(report, "--report", "a folder for the report", "--report report")
    ownership.check_can_make(report, "--report")
    ours = "videos" in (durable.read_json(report / NUMBERS) or {})
    for name in (PAGE, NUMBERS):
        inputs = [("a video", video) for video in videos]
        ownership.check_target(report / name, "--report", inputs, force, named=report, ours=ours)
