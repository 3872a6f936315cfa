"""`avatarctl data`: prepare footage, encode clips into a cache, and check a cache."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from avatarctl import console, durable, ownership
from avatarctl.commands import complete
from avatarctl.commands import options as o
from avatarctl.commands.pages import INPUT, OUTPUT, SAMPLES
from avatarctl.commands.prepare import prepare
from avatarctl.errors import InputFileError, PartialFailure, UsageError
from avatarctl.networks import lean
from avatarctl.progress import showing

if TYPE_CHECKING:
    from avatarctl.data.check import Group, Report
    from avatarctl.data.encode import Encoded
    from avatarctl.settings.encode import EncodeJob

app = typer.Typer(help="Prepare footage, encode clips to train on, and check what was encoded.", no_args_is_help=True)
app.command()(prepare)

Source = Annotated[
    Path, typer.Argument(metavar="SOURCE", help="Folder of clips, list of clip folders (.txt), or one video.")
]
Cache = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="CACHE",
        help="Folder of encoded samples; continued if it is there.",
        rich_help_panel=OUTPUT,
    ),
]
Sizes = Annotated[
    list[str] | None,
    typer.Option(
        "--size",
        metavar="WxH",
        help="Size of samples; repeat for clips of several shapes.",
        show_default="512x512, 480x832 and 832x480",
        rich_help_panel=SAMPLES,
    ),
]
Stride = Annotated[
    int | None,
    typer.Option(
        "--stride",
        metavar="FRAMES",
        help="Frames from one sample's start to the next.",
        show_default="a window, so that none overlap",
        rich_help_panel=SAMPLES,
    ),
]
Starts = Annotated[
    Literal["even", "fixed", "random"] | None,
    typer.Option(
        "--starts",
        help="Where windows begin: even ends the last with the clip, fixed drops what is left, random shifts the first.",
        show_default="even",
        rich_help_panel=SAMPLES,
    ),
]
LatentsOf = Annotated[
    Literal["window", "clip"] | None,
    typer.Option(
        "--latents-of",
        help="What the VAE encodes: each window on its own, or a clip's pictures once, which its windows are cut out of.",
        show_default="window",
        rich_help_panel=SAMPLES,
    ),
]
WithPictures = Annotated[
    bool | None,
    typer.Option(
        "--pictures",
        help="Also encode picture files, as samples without motion or sound.",
        show_default="no",
        rich_help_panel=SAMPLES,
    ),
]
Window = Annotated[
    int | None,
    typer.Option(
        "--window",
        metavar="LATENT_FRAMES",
        help="Latent frames of a sample; 21 are 81 frames.",
        show_default="21",
        rich_help_panel=SAMPLES,
    ),
]
Fps = Annotated[
    str | None,
    typer.Option(
        "--fps",
        metavar="RATE",
        help="Frames per second of every sample.",
        show_default="each clip's own from 20 to 30, 25 for others",
        rich_help_panel=SAMPLES,
    ),
]
Short = Annotated[
    Literal["pad", "skip"] | None,
    typer.Option(
        "--short",
        help="Clips shorter than a window: pad fills them up, skip leaves them out.",
        show_default="pad",
        rich_help_panel=SAMPLES,
    ),
]
Prompt = Annotated[
    str | None,
    typer.Option(
        "--prompt",
        help="Prompt of clips without a caption.",
        show_default="by the kind of clip",
        rich_help_panel=SAMPLES,
    ),
]
StoreDtype = Annotated[
    Literal["bfloat16", "float16", "float32"] | None,
    typer.Option(
        "--store-dtype",
        help="Number format of the samples on disk.",
        show_default="bfloat16",
        rich_help_panel=OUTPUT,
    ),
]
SettingsFile = Annotated[
    str | None,
    typer.Option(
        "--preset",
        "-p",
        metavar="NAME",
        autocompletion=complete.data_presets,
        help="Settings to start from: a name of `avatarctl presets list`, or a YAML file.",
        rich_help_panel=INPUT,
    ),
]
SeparateVocals = Annotated[
    bool | None,
    typer.Option(
        "--separate-vocals/--no-separate-vocals",
        help="Take the voice out of the music first: samples hear the voice alone.",
        show_default="no",
        rich_help_panel=SAMPLES,
    ),
]
SplitAtCuts = Annotated[
    bool | None,
    typer.Option(
        "--split-at-cuts/--no-split-at-cuts",
        help="Look for cuts in clips that `data prepare` didn't make: no sample shows two shots.",
        show_default="yes",
        rich_help_panel=SAMPLES,
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Exit with 3 when a clip can't be used.", rich_help_panel=OUTPUT)
]
SHOWN = 12  # of clips that can't be used; --json lists all


@app.command()
def encode(
    source: Source,
    output: Cache,
    size: Sizes = None,
    stride: Stride = None,
    starts: Starts = None,
    window: Window = None,
    latents_of: LatentsOf = None,
    pictures: WithPictures = None,
    fps: Fps = None,
    short: Short = None,
    prompt: Prompt = None,
    separate_vocals: SeparateVocals = None,
    split_at_cuts: SplitAtCuts = None,
    store_dtype: StoreDtype = None,
    preset: SettingsFile = None,
    weights: o.Weights = None,
    device: o.Device = None,
    force: o.Force = False,
    strict: Strict = False,
    dry_run: o.DryRun = False,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
    progress: o.Progress = "auto",
) -> None:
    """Encode clips into samples to train on: what is new or changed; the same command again does the rest.

    SOURCE holds videos with sound, at any depth. Beside NAME.mp4 may stand NAME.txt, its caption, and masks of face and
    lips: folders masks/NAME.face/ and masks/NAME.lip/ with one numbered picture per frame, or videos of these names. Clip
    folders (images/ and audio.wav, or sub_clip.mp4; face_masks/ and lip_masks/) are read too; a .txt lists them. A folder
    named speech, singing or dancing above a clip chooses its prompt.

    Several processes may work on one cache at once. Ctrl-C or a kill loses one clip at most. Clips without sound are
    left out; unreadable ones are listed, and fail the command with --strict alone.

    Example: avatarctl data encode videos/ --output cache/ --size 512x512
    """
    flags = {
        "sizes": tuple(size) if size else None,
        "stride": stride,
        "window": window,
        "starts": starts,
        "latents_of": latents_of,
        "pictures": pictures,
        "fps": fps,
        "short": short,
        "prompt": prompt,
        "separate_vocals": separate_vocals,
        "split_at_cuts": split_at_cuts,
        "store_dtype": store_dtype,
    }
    console.quiet(quiet)
    ownership.check_name(output, "--output", "a folder for the samples", "--output cache")
    job = _job_of(source, output, preset, flags, weights, device, force)
    _look(job)
    if dry_run:
        _dry_run(job, as_json)
        return
    kind: Any = "none" if quiet and progress == "auto" else progress
    with console.warnings_as_notes(), showing(kind, "clips") as show:
        show(0, 0, stage="loading")
        lean.import_networks()
        from avatarctl.data.encode import encode as encode_clips

        done = encode_clips(job, show)
    _tell(done, as_json, strict)


def _look(job: EncodeJob) -> None:
    """Raise for a SOURCE, weights or a device that can't serve, before anything heavy."""
    from avatarctl.data.discover import discover
    from avatarctl.networks import devices
    from avatarctl.weights import find_weights

    discover(job.source, job.settings.pictures)
    # The transformer is the one network that samples don't depend on: any path will do for it.
    embedded = "--preset puppet --weights puppet"
    find_weights(job.weights, job.settings.sizes[0], "auto", transformer=Path(), embedded=embedded)
    devices.refuse_missing(job.device)


