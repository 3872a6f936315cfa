"""`avatarctl demo`: make a video with the embedded avatar, without a download or a GPU."""

from __future__ import annotations

import itertools
import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from avatarctl import console, ownership
from avatarctl.commands import complete
from avatarctl.commands import options as o
from avatarctl.commands.generate import run_job, write_crop
from avatarctl.commands.pages import INPUT, LOOK, OUTPUT
from avatarctl.errors import AvatarError, InputFileError, UsageError
from avatarctl.interrupts import undoing
from avatarctl.paths import derived, embedded_avatar

PRESET = "puppet"
VOICE = "en-us+f3"
VOICES = {"puppet-2": "voice-2.wav"}  # whose own voice is another than the first one's


def demo(
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="VIDEO",
            help="Video to write: .mp4, .mov, .mkv or .webm.",
            show_default="demo.mp4, or demo-2.mp4 where it is taken",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    image: o.Image = None,
    audio: Annotated[
        Path | None,
        typer.Option(
            "--audio",
            "-a",
            metavar="RECORDING",
            autocompletion=complete.recordings,
            help="Recording of the voice.",
            show_default="one that is shipped",
            rich_help_panel=INPUT,
        ),
    ] = None,
    say: Annotated[
        str | None,
        typer.Option(
            "--say",
            metavar="TEXT",
            help="Speak this text; needs espeak-ng. The recording is saved beside the video.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    voice: Annotated[
        str | None,
        typer.Option(
            "--voice",
            metavar="VOICE",
            autocompletion=complete.voices,
            help="Voice of --say, as `espeak-ng --voices` lists them.",
            show_default=VOICE,
            rich_help_panel=INPUT,
        ),
    ] = None,
    sing: Annotated[
        bool, typer.Option("--sing", help="Sing the shipped song instead of speaking.", rich_help_panel=INPUT)
    ] = False,
    seed: o.Seed = None,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps", help="Denoising steps; 4 to 10 are enough here.", show_default="8", rich_help_panel=LOOK
        ),
    ] = None,
    enlarge: Annotated[
        int | None,
        typer.Option(
            "--enlarge",
            metavar="FACTOR",
            help="Enlarge the finished pictures by a whole factor, for viewing; adds no detail.",
            show_default="4",
            rich_help_panel=LOOK,
        ),
    ] = None,
    fit: Annotated[
        Literal["face", "cover", "pad"] | None,
        typer.Option(
            "--fit",
            help="Part of the picture: around the face, cover: the middle, pad: all of it between bars.",
            show_default="cover",
            rich_help_panel=LOOK,
        ),
    ] = None,
    face: o.Face = None,
    show_crop: o.ShowCrop = None,
    keep: o.Keep = False,
    force: o.Force = False,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
    progress: o.Progress = "auto",
) -> None:
    """Make a first video with the small network that comes with the program: the whole pipeline, in seconds, on any machine.

    The same as `generate --preset puppet`, with a voice of its own. `--image puppet-2` and `--image puppet-3` are other people.

    Example: avatarctl demo --say "Good morning" --output morning.mp4
    """
    console.quiet(quiet)
    if output is not None:
        ownership.check_name(output, "--output", "the name of a video", "--output talk.mp4")
    if sum((audio is not None, say is not None, sing)) > 1:
        raise UsageError("--audio, --say and --sing: got more than one, expected one voice", "leave out the others")
    if voice is not None and say is None:
        raise UsageError(
            f"--voice: got {voice} without --say, expected a text that this voice speaks",
            f'avatarctl demo --voice {shlex.quote(voice)} --say "Good morning"',
        )
    output = output or _free_name(say is not None, force)
    spoken = output.with_suffix(".wav") if say is not None else None
    from avatarctl.settings.jobs import render_job

    samples = embedded_avatar() / "samples"
    heard = spoken or audio or samples / ("song.wav" if sing else VOICES.get(str(image), "voice.wav"))
    flags = {"seed": seed, "steps": steps, "enlarge": enlarge, "fit": fit, "face": face}
    job = render_job(image, heard, output, PRESET, flags, keep=keep)
    if show_crop is not None:
        write_crop(job, show_crop, force, "demo", as_json)
        return
    width, height = job.render.size
    if job.render.enlarge > 1:
        console.note(
            f"the embedded avatar makes pictures of {width}x{height}; "
            f"the video shows them enlarged {job.render.enlarge} times"
        )
    if spoken is None:
        run_job(job, force, "demo", as_json, quiet, progress)
        return
    inputs = [("the picture", job.image)]
    ownership.check_target(output, "--output", inputs, force, ours=job.folder.exists())
    ownership.check_no_input(spoken, "--output", inputs, named=output)
    fresh = not spoken.exists()
    made = ownership.make_folder(spoken.parent)

    def forget() -> None:
        """Remove the voice when nothing came of it."""
        if not job.folder.exists() and not output.exists():
            if fresh:
                spoken.unlink(missing_ok=True)
            ownership.remove_made(made)

    with undoing(forget):
        try:
            _speak(say or "", voice or VOICE, spoken, force, output)
            run_job(job, force, "demo", as_json, quiet, progress)
        except AvatarError:
            forget()
            raise


def _free_name(speaks: bool, force: bool) -> Path:
    """Return demo.mp4, or the first of demo-2.mp4 … that is free; an unfinished demo is continued."""
    taken = []
    for number in itertools.count(1):
        path = Path(f"demo-{number}.mp4" if number > 1 else "demo.mp4")
        begun = derived(path, after=".render").exists()
        if force or not (path.exists() or (speaks and path.with_suffix(".wav").exists() and not begun)):
            break
        taken.append(path)
    if taken:
        console.note(f"{taken[-1]} is there already: this is {path}; --force replaces {taken[0]}")
    return path


def _speak(text: str, voice: str, target: Path, force: bool, output: Path) -> None:
    """Write the recording of a text; it is the same for the same text, so that a render is resumed."""
    if not text.strip():
        raise UsageError("--say: got no text", 'give some: --say "Good morning"')
    from avatarctl.audio.speak import library

    library()  # before anything heavy
    from avatarctl import durable
    from avatarctl.puppet.voice import say

    samples = say(text, voice)
    if not samples.any():
        raise InputFileError(f"--say: got silence for {text!r} in the voice {voice}", "give words that it can read")
    from avatarctl.puppet.pack import wave_bytes

    spoken = wave_bytes(samples)
    same = target.is_file() and target.read_bytes() == spoken
    ownership.check_target(target, "--output", [], force, named=output, ours=same)
    with durable.guarded(target, "free some space and run the same command again", "choose another --output"):
        durable.replace(durable.through(target), spoken)
    console.note(f"the voice is {target}")
