"""Options of the panel Input."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from avatarctl.commands import complete
from avatarctl.commands.pages import INPUT

Image = Annotated[
    Path | None,
    typer.Option(
        "--image",
        "-i",
        metavar="PICTURE",
        autocompletion=complete.pictures,
        help="Picture of the person.",
        show_default="the preset's, if it names one",
        rich_help_panel=INPUT,
    ),
]
Audio = Annotated[
    Path,
    typer.Option(
        "--audio",
        "-a",
        metavar="RECORDING",
        autocompletion=complete.recordings,
        help="Recording of the voice: any length, any common audio format, or a video with sound.",
        rich_help_panel=INPUT,
    ),
]
Start = Annotated[
    str | None,
    typer.Option(
        "--start",
        metavar="TIME",
        help="Where in the recording to begin: 90, 1:30 or 1:02:03.5.",
        show_default="0",
        rich_help_panel=INPUT,
    ),
]
Duration = Annotated[
    str | None,
    typer.Option(
        "--duration",
        metavar="TIME",
        help="How much of the recording to use.",
        show_default="all",
        rich_help_panel=INPUT,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        "-p",
        metavar="NAME",
        autocompletion=complete.render_presets,
        help="Settings to start from: a name of `avatarctl presets list`, or a YAML file. Flags win over it.",
        rich_help_panel=INPUT,
    ),
]
PresetName = Annotated[
    str,
    typer.Argument(metavar="NAME", autocompletion=complete.render_presets, help="Preset by name, or a YAML file."),
]
