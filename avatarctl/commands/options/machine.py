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
    Literal["full", "model", "group", "sequential"] | None,
    typer.Option(
        "--memory",
        help="What is kept on the GPU: everything, one network at a time, some layers, single layers. Less is slower.",
        show_default="full",
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
