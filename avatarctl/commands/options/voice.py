"""Options of the panel Voice."""

from __future__ import annotations

from typing import Annotated

import typer

from avatarctl.commands.pages import RARE, VOICE

AudioScale = Annotated[
    float | None,
    typer.Option(
        "--audio-scale",
        help="How strongly lips follow the voice: 3 is calm, 7 exaggerates.",
        show_default="5.0",
        rich_help_panel=VOICE,
    ),
]
SeparateVocals = Annotated[
    bool | None,
    typer.Option(
        "--separate-vocals/--no-separate-vocals",
        help="For songs: lips follow the voice alone, without the music.",
        show_default="no",
        rich_help_panel=VOICE,
    ),
]
AudioTrack = Annotated[
    int | None,
    typer.Option(
        "--audio-track",
        metavar="N",
        help="Sound track of a recording that has several: 1 is the first.",
        show_default="the default one",
        rich_help_panel=VOICE + RARE,
    ),
]
TrimSilence = Annotated[
    bool | None,
    typer.Option(
        "--trim-silence/--no-trim-silence",
        help="Leave out silence at both ends of the recording.",
        show_default="no",
        rich_help_panel=VOICE,
    ),
]
Loudness = Annotated[
    float | None,
    typer.Option(
        "--loudness",
        metavar="DBFS",
        help="Level of the sound in the video, such as -20.",
        show_default="as recorded",
        rich_help_panel=VOICE,
    ),
]
WithAudio = Annotated[
    bool | None,
    typer.Option(
        "--with-audio/--no-audio",
        help="Put the recording into the video, or make a silent one.",
        show_default="with audio",
        rich_help_panel=VOICE,
    ),
]
