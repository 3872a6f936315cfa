"""Takes the arguments of `avatarctl puppet`, gives drawn clips and the small networks that are trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from avatarctl import console
from avatarctl.commands import options as o
from avatarctl.commands.options import EXIT_CODES
from avatarctl.errors import UsageError

app = typer.Typer(
    help="Make the embedded avatar anew: its world of drawn clips, and its networks.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
)
Seed = Annotated[
    int, typer.Option("--seed", min=0, max=2**40, help="Where everything comes from: same seed, same world.")
]


@app.command(epilog=EXIT_CODES)
def data(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of clips; gone on with if it is there.")],
    clips: Annotated[
        int, typer.Option("--clips", min=1, max=100_000, help="Clips of 81 pictures, each another face and voice.")
    ] = 420,
    seed: Seed = 0,
    look: Annotated[
        list[str] | None, typer.Option("--look", metavar="hat|glasses", help="What every face wears; several times.")
    ] = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
    progress: o.Progress = "auto",
) -> None:
    """Draw clips of faces that speak and sing, in the layout that `avatarctl data encode` reads. Needs espeak-ng.

    Example: avatarctl puppet data --output clips
    """
    if wrong := sorted(set(look or ()) - {"hat", "glasses"}):
        raise UsageError(f"--look: got {', '.join(wrong)}, expected hat or glasses")
    console.quiet(quiet)
    from avatarctl.puppet.dataset import make_dataset

    with _progress(quiet, progress, "clips") as show:
        made = make_dataset(output, clips, seed, show, tuple(look or ()))
    console.result("puppet data", {"output": str(output), "clips": clips, "made": made}, str(output), as_json)


@app.command(epilog=EXIT_CODES)
def train(
    what: Annotated[Literal["encoders", "speech", "vae", "decoder"], typer.Argument(help="Which network.")],
    clips: Annotated[Path, typer.Option("--data", help="Folder of clips that `avatarctl puppet data` made.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of weights.")],
    looks: Annotated[
        Path | None, typer.Option("--looks", help="decoder: clips of faces with a look, made with --look.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Training steps.")] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of the CPU.")] = 1,
    seed: Seed = 0,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
    progress: o.Progress = "auto",
) -> None:
    """Train the puppet's speech encoder or VAE, or write its fixed text and image encoders. The transformer: `avatarctl train`.

    decoder: teach the decoder alone of a trained VAE to show hats and glasses, which leaves latents as they are.

    Example: avatarctl puppet train vae --data clips --output nets
    """
    if (what == "decoder") != (looks is not None):
        raise UsageError(
            f"--looks: got {looks or 'none'} for {what}, expected clips of a look for decoder, and for it alone",
            "make some: avatarctl puppet data --look hat --look glasses --seed 1 --clips 60 --output DIR",
        )
    console.quiet(quiet)
    import torch

    torch.set_num_threads(threads)
    with _progress(quiet, progress, "steps") as show:
        if what == "encoders":
            from avatarctl.puppet.encoders import write_encoders

            paths, facts = write_encoders(output, seed), {}
        elif what == "speech":
            from avatarctl.puppet.train_speech import train_speech

            path, share = train_speech(clips, output, steps or 1500, seed, show)
            paths, facts = [path], {"variance_explained": round(share, 4)}
        elif looks is not None:
            from avatarctl.puppet.train_vae import DECODER_STEPS, train_decoder

            paths, facts = [train_decoder(clips, looks, output, steps or DECODER_STEPS, seed, show)], {}
        else:
            from avatarctl.puppet.train_vae import STEPS, train_vae

            paths, facts = [train_vae(clips, output, steps or STEPS, seed, show)], {}
    names = [str(path) for path in paths]
    console.result(f"puppet train {what}", {"weights": names, **facts}, "\n".join(names), as_json)


def _progress(quiet: bool, kind: Any, unit: str) -> Any:
    return console.progress("none" if quiet and kind == "auto" else kind, unit)
