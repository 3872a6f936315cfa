"""`avatarctl puppet`: make the embedded avatar's clips and train its small networks (for developers)."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from avatarctl import console, durable, ownership
from avatarctl.commands import options as o
from avatarctl.errors import UsageError
from avatarctl.paths import EMBEDDED
from avatarctl.progress import showing

if TYPE_CHECKING:
    from avatarctl.settings.render import AllSettings

app = typer.Typer(
    help="Rebuild the embedded avatar: draw its clips, train and measure its networks.",
    no_args_is_help=True,
)
Seed = Annotated[
    int, typer.Option("--seed", min=0, max=2**40, help="Where everything comes from: same seed, same world.")
]


@app.command()
def data(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of clips; continued if it is there.")],
    clips: Annotated[
        int, typer.Option("--clips", min=1, max=100_000, help="Clips of 81 pictures, each another face and voice.")
    ] = 600,
    seed: Seed = 0,
    look: Annotated[
        list[str] | None,
        typer.Option(
            "--look", metavar="hat|bowler|glasses", help="What every face wears; several times. Bowlers are all alike."
        ),
    ] = None,
    bare_first: Annotated[
        bool,
        typer.Option("--bare-first", help="The first picture lacks the look: what a LoRA learns to put it on from."),
    ] = False,
    pauses: Annotated[bool, typer.Option("--pauses", help="Nobody speaks in the clips: hiss, hum, nothing.")] = False,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
    progress: o.Progress = "auto",
) -> None:
    """Draw clips of faces that speak and sing, in the layout that `avatarctl data encode` reads. Needs espeak-ng.

    Example: avatarctl puppet data --output clips
    """
    if wrong := sorted(set(look or ()) - {"hat", "bowler", "glasses"}):
        raise UsageError(
            f"--look: got {', '.join(wrong)}, expected hat, bowler or glasses", "such as --look hat --look glasses"
        )
    if bare_first and not look:
        raise UsageError("--bare-first: got no --look that the first picture could lack", "add --look hat")
    console.quiet(quiet)
    from avatarctl.puppet.world.clips import make_clips

    with _progress(quiet, progress, "clips") as show:
        made = make_clips(output, clips, seed, show, tuple(look or ()), pauses=pauses, bare_first=bare_first)
    console.result("puppet data", {"output": str(output), "clips": clips, "made": made}, str(output), as_json)


@app.command()
def train(
    what: Annotated[Literal["encoders", "speech", "vae", "decoder"], typer.Argument(help="Which network.")],
    clips: Annotated[Path, typer.Option("--data", help="Folder of clips that `avatarctl puppet data` made.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of weights.")],
    looks: Annotated[
        Path | None, typer.Option("--looks", help="decoder: clips of faces with a look, made with --look.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Training steps.")] = None,
    start: Annotated[
        Path | None, typer.Option("--start", help="vae: weights to begin with, instead of random ones.")
    ] = None,
    begin: Annotated[
        int, typer.Option("--begin", min=0, help="vae: steps that the weights of --start have behind them.")
    ] = 0,
    rate: Annotated[
        float, typer.Option("--rate", min=0.01, max=10.0, help="vae: multiplies the learning rates.")
    ] = 1.0,
    times: Annotated[
        int, typer.Option("--times", min=1, help="vae: batches of so many times as many clips, for a GPU.")
    ] = 1,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of the CPU.")] = 1,
    device: Annotated[
        Literal["cpu", "cuda"], typer.Option("--device", help="vae, decoder: where they are trained.")
    ] = "cpu",
    seed: Seed = 0,
    force: o.Force = False,
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
    if (start is not None or begin or rate != 1 or times != 1) and (what != "vae" or (begin and start is None)):
        raise UsageError(
            f"--start, --begin, --rate, --times: got one of them for {what}, expected vae, and --begin with --start alone",
            "avatarctl puppet train vae --start FILE --begin STEPS",
        )
    if device != "cpu" and what not in ("vae", "decoder"):
        raise UsageError(f"--device: got {device} for {what}, expected it for vae or decoder", "leave it out")
    console.quiet(quiet)
    _check_networks(what, output, force, start)
    import torch

    from avatarctl.networks.placement import decide
    from avatarctl.settings.placement import PlacementSettings

    place = decide(PlacementSettings(device=device)).device
    torch.set_num_threads(threads)
    with _progress(quiet, progress, "steps") as show:
        if what == "encoders":
            from avatarctl.puppet.encoders import write_encoders

            paths, facts = write_encoders(output, seed), {}
        elif what == "speech":
            from avatarctl.puppet.train_speech import LESSON, train_speech

            path, share = train_speech(clips, output, steps or LESSON.steps, seed, show)
            paths, facts = [path], {"variance_explained": round(share, 4)}
        else:
            from avatarctl.puppet.train_vae import DECODER_STEPS, train_decoder, train_vae
            from avatarctl.puppet.vae_recipes import RECIPE

            facts = {}
            if looks is not None:
                paths = [train_decoder(clips, looks, output, steps or DECODER_STEPS, seed, show, device=place)]
            else:
                begun: dict[str, Any] = {"start": start, "rate": rate, "begin": begin, "times": times}
                paths = [train_vae(clips, output, steps or RECIPE.steps, seed, show, device=place, **begun)]
    names = [str(path) for path in paths]
    console.result(f"puppet train {what}", {"weights": names, **facts}, "\n".join(names), as_json)


@app.command()
def quality(
    clips: Annotated[Path, typer.Option("--data", help="Folder of clips that the VAE has not seen: another --seed.")],
    weights: Annotated[Path, typer.Option("--weights", help="File of weights, or folder with a run of `train vae`.")],
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="PNG of clips above what the VAE shows of them.")
    ] = None,
    export: Annotated[
        Path | None, typer.Option("--export", help="Also write the weights as they stand, in half precision.")
    ] = None,
    most: Annotated[int, typer.Option("--clips", min=1, help="Clips at most.")] = 24,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of the CPU.")] = 1,
    force: o.Force = False,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
    progress: o.Progress = "auto",
) -> None:
    """Measure what a VAE leaves of drawn clips that it has not seen, while its training may still run.

    Example: avatarctl puppet quality --data heldout --weights nets
    """
    for target, flag in ((sheet, "--sheet"), (export, "--export")):
        if target is not None:
            ownership.check_target(target, flag, [("the weights", weights)], force)
    console.quiet(quiet)
    import torch

    from avatarctl.puppet.pictures import Pictures
    from avatarctl.puppet.train_vae import contact_sheet, export_vae, open_vae
    from avatarctl.puppet.world.vae_quality import to_markdown, vae_quality

    torch.set_num_threads(threads)
    model, pictures = open_vae(weights), Pictures(clips)
    with _progress(quiet, progress, "clips") as show:
        found = vae_quality(model, pictures, show, most)
    if sheet is not None:
        contact_sheet(model, [pictures.clip(number) for number in range(min(4, len(pictures)))], sheet)
    if export is not None:
        export_vae(model, pictures, export)
    console.result("puppet quality", found, to_markdown(found).rstrip(), as_json)


@app.command()
def pack(
    weights: Annotated[Path, typer.Option("--weights", help="Folder of the puppet's trained networks.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for weights/ and samples/.")],
    transformer: Annotated[
        Path | None, typer.Option("--transformer", help="Transformer that `avatarctl train` wrote (else the folder's).")
    ] = None,
    student: Annotated[
        Path | None, typer.Option("--student", help="Few-step student of this transformer: `--lora puppet-student`.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Folder that `puppet evaluate` wrote: a model card of it, too.")
    ] = None,
    notes: Annotated[str, typer.Option("--notes", help="What the model card says beyond that.")] = "",
    samples: Annotated[
        bool, typer.Option("--samples", help="Also draw the pictures and speak the sample voices.")
    ] = False,
    as_json: o.AsJson = False,
) -> None:
    """Write the networks as the package ships them: in half precision, with a tokenizer; 12 MB at most.

    Example: avatarctl puppet pack --weights nets --transformer run/transformer.safetensors --output packed
    """
    if report is not None:
        from avatarctl.puppet.card import check_report

        check_report(report, weights)
    from avatarctl.puppet.pack import make_samples, pack_weights
    from avatarctl.settings.values import lora_file

    written = pack_weights(weights, output / "weights", transformer, lora_file(student) if student else None)
    if samples:
        written += make_samples(output / "samples")
    if report is not None:
        from avatarctl.puppet.card import write_card

        written.append(write_card(output / "weights", report, notes))
    names = [str(path) for path in written]
    console.result("puppet pack", {"written": names}, "\n".join(names), as_json)


@app.command()
def evaluate(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the report; what it holds is not measured again.")
    ],
    weights: Annotated[Path, typer.Option("--weights", help="Folder of the puppet's weights.")] = EMBEDDED,
    preset: o.Preset = "puppet",
    pairs: Annotated[int, typer.Option("--pairs", min=2, max=1000, help="Held-out pairs of a face and a voice.")] = 20,
    minutes: Annotated[
        int,
        typer.Option("--minutes", min=0, max=600, help="Length of the long render; 0 leaves it out, else 2 at least."),
    ] = 5,
    tables: Annotated[bool, typer.Option("--tables/--no-tables", help="Also compare settings.")] = True,
    lora: Annotated[
        str | None, typer.Option("--lora", metavar="FILE[:SCALE]", help="LoRA of the look: measure it, too.")
    ] = None,
    student: Annotated[
        list[Path] | None,
        typer.Option(
            "--student", metavar="FILE", help="Few-step student: its numbers on the same pairs, beside the goals."
        ),
    ] = None,
    gate: Annotated[bool, typer.Option("--gate", help="End with exit code 9 when a goal is missed.")] = False,
    force: o.Force = False,
    device: o.Device = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of the CPU.")] = 1,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
    progress: o.Progress = "auto",
) -> None:
    """Measure the embedded avatar: lips against voices, faces against references, minutes, window borders, settings.

    Faces and voices are none of the training set. Needs espeak-ng. Run it again to continue where it stopped.

    Example: avatarctl puppet evaluate --output report
    """
    if minutes == 1:
        raise UsageError("--minutes: got 1, expected 0 or 2 at least", "a minute is too short to see a drift in")
    console.quiet(quiet)
    from avatarctl.audio.speak import library
    from avatarctl.errors import InputFileError, QualityError
    from avatarctl.settings import presets
    from avatarctl.settings.check import make
    from avatarctl.settings.placement import PlacementSettings
    from avatarctl.settings.render import AllSettings, RenderSettings
    from avatarctl.settings.student import student_of
    from avatarctl.settings.values import lora_file, parse_lora
    from avatarctl.weights import find_weights

    flags = {"device": device, "weights": weights, "enlarge": 1, "lora": (lora,) if lora else None}
    values, places = presets.resolve(AllSettings.model_fields, preset, flags)
    settings = make(AllSettings, values, places)
    chosen = parse_lora(lora) if lora else None
    if chosen and not Path(chosen[0]).is_file():
        raise InputFileError(f"--lora: got no such file: {chosen[0]}, expected a LoRA", "name a .safetensors file")
    if chosen and student_of(Path(chosen[0])):
        raise UsageError(
            f"--lora: got the student {chosen[0]}, expected a LoRA of a look: it would be guided twice",
            f"--student {shlex.quote(chosen[0])} measures it on the same pairs",
        )
    students = []
    for file in map(lora_file, dict.fromkeys(student or ())):
        asked_for = _as_student(file, preset, {**flags, "lora": (str(file),)})
        students.append((file, asked_for.part(RenderSettings)))
    _check_report(output, force)
    library()
    folder = find_weights(settings.weights, settings.size, "auto").folder
    import torch

    from avatarctl.evaluation.report import check_installed
    from avatarctl.puppet.evaluate import CURVES, REPORT, TABLES, Asked
    from avatarctl.puppet.evaluate import evaluate as run
    from avatarctl.puppet.measure import Bench
    from avatarctl.puppet.world.report import to_markdown

    check_installed()
    torch.set_num_threads(threads)
    bench = Bench(output, folder, settings.part(PlacementSettings))
    asked = Asked(pairs, minutes, tables, (Path(chosen[0]), chosen[1]) if chosen else None, tuple(students))
    with console.warnings_as_notes(), _progress(quiet, progress, "renders") as show:
        report = run(bench, settings.part(RenderSettings), asked, show)
    missed = [goal["name"] for goal in report["goals"] if not goal["reached"]]
    data = {"goals": report["goals"], "files": [str(output / name) for name in (REPORT, TABLES, CURVES)]}
    if gate and missed:
        problem = QualityError(
            f"{len(missed)} of {len(report['goals'])} goals are missed: {'; '.join(missed)}", f"see {output / TABLES}"
        )
        problem.data = data
        raise problem
    console.result("puppet evaluate", data, to_markdown(report).rstrip(), as_json)


def _as_student(file: Path, preset: str | None, flags: Mapping[str, Any]) -> AllSettings:
    """Return the preset's settings as a student asks for them; refuses what is none."""
    from avatarctl.errors import InputFileError
    from avatarctl.settings import presets
    from avatarctl.settings.check import make
    from avatarctl.settings.render import AllSettings
    from avatarctl.settings.student import as_students_ask, student_of

    if not file.is_file():
        raise InputFileError(f"--student: got no such file: {file}, expected a LoRA", "name a .safetensors file")
    if not student_of(file):
        raise UsageError(
            f"--student: got {file}, which was not distilled, expected a student", f"--lora {shlex.quote(str(file))}"
        )
    return make(AllSettings, *as_students_ask(*presets.resolve(AllSettings.model_fields, preset, flags)))


