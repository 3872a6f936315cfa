"""Options of the panel Look."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from avatarctl.commands import complete
from avatarctl.commands.pages import LOOK, RARE

Prompt = Annotated[
    str | None,
    typer.Option("--prompt", help="What happens in the video: who speaks, where, how.", rich_help_panel=LOOK),
]
NegativePrompt = Annotated[
    str | None,
    typer.Option(
        "--negative-prompt",
        help="What the video is led away from.",
        rich_help_panel=LOOK + RARE,
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        "--size",
        "--resolution",
        metavar="WxH",
        help="Width and height of the video in pixels, each divisible by 16.",
        show_default="512x512",
        rich_help_panel=LOOK,
    ),
]
Fit = Annotated[
    Literal["face", "cover", "pad"] | None,
    typer.Option(
        "--fit",
        help="Part of the picture: around the face, cover: the middle, pad: all of it between bars.",
        show_default="face",
        rich_help_panel=LOOK,
    ),
]
Face = Annotated[
    int | None,
    typer.Option(
        "--face",
        metavar="N",
        help="Face to frame where there are several: 1 is the leftmost.",
        show_default="the largest",
        rich_help_panel=LOOK,
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps",
        help="Denoising steps: more are slower and finer; under 20, fine detail is lost.",
        show_default="50",
        rich_help_panel=LOOK,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        help="Same seed and settings, same video; another seed, another take.",
        show_default="0",
        rich_help_panel=LOOK,
    ),
]
TextScale = Annotated[
    float | None,
    typer.Option("--text-scale", help="How strongly the prompt is followed.", show_default="3.0", rich_help_panel=LOOK),
]
Lora = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="FILE[:SCALE]",
        autocompletion=complete.loras,
        help="LoRA file with its strength, such as person.safetensors:0.8; repeat for several.",
        rich_help_panel=LOOK,
    ),
]
Fps = Annotated[
    str | None,
    typer.Option(
        "--fps",
        metavar="RATE",
        help="Frames per second: 25, 29.97, 30000/1001 …",
        show_default="25",
        rich_help_panel=LOOK,
    ),
]
Enlarge = Annotated[
    int | None,
    typer.Option(
        "--enlarge",
        metavar="FACTOR",
        help="Enlarge the finished pictures by a whole factor, for viewing; adds no detail.",
        show_default="1",
        rich_help_panel=LOOK,
    ),
]
Overlap = Annotated[
    int | None,
    typer.Option(
        "--overlap",
        help="Latent frames that neighbouring windows share: more is smoother and slower.",
        show_default="5",
        rich_help_panel=LOOK + RARE,
    ),
]
Window = Annotated[
    int | None,
    typer.Option(
        "--window",
        help="Latent frames that are made together: 21, as trained, are 81 pictures.",
        show_default="21",
        rich_help_panel=LOOK + RARE,
    ),
]
Blend = Annotated[
    Literal["linear", "log"] | None,
    typer.Option(
        "--blend",
        help="How one window fades into the next: evenly, or early.",
        show_default="linear",
        rich_help_panel=LOOK + RARE,
    ),
]
Guidance = Annotated[
    Literal["cfg", "native", "none"] | None,
    typer.Option(
        "--guidance",
        help="How prompt and voice steer: cfg as published, native for sharper lips, none for distilled weights.",
        show_default="cfg",
        rich_help_panel=LOOK + RARE,
    ),
]
GuidanceInterval = Annotated[
    str | None,
    typer.Option(
        "--guidance-interval",
        metavar="LOW:HIGH",
        help="Guide only between these two noise levels, 0 to 1, such as 0.2:0.9: faster.",
        show_default="always",
        rich_help_panel=LOOK + RARE,
    ),
]
GuidanceReuse = Annotated[
    int | None,
    typer.Option(
        "--guidance-reuse",
        metavar="N",
        help="Renew the guidance only every so many steps: faster, less exact.",
        show_default="1",
        rich_help_panel=LOOK + RARE,
    ),
]
Solver = Annotated[
    Literal["euler", "ab2"] | None,
    typer.Option(
        "--solver",
        help="How a step is taken: euler as published; ab2 needs fewer steps for the same.",
        show_default="euler",
        rich_help_panel=LOOK + RARE,
    ),
]
Schedule = Annotated[
    Literal["released", "textbook", "uniform"] | None,
    typer.Option(
        "--schedule",
        help="Noise levels of the steps; uniform is for weights distilled to few steps.",
        show_default="released",
        rich_help_panel=LOOK + RARE,
    ),
]
Shift = Annotated[
    float | None,
    typer.Option(
        "--shift",
        help="Larger spends more steps on the coarse picture, smaller more on detail.",
        show_default="5.0",
        rich_help_panel=LOOK + RARE,
    ),
]
