"""Options that commands share: one spelling, one help text, one panel, and ``None`` where nothing was given.

A command's parameters are named like the fields of the settings, so that the flags given are a mapping of settings::

    @app.command()
    def generate(image: Image, audio: Audio, output: Output, preset: Preset = None, steps: Steps = None) -> None:
        resolve(AllSettings.model_fields, preset, {"steps": steps})

``show_default`` repeats the default of the setting as text, since settings are not imported for a help page; a test
compares the two.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from avatarctl.commands import complete
from avatarctl.commands.pages import INPUT, LOOK, MACHINE, OUTPUT, RARE, VOICE

# -- Input ----------------------------------------------------------------------------------------------------------
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

# -- Look -----------------------------------------------------------------------------------------------------------
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
    Literal["cover", "pad"] | None,
    typer.Option(
        "--fit",
        help="Picture of another shape than the video: cover crops it, pad adds bars.",
        show_default="cover",
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
Shift = Annotated[
    float | None,
    typer.Option(
        "--shift",
        help="Larger spends more steps on the coarse picture, smaller more on detail.",
        show_default="5.0",
        rich_help_panel=LOOK + RARE,
    ),
]

# -- Voice ----------------------------------------------------------------------------------------------------------
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

# -- Machine --------------------------------------------------------------------------------------------------------
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

# -- Output ---------------------------------------------------------------------------------------------------------
Output = Annotated[
    Path,
    typer.Option(
        "--output", "-o", metavar="VIDEO", help="Video to write: .mp4, .mov, .mkv or .webm.", rich_help_panel=OUTPUT
    ),
]
NamedOutput = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="VIDEO",
        help="Video to write: .mp4, .mov, .mkv or .webm.",
        show_default="the recording's name, here",
        rich_help_panel=OUTPUT,
    ),
]
Subtitles = Annotated[
    list[str] | None,
    typer.Option(
        "--subtitles",
        metavar="LANGUAGE:FILE",
        help="Subtitles to switch on, such as de:talk.srt (SRT, VTT); may be given again.",
        rich_help_panel=INPUT,
    ),
]
Metadata = Annotated[
    bool | None,
    typer.Option(
        "--metadata/--no-metadata",
        help="Write into the video how it was made.",
        show_default="yes",
        rich_help_panel=OUTPUT + RARE,
    ),
]
MarkSynthetic = Annotated[
    bool | None,
    typer.Option(
        "--mark-synthetic/--no-mark-synthetic",
        help="Mark the video as made by a machine (XMP).",
        show_default="yes",
        rich_help_panel=OUTPUT + RARE,
    ),
]
Crf = Annotated[
    int | None,
    typer.Option(
        "--crf",
        help="Quality of the encoding, 0 to 51: lower is better and larger.",
        show_default="18; vp9, av1: 24",
        rich_help_panel=OUTPUT,
    ),
]
Codec = Annotated[
    Literal["auto", "h264", "hevc", "prores", "vp9", "av1"] | None,
    typer.Option(
        "--codec",
        help="Pictures; auto: vp9 in .webm, else h264. prores is for .mov, av1 not for .mov.",
        show_default="auto",
        rich_help_panel=OUTPUT,
    ),
]
ContactSheet = Annotated[
    str | None,
    typer.Option(
        "--contact-sheet",
        metavar="TIME",
        help="Also write one image with a picture of the video every so often, such as 5s.",
        rich_help_panel=OUTPUT,
    ),
]
Frames = Annotated[
    Path | None,
    typer.Option(
        "--frames", metavar="FOLDER", help="Also write every picture as PNG into this folder.", rich_help_panel=OUTPUT
    ),
]
WorkDir = Annotated[
    Path | None,
    typer.Option(
        "--work-dir",
        metavar="FOLDER",
        help="Render folder, where unfinished work is saved.",
        show_default="VIDEO.render",
        rich_help_panel=OUTPUT + RARE,
    ),
]
Keep = Annotated[
    bool, typer.Option("--keep", help="Keep the render folder when the video is done.", rich_help_panel=OUTPUT)
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.", rich_help_panel=OUTPUT)]
AcceptChanges = Annotated[
    bool,
    typer.Option(
        "--accept-changes",
        help="Resume even where dtype, attention or the like differ.",
        rich_help_panel=OUTPUT + RARE,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Check everything and tell what would be done; do nothing.", rich_help_panel=OUTPUT),
]
ShowSettings = Annotated[
    bool,
    typer.Option(
        "--show-settings",
        help="Show every setting with where its value comes from; do nothing.",
        rich_help_panel=OUTPUT,
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Write the result as one JSON object to stdout.", rich_help_panel=OUTPUT)
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Write nothing but the result and errors.", rich_help_panel=OUTPUT)
]
Progress = Annotated[
    Literal["auto", "json", "none"],
    typer.Option("--progress", help="A bar or lines, JSON lines, or nothing.", rich_help_panel=OUTPUT),
]
