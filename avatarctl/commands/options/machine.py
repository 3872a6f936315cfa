"""Options of the panel Machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from avatarctl.commands import complete
from avatarctl.commands.pages import MACHINE, RARE

Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="FOLDER",
        help="Folder of the weights.",
        show_default="where `avatarctl fetch` puts them",
        rich_help_panel=MACHINE,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="NAME",
        autocompletion=complete.devices,
        help="auto (the first GPU, else the CPU), cpu, cuda or cuda:N.",
        show_default="auto",
        rich_help_panel=MACHINE,
    ),
]
Memory = Annotated[
    Literal["auto", "full", "model", "group", "sequential"] | None,
    typer.Option(
        "--memory",
        help="Kept on the GPU: everything, one network at a time, some layers, single layers. auto: what fits.",
        show_default="auto",
        rich_help_panel=MACHINE,
    ),
]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"] | None,
    typer.Option(
        "--dtype",
        help="Number format of the computation; auto: bfloat16 on GPUs that have it, float32 on the CPU.",
        show_default="auto",
        rich_help_panel=MACHINE + RARE,
    ),
]
Variant = Annotated[
    Literal["auto", "square", "rec-vec", "wan2.1-fun-1.3b", "wan2.1-i2v-14b"] | None,
    typer.Option(
        "--variant",
        metavar="NAME",
        help="Which released transformer; auto: by the size of the video.",
        show_default="auto",
        rich_help_panel=MACHINE + RARE,
    ),
]
WeightsDtype = Annotated[
    Literal["same", "float8"] | None,
    typer.Option(
        "--weights-dtype",
        help="float8 halves the memory of the transformer; pictures change slightly.",
        show_default="same",
        rich_help_panel=MACHINE + RARE,
    ),
]
MatmulDtype = Annotated[
    Literal["same", "float8"] | None,
    typer.Option(
        "--matmul-dtype",
        help="float8 multiplies float8 weights as they are: faster, less exact (RTX 40, H100 and newer).",
        show_default="same",
        rich_help_panel=MACHINE + RARE,
    ),
]
Attention = Annotated[
    str | None,
    typer.Option(
        "--attention",
        metavar="NAME",
        help="How attention is computed: auto, or a backend that `avatarctl doctor` lists.",
        show_default="auto",
        rich_help_panel=MACHINE + RARE,
    ),
]
Compile = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile",
        help="Compile the transformer: minutes at the start, faster afterwards.",
        show_default="auto: long renders on a GPU",
        rich_help_panel=MACHINE + RARE,
    ),
]
VaeDtype = Annotated[
    Literal["auto", "float32", "bfloat16"] | None,
    typer.Option(
        "--vae-dtype",
        help="Number format of the VAE; auto: bfloat16 on GPUs that have it.",
        show_default="auto",
        rich_help_panel=MACHINE + RARE,
    ),
]
VaeTiling = Annotated[
    bool | None,
    typer.Option(
        "--vae-tiling/--no-vae-tiling",
        help="Decode pictures in tiles: less memory; seams are blended, not invisible.",
        show_default="auto: where nothing else fits",
        rich_help_panel=MACHINE + RARE,
    ),
]
WindowBatch = Annotated[
    str | None,
    typer.Option(
        "--window-batch",
        metavar="N|auto",
        help="Windows computed together: faster where one leaves the GPU idle; last bits differ.",
        show_default="1",
        rich_help_panel=MACHINE + RARE,
    ),
]
CheckpointEvery = Annotated[
    str | None,
    typer.Option(
        "--checkpoint-every",
        metavar="TIME",
        help="Save so often: a kill loses at most this much work.",
        show_default="60",
        rich_help_panel=MACHINE + RARE,
    ),
]