def _job_of(
    source: Path,
    cache: Path,
    preset: str | None,
    flags: dict[str, Any],
    weights: Path | None,
    device: str | None,
    force: bool,
) -> EncodeJob:
    from avatarctl.settings import presets
    from avatarctl.settings.check import make
    from avatarctl.settings.encode import EncodeJob, EncodeSettings

    values, places = presets.resolve(EncodeSettings.model_fields, preset, flags, kind="data")
    settings = make(EncodeSettings, values, places, example=presets.example_of(preset, "data"))
    rest = {"source": source, "cache": cache, "weights": weights, "device": device or "auto", "force": force}
    return make(EncodeJob, {**rest, "settings": settings}, {"device": "--device"})


def _dry_run(job: EncodeJob, as_json: bool) -> None:
    from avatarctl.data.encode import plan

    found = plan(job)
    _tell_passed_over(found["passed_over"])
    text = f"{found['clips']} clips: {found['to_encode']} to encode, {found['known']} known already"
    console.result("data encode", found, text, as_json, status="dry run")


def _tell_passed_over(names: list[str]) -> None:
    if names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        count = f"{len(names)} file{'s' if len(names) != 1 else ''}"
        console.note(f"passed over {count}, no clips: {', '.join(names[:SHOWN])}{more}")