def _check_networks(what: str, output: Path, force: bool, start: Path | None) -> None:
    """Refuse to replace networks of another training; a decoder is taught in its VAE's own file."""
    ownership.check_name(output, "--output", "a folder for the networks", "--output nets")
    ownership.check_can_make(output, "--output")
    written = {"encoders": ("text_encoder", "image_encoder"), "speech": ("speech_encoder",), "vae": ("vae",)}
    begun = (output / "vae").is_dir()
    for name in written.get(what, ()):
        path = output / f"{name}.safetensors"
        files = [start / path.name if start.is_dir() else start] if start is not None else []
        inputs = [("the weights to begin with", file) for file in files]
        ownership.check_target(path, "--output", inputs, force, named=output, ours=what == "vae" and begun)


def _check_report(output: Path, force: bool) -> None:
    """Refuse a folder whose report is not one of ours."""
    ownership.check_name(output, "--output", "a folder for the report", "--output report")
    ownership.check_can_make(output, "--output")
    ours = "goals" in (durable.read_json(output / "report.json") or {})
    for name in ("report.json", "report.md", "report.png"):
        ownership.check_target(output / name, "--output", [], force, named=output, ours=ours)


def _progress(quiet: bool, kind: Any, unit: str) -> Any:
    return showing("none" if quiet and kind == "auto" else kind, unit)
