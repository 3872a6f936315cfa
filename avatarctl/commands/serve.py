"""`avatarctl serve`: a queue of renders as a page and as an API, on this machine."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from avatarctl import console
from avatarctl.commands import complete
from avatarctl.commands import options as o
from avatarctl.commands.pages import INPUT, MACHINE, OUTPUT, RARE
from avatarctl.errors import InputFileError, UsageError

if TYPE_CHECKING:
    from avatarctl.serve.house import Serving

LEAST_TOKEN = 12  # characters
NEEDS = {"fastapi": "fastapi", "uvicorn": "uvicorn", "python_multipart": "python-multipart"}
MIB = 1 << 20


def serve(
    folder: Annotated[
        Path,
        typer.Option(
            "--folder",
            "-o",
            metavar="FOLDER",
            help="Folder of the jobs; made if it isn't there.",
            rich_help_panel=OUTPUT,
        ),
    ] = Path("avatarctl-jobs"),
    preset: Annotated[
        list[str] | None,
        typer.Option(
            "--preset",
            "-p",
            metavar="NAME",
            autocompletion=complete.render_presets,
            help="Preset that clients may use; repeat for several, the first is the default.",
            show_default="all; square if its weights are there, else puppet",
            rich_help_panel=INPUT,
        ),
    ] = None,
    loras: Annotated[
        Path | None,
        typer.Option("--loras", metavar="FOLDER", help="LoRAs that clients may use by name.", rich_help_panel=INPUT),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            metavar="ADDRESS",
            help="Address to listen at; any but this machine's own needs a token.",
            rich_help_panel=MACHINE,
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            "--port", min=0, max=65535, help="Port to listen at; 0: any that is free.", rich_help_panel=MACHINE
        ),
    ] = 7860,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            metavar="TEXT",
            help="What clients have to know; others on this machine may see it: use a file.",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", metavar="FILE", help="File with the token.", rich_help_panel=MACHINE),
    ] = None,
    jobs: Annotated[
        str,
        typer.Option("--jobs", metavar="auto|N", help="Workers; auto: one per GPU, or one.", rich_help_panel=MACHINE),
    ] = "auto",
    max_upload: Annotated[
        int,
        typer.Option("--max-upload", min=1, metavar="MB", help="Largest recording.", rich_help_panel=MACHINE + RARE),
    ] = 2048,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            help="Another name of this machine, as a proxy has it; repeat for several.",
            rich_help_panel=MACHINE + RARE,
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-origin",
            metavar="ORIGIN",
            help="Site whose pages may ask, such as https://studio.example.",
            rich_help_panel=MACHINE + RARE,
        ),
    ] = None,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
) -> None:
    """Serve a queue of renders on this machine: a page to fill and watch it, and an API in the shape of /v1/videos.

    A job is a folder: when the server is killed, what is rendered is finished, and the next one continues the queue.
    Ctrl-C lets the workers save what they have.

    Example: avatarctl serve --folder jobs --preset puppet
    """
    console.quiet(quiet)
    folder = folder.absolute()
    serving = serving_of(
        folder,
        preset or [],
        loras,
        host,
        port,
        token,
        token_file,
        jobs,
        max_upload,
        allow_host or [],
        allow_origin or [],
    )
    from avatarctl.batch.local import places_for
    from avatarctl.serve.app import listening, run
    from avatarctl.serve.house import House, held

    with listening(host, port) as wire, held(folder, f"http://{host}:{wire.getsockname()[1]}"):
        house = House(serving, places_for([], None if jobs == "auto" else int(jobs), "auto"))
        known = {"folder": str(folder), "presets": list(serving.offers), "jobs": len(house.queue.jobs)}

        def told(address: str) -> None:
            console.result("serve", {"address": address, **known}, address, as_json, status="serving")
            console.note(f"serving {folder} ({len(house.queue.jobs)} jobs) at {address}: Ctrl-C stops it")
            lacks = {name: why for name, offer in serving.offers.items() if (why := house.ready(offer))}
            for why in dict.fromkeys(lacks.values()):
                console.note(f"preset {', '.join(name for name in lacks if lacks[name] == why)}: {why}")

        run(house, wire, told)


def serving_of(
    folder: Path,
    names: list[str],
    loras: Path | None,
    host: str,
    port: int,
    token: str | None,
    token_file: Path | None,
    jobs: str,
    max_upload: int,
    allow_hosts: list[str],
    allow_origins: list[str],
) -> Serving:
    """Return how the server is to be; raises ``UsageError`` with every mistake."""
    mistakes = []
    lacks = [package for module, package in NEEDS.items() if importlib.util.find_spec(module) is None]
    if lacks:
        raise UsageError(f"serve: got no {', '.join(lacks)} in this Python", "pip install 'avatarctl[serve]'")
    from avatarctl.serve.access import is_loopback
    from avatarctl.serve.house import Serving
    from avatarctl.serve.requests import offers_of
    from avatarctl.serve.spool import Limits

    hint = "`avatarctl serve --help` shows what each option accepts"
    if jobs != "auto" and not (jobs.isdecimal() and int(jobs) > 0):
        mistakes.append(f"--jobs: got '{jobs}', expected auto or a number of workers")
    if token is not None and token_file is not None:
        mistakes.append("--token and --token-file: got both, expected one")
    secret = _secret(token, token_file)
    if (token is not None or token_file is not None) and len(secret) < LEAST_TOKEN:
        mistakes.append(f"--token: got {len(secret)} characters, expected at least {LEAST_TOKEN} letters and digits")
        hint = "openssl rand -hex 16 > token.txt, then --token-file token.txt"
    if not is_loopback(host) and not secret:
        mistakes.append(f"--host: got {host}, which others can reach, without a token")
        hint = "openssl rand -hex 16 > token.txt, then --token-file token.txt; or leave out --host"
    mistakes += [f"--allow-origin: got '{each}', expected one such as https://studio.example" for each in allow_origins
                 if not each.startswith(("http://", "https://")) or "/" in each.split("://", 1)[1].rstrip("/")]  # fmt: skip
    if loras is not None and not loras.is_dir():
        mistakes.append(f"--loras: got no such folder: {loras}")
    if mistakes:
        raise UsageError("\n".join(mistakes), hint)
    limits = Limits(file_bytes=max_upload * MIB, all_bytes=4 * max_upload * MIB)
    offers = offers_of(names or _names())
    return Serving(folder, offers, host, port, secret, tuple(allow_hosts), tuple(allow_origins), loras, limits)


def _secret(token: str | None, file: Path | None) -> str:
    if file is None:
        return token or ""
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputFileError(
            f"{file}: got a file that can't be read ({error}), expected the token", "check --token-file"
        ) from error


def _names() -> list[str]:
    """Return all presets, the default first: square where its weights are there, else the embedded avatar."""
    from avatarctl.errors import WeightsError
    from avatarctl.settings import presets
    from avatarctl.weights import find_weights

    known = [name for name in presets.names("render") if not presets.mistakes(name)]
    try:
        find_weights(None, (512, 512), "auto")
        first = "square"
    except WeightsError:
        first = "puppet"
    return [first, *(name for name in sorted(known) if name != first)]
