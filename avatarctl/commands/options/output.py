"""Options of the panel Output."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from avatarctl.commands.pages import INPUT, OUTPUT, RARE

Output = Annotated[
    Path,
    typer.Option(
        "--output", "-o", metavar="VIDEO", help="Video to write: .mp4, .mov, .mkv or .webm.", rich_help_panel=OUTPUT
    ),
]
NamedOutput = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="VIDEO",
        help="Video to write: .mp4, .mov, .mkv or .webm.",
        show_default="the recording's name, here",
        rich_help_panel=OUTPUT,
    ),
]
Subtitles = Annotated[
    list[str] | None,
    typer.Option(
        "--subtitles",
        metavar="LANGUAGE:FILE",
        help="Subtitles to switch on, such as de:talk.srt (SRT, VTT); may be given again.",
        rich_help_panel=INPUT,
    ),
]
Metadata = Annotated[
    bool | None,
    typer.Option(
        "--metadata/--no-metadata",
        help="Write into the video how it was made.",
        show_default="yes",
        rich_help_panel=OUTPUT + RARE,
    ),
]
MarkSynthetic = Annotated[
    bool | None,
    typer.Option(
        "--mark-synthetic/--no-mark-synthetic",
        help="Mark the video as made by a machine (XMP).",
        show_default="yes",
        rich_help_panel=OUTPUT + RARE,
    ),
]
Crf = Annotated[
    int | None,
    typer.Option(
        "--crf",
        help="Quality of the encoding, 0 to 51: lower is better and larger.",
        show_default="18; vp9, av1: 24",
        rich_help_panel=OUTPUT,
    ),
]
Codec = Annotated[
    Literal["auto", "h264", "hevc", "prores", "vp9", "av1"] | None,
    typer.Option(
        "--codec",
        help="Pictures; auto: vp9 in .webm, else h264. prores is for .mov, av1 not for .mov.",
        show_default="auto",
        rich_help_panel=OUTPUT,
    ),
]
ContactSheet = Annotated[
    str | None,
    typer.Option(
        "--contact-sheet",
        metavar="TIME",
        help="Also write one image with a picture of the video every so often, such as 5s.",
        rich_help_panel=OUTPUT,
    ),
]
Frames = Annotated[
    Path | None,
    typer.Option(
        "--frames", metavar="FOLDER", help="Also write every picture as PNG into this folder.", rich_help_panel=OUTPUT
    ),
]
ShowCrop = Annotated[
    Path | None,
    typer.Option(
        "--show-crop",
        metavar="FILE",
        help="Write the picture as the video will frame it into this PNG, and make no video.",
        rich_help_panel=OUTPUT,
    ),
]
WorkDir = Annotated[
    Path | None,
    typer.Option(
        "--work-dir",
        metavar="FOLDER",
        help="Render folder, where unfinished work is saved.",
        show_default="VIDEO.render",
        rich_help_panel=OUTPUT + RARE,
    ),
]
Keep = Annotated[
    bool, typer.Option("--keep", help="Keep the render folder when the video is done.", rich_help_panel=OUTPUT)
]
AcceptChanges = Annotated[
    bool,
    typer.Option(
        "--accept-changes",
        help="Resume even where dtype, attention or the like differ.",
        rich_help_panel=OUTPUT + RARE,
    ),
]
Evaluate = Annotated[
    bool,
    typer.Option(
        "--evaluate",
        help="Measure the video when it is done, as `avatarctl evaluate` does.",
        rich_help_panel=OUTPUT,
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.", rich_help_panel=OUTPUT)]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Check everything and tell what would be done; do nothing.", rich_help_panel=OUTPUT),
]
ForCard = Annotated[
    str | None,
    typer.Option(
        "--for",
        metavar="GPU",
        help="With --dry-run: time and memory on another GPU, such as 4090.",
        show_default="this machine",
        rich_help_panel=OUTPUT,
    ),
]
ShowSettings = Annotated[
    bool,
    typer.Option(
        "--show-settings",
        help="Show every setting with where its value comes from; do nothing.",
        rich_help_panel=OUTPUT,
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Write the result as one JSON object to stdout.", rich_help_panel=OUTPUT)
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Write nothing but the result and errors.", rich_help_panel=OUTPUT)
]
Progress = Annotated[
    Literal["auto", "json", "none"],
    typer.Option("--progress", help="A bar or lines, JSON lines, or nothing.", rich_help_panel=OUTPUT),
]
