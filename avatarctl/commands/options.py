"""Options that several commands share: one spelling, one help text, ``None`` where nothing was given.

A command's parameters are named like the fields of the settings, so that the flags given are a mapping of settings::

    @app.command(epilog=EXIT_CODES)
    def generate(image: Image, audio: Audio, output: Output, preset: Preset = None, steps: Steps = None) -> None:
        resolve(AllSettings.model_fields, preset, {"steps": steps})
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

EXIT_CODES = (
    "Exit codes: 0 done, 1 a bug of ours, 2 usage, 3 some items failed, 4 unusable input file, 5 weights missing or "
    "damaged, 6 the render is busy, 7 inputs changed, 8 device or memory, 9 quality gate failed, 130/143 interrupted."
)


def _preset_names(incomplete: str) -> list[str]:
    from avatarctl.settings import presets

    return [name for name in presets.names() if name.startswith(incomplete)]


# -- Files ----------------------------------------------------------------------------------------------------------
Image = Annotated[Path | None, typer.Option("--image", "-i", help="Picture of the person (else the preset's).")]
Audio = Annotated[Path, typer.Option("--audio", "-a", help="Recording of the voice, any length, any common format.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Video to write.")]
WorkDir = Annotated[Path | None, typer.Option("--work-dir", help="Render folder (else OUTPUT.render).")]
Frames = Annotated[Path | None, typer.Option("--frames", help="Also write every picture as PNG into this folder.")]
Keep = Annotated[bool, typer.Option("--keep", help="Keep the render folder when the video is done.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would be done, do nothing.")]
ShowSettings = Annotated[
    bool, typer.Option("--show-settings", help="Show every setting with where its value comes from, do nothing.")
]

# -- Settings: what each does in full is in `avatarctl presets show` and presets/render/square.yaml ----------------
Preset = Annotated[
    str | None,
    typer.Option("--preset", "-p", autocompletion=_preset_names, help="Preset by name, or a YAML file."),
]
PresetName = Annotated[str, typer.Argument(autocompletion=_preset_names, help="Preset by name, or a YAML file.")]
Prompt = Annotated[str | None, typer.Option("--prompt", help="What happens in the video: who speaks, where, how.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Where the noise comes from: same seed, same video.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Denoising steps: time grows with them.")]
Size = Annotated[
    str | None,
    typer.Option("--size", "--resolution", metavar="WIDTHxHEIGHT", help="Pixels of the video, divisible by 16."),
]
Fps = Annotated[str | None, typer.Option("--fps", metavar="RATE", help="Frames per second: 25, 29.97, 30000/1001 …")]
Overlap = Annotated[int | None, typer.Option("--overlap", help="Latent frames that neighbouring windows share.")]
Blend = Annotated[
    Literal["linear", "log"] | None, typer.Option("--blend", help="Weights of the later window over the overlap.")
]
Guidance = Annotated[
    Literal["cfg", "native", "none"] | None,
    typer.Option("--guidance", help="Scheme of passes; a table of passes can stand in a preset."),
]
AudioScale = Annotated[float | None, typer.Option("--audio-scale", help="How strongly lips follow the voice.")]
TextScale = Annotated[float | None, typer.Option("--text-scale", help="How strongly the prompt is followed.")]
Shift = Annotated[float | None, typer.Option("--shift", help="Shift of the noise schedule towards high noise.")]
WindowBatch = Annotated[
    str | None,
    typer.Option("--window-batch", metavar="N|auto", help="Windows that may share a pass of the transformer."),
]
Start = Annotated[float | None, typer.Option("--start", metavar="SECONDS", help="Where in the recording to begin.")]
Duration = Annotated[
    float | None, typer.Option("--duration", metavar="SECONDS", help="How much of the recording to use.")
]
WithAudio = Annotated[
    bool | None, typer.Option("--with-audio/--no-audio", help="Put the recording into the video, or not.")
]
AudioTrack = Annotated[
    int | None,
    typer.Option("--audio-track", help="Sound track of a recording with several, from 1 (else the default one)."),
]
TrimSilence = Annotated[
    bool | None,
    typer.Option("--trim-silence/--no-trim-silence", help="Leave out silence at both ends of the recording."),
]
SeparateVocals = Annotated[
    bool | None,
    typer.Option("--separate-vocals/--no-separate-vocals", help="Let lips follow the voice alone, without the music."),
]
Loudness = Annotated[float | None, typer.Option("--loudness", metavar="DBFS", help="Level of the sound in the video.")]
Fit = Annotated[
    Literal["cover", "pad"] | None, typer.Option("--fit", help="Crop the picture to the video's aspect, or pad it.")
]
ContactSheet = Annotated[
    float | None,
    typer.Option("--contact-sheet", metavar="SECONDS", help="Also write a sheet with one picture per so many seconds."),
]
Enlarge = Annotated[
    int | None, typer.Option("--enlarge", metavar="FACTOR", help="Enlarge the video's pictures, for viewing.")
]
Crf = Annotated[int | None, typer.Option("--crf", help="Rate factor of the encoder: lower is larger and better.")]
Codec = Annotated[Literal["h264", "hevc"] | None, typer.Option("--codec", help="Format of the pictures.")]
CheckpointEvery = Annotated[
    float | None,
    typer.Option("--checkpoint-every", metavar="SECONDS", help="A kill loses at most this much work."),
]
Weights = Annotated[Path | None, typer.Option("--weights", help="Folder of the weights.")]
Lora = Annotated[
    list[str] | None,
    typer.Option("--lora", metavar="FILE[:SCALE]", help="LoRA file with its strength; can be given several times."),
]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"] | None,
    typer.Option("--dtype", help="Number format of the transformer."),
]
Memory = Annotated[
    Literal["full", "model", "group", "sequential"] | None,
    typer.Option("--memory", help="What stays on the device: all, one network, groups of layers, single layers."),
]

# -- Output ---------------------------------------------------------------------------------------------------------
AsJson = Annotated[bool, typer.Option("--json", help="Write one JSON object to stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Write nothing but the result and errors.")]
Progress = Annotated[
    Literal["auto", "json", "none"], typer.Option("--progress", help="A bar or lines, JSON lines, or nothing.")
]