def _tell(done: Encoded, as_json: bool, strict: bool) -> None:
    _tell_passed_over(done.passed_over)
    if not done.samples:
        reasons = [f"{name}: {reason}" for name, reason in [*done.failed, *done.skipped]]
        raise InputFileError(
            f"{done.cache}: got {done.clips} clips, none of them usable\n  " + "\n  ".join(reasons[:SHOWN]),
            "`avatarctl data encode --help` tells what a clip looks like",
        )
    unused = [("left out", *each) for each in done.skipped] + [("failed", *each) for each in done.failed]
    if strict and done.failed:
        raise PartialFailure(
            f"{len(done.failed)} of {done.clips} clips can't be used:\n  "
            + "\n  ".join(f"{name}: {reason}" for name, reason in done.failed),
            f"fix or remove them; to read them once more: avatarctl data check {done.cache} --repair",
        )
    for what, name, reason in unused[:SHOWN]:
        console.note(f"{what}: {name}: {reason}")
    if len(unused) > SHOWN:
        console.note(f"… and {len(unused) - SHOWN} more: --json lists them all")
    parts = [
        f"{done.encoded} clips encoded",
        f"{done.known} known",
        f"{len(done.skipped)} left out",
        f"{len(done.failed)} failed",
    ]
    for note in done.notes[:SHOWN]:
        console.note(note)
    console.note(f"{', '.join(parts)}; {done.samples} samples in {done.cache}")
    console.result("data encode", {**asdict(done), "cache": str(done.cache)}, str(done.cache), as_json)


@app.command()
def check(
    cache: Annotated[Path, typer.Argument(metavar="CACHE", help="Folder of encoded samples.")],
    contact_sheet: Annotated[
        Path | None,
        typer.Option(
            "--contact-sheet",
            metavar="FILE.jpg",
            help="Write a sheet with a picture of every sample, masks in colour.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Drop clips that are damaged or failed, so that encode reads them again.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    force: o.Force = False,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
    progress: o.Progress = "auto",
) -> None:
    """Read every sample of a cache: counts, lengths, sizes, and damaged ones, which exit with 4.

    Example: avatarctl data check cache/ --contact-sheet cache.jpg
    """
    if contact_sheet is not None and contact_sheet.suffix.lower() not in (".jpg", ".jpeg"):
        raise UsageError(
            f"{contact_sheet}: got the ending '{contact_sheet.suffix}', expected .jpg",
            f"such as --contact-sheet {shlex.quote(str(contact_sheet.with_suffix('.jpg')))}",
        )
    if contact_sheet is not None:
        ownership.check_target(contact_sheet, "--contact-sheet", [], force)
        ownership.check_can_make(durable.through(contact_sheet).parent, "--contact-sheet")
    console.quiet(quiet)
    from avatarctl.data import check as checks

    kind: Any = "none" if quiet and progress == "auto" else progress
    with showing(kind, "samples") as show:
        report = checks.check(cache, show)
    if contact_sheet is not None:
        shown = checks.contact_sheet(cache, durable.through(contact_sheet))
        console.note(f"{shown} of {report.total.samples} samples on {contact_sheet}")
    dropped = checks.repair(cache, report.damaged) if repair else []
    broken = [*report.damaged, *([] if report.null_text_whole else ["null.safetensors"])]
    if broken and not repair:
        raise InputFileError(
            f"{cache}: {len(broken)} of {report.total.samples} samples are damaged or missing: "
            + ", ".join(broken[:SHOWN]),
            f"avatarctl data check {cache} --repair, then encode again",
        )
    if repair:
        console.note(f"{len(dropped)} clips dropped; `avatarctl data encode` encodes them again")
    data = {**asdict(report), "cache": str(cache), "dropped": dropped}
    console.result("data check", data, _report_text(report), as_json)


def _report_text(report: Report) -> str:
    def row(name: str, group: Group) -> tuple[str, ...]:
        return name, str(group.samples), console.clock(group.seconds), f"{group.bytes / 1e6:.1f}"

    rows = [row(name, group) for groups in (report.buckets, report.kinds) for name, group in sorted(groups.items())]
    lines = [
        console.table(("SAMPLES", "COUNT", "LENGTH", "MB"), [*rows, row("all", report.total)]),
        "",
        "clips: " + (", ".join(f"{count} {status}" for status, count in sorted(report.clips.items())) or "none"),
        f"{report.padded} samples filled up, {report.without_masks} without masks, {len(report.damaged)} damaged",
        *([f"{report.twice} clips are there twice, under two names"] if report.twice else []),
        f"{report.disk_bytes / 1e6:.1f} MB on disk",
        *(f"note: {note}" for note in report.notes[:SHOWN]),
        *(f"{what}: {name}: {why}" for what in ("skipped", "failed") for name, why in getattr(report, what)[:SHOWN]),
    ]
    return "\n".join(lines)
