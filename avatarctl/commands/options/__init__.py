"""Options that commands share: one spelling, one help text, one panel, and ``None`` where nothing was given.

A command's parameters are named like the fields of the settings, so that the flags given are a mapping of settings::

    @app.command()
    def generate(image: Image, audio: Audio, output: Output, preset: Preset = None, steps: Steps = None) -> None:
        resolve(AllSettings.model_fields, preset, {"steps": steps})

``show_default`` repeats the default of the setting as text, since settings are not imported for a help page; a test
compares the two.
"""

from __future__ import annotations

from avatarctl.commands.options.input import (
    Audio,
    Duration,
    Image,
    Preset,
    PresetName,
    Start,
)
from avatarctl.commands.options.look import (
    Blend,
    Enlarge,
    Face,
    Fit,
    Fps,
    Guidance,
    Lora,
    NegativePrompt,
    Overlap,
    Prompt,
    Schedule,
    Seed,
    Shift,
    Size,
    Solver,
    Steps,
    TextScale,
    Window,
)
from avatarctl.commands.options.machine import (
    CheckpointEvery,
    Device,
    Dtype,
    Memory,
    Weights,
    WindowBatch,
)
from avatarctl.commands.options.output import (
    AcceptChanges,
    AsJson,
    Codec,
    ContactSheet,
    Crf,
    DryRun,
    Evaluate,
    Force,
    Frames,
    Keep,
    MarkSynthetic,
    Metadata,
    NamedOutput,
    Output,
    Progress,
    Quiet,
    ShowCrop,
    ShowSettings,
    Subtitles,
    WorkDir,
)
from avatarctl.commands.options.voice import (
    AudioScale,
    AudioTrack,
    Loudness,
    SeparateVocals,
    TrimSilence,
    WithAudio,
)

__all__ = [
    "AcceptChanges",
    "AsJson",
    "Audio",
    "AudioScale",
    "AudioTrack",
    "Blend",
    "CheckpointEvery",
    "Codec",
    "ContactSheet",
    "Crf",
    "Device",
    "DryRun",
    "Dtype",
    "Duration",
    "Enlarge",
    "Evaluate",
    "Face",
    "Fit",
    "Force",
    "Fps",
    "Frames",
    "Guidance",
    "Image",
    "Keep",
    "Lora",
    "Loudness",
    "MarkSynthetic",
    "Memory",
    "Metadata",
    "NamedOutput",
    "NegativePrompt",
    "Output",
    "Overlap",
    "Preset",
    "PresetName",
    "Progress",
    "Prompt",
    "Quiet",
    "Schedule",
    "Seed",
    "SeparateVocals",
    "Shift",
    "ShowCrop",
    "ShowSettings",
    "Size",
    "Solver",
    "Start",
    "Steps",
    "Subtitles",
    "TextScale",
    "TrimSilence",
    "Weights",
    "Window",
    "WindowBatch",
    "WithAudio",
    "WorkDir",
]
