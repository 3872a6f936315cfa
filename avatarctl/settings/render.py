"""Settings of a render, its inputs and its weights."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from avatarctl.paths import derived, picture_place, weights_place
from avatarctl.settings.base import Model, Settings
from avatarctl.settings.formats import VideoFormat, format_of
from avatarctl.settings.languages import check_subtitles
from avatarctl.settings.placement import PlacementSettings
from avatarctl.settings.values import (
    LARGEST_VIDEO_PX,
    Fps,
    Seconds,
    Size,
    WindowBatch,
    check_lora,
    one_or_more,
    parse_interval,
)

WeightsFolder = Annotated[Path | None, AfterValidator(weights_place)]


class GuidancePass(Settings):
    """One row of a guidance table."""

    text: Literal["positive", "negative"]
    """Which text the pass reads."""
    audio: Literal["window", "zero"]
    """Speech states into the adapter: the window's, or zeros."""
    tokens: Literal["adapter", "zero"]
    """Audio tokens into the blocks: the adapter's, or zeros."""
    weight: float
    """Share of the guided prediction; all weights add up to 1."""


# A name or a table: decided by the value's own type, so that a mistake is reported for the one that was meant.
Guidance = Annotated[
    Annotated[Literal["cfg", "native", "none"], Tag("guidance name")]
    | Annotated[tuple[GuidancePass, ...], Tag("guidance table")],
    Discriminator(lambda value: "guidance name" if isinstance(value, str) else "guidance table"),
]


class RenderSettings(Settings):
    """How a video is made. The words are those of the README."""

    prompt: str = "A person is talking to the camera."
    """What happens in the video: who speaks or sings, where, how."""
    negative_prompt: str = "Blurred or distorted face, frozen picture, flicker, subtitles, extra fingers, low quality."
    """What the video must not look like."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Same seed and settings, same video; another seed, another take."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 50
    """Denoising steps: more are slower and finer; under 20, fine detail is lost."""
    size: Size = (512, 512)
    """Width x height of the video in pixels, each divisible by 16.

    The released weights know 512x512 (variant square), 480x832 and 832x480 (variant rec-vec) best.
    """
    fps: Fps = Fraction(25)
    """Frames per second; the released weights know 25 best."""
    window: Annotated[int, Field(ge=2, le=128)] = 21
    """Latent frames computed together, as trained: 21 are 81 frames of video.

    A long video is made of such windows, which overlap and are blended. A latent frame stands for four frames of video.
    """
    overlap: Annotated[int, Field(ge=2)] = 5
    """Latent frames that neighbouring windows share: more is smoother, slower.

    Raise it to 10 or 15 where the picture jumps every few seconds.
    """
    blend: Literal["linear", "log"] = "linear"
    """How one window fades into the next: linear evenly, log early."""
    guidance: Guidance = "cfg"
    """How prompt and voice steer: cfg as published, native for sharper lips.

    Each step compares several predictions, with and without prompt and voice, and follows the difference. cfg makes three
    of them, native three others, none just one (a third of the time, for distilled weights only). Or a table: a list of
    {text, audio, tokens, weight}, one row for each prediction; all weights add up to 1.
    """
    audio_scale: float = 5.0
    """How strongly lips follow the voice: 3 is calm, 7 exaggerates (guidance cfg)."""
    text_scale: float = 3.0
    """How strongly the prompt is followed (guidance cfg)."""
    native_audio_weight: float = 2.0
    """guidance native: how strongly lips follow the voice.

    Weight of the difference to a prediction whose voice is silent.
    """
    native_token_weight: float = 2.0
    """guidance native: how strongly everything audible is followed.

    Weight of the difference to a prediction without any audio tokens.
    """
    guidance_interval: Annotated[tuple[float, float] | None, BeforeValidator(parse_interval)] = None
    """Guide only between these two noise levels, 0 to 1: faster (null: always).

    Elsewhere a step makes one prediction instead of three. The narrower, the faster, and the less prompt and voice are
    followed.
    """
    guidance_reuse: Annotated[int, Field(ge=1)] = 1
    """Renew the guidance only every so many steps: faster, less exact (1: each).

    The steps between make one prediction instead of three: 2 takes two thirds of the time with guidance cfg.
    """
    shift: Annotated[float, Field(gt=0)] = 5.0
    """Larger spends more steps on the coarse picture, smaller more on detail.

    It shifts the schedule of noise levels. 5 as released, for pictures of 512x512; on smaller ones less is nearer to the exact
    result in as many steps (docs/make-a-video.md has it measured). LoRAs for few steps want theirs.
    """
    schedule: Literal["released", "textbook", "uniform"] = "released"
    """Noise levels of the steps: as published, as in the textbook, or equal steps.

    The published code shifts its last levels twice. uniform is what weights distilled to few steps were trained with; with
    others it is better for 4 steps or fewer, and hardly different from 8 on.
    """
    solver: Literal["euler", "ab2"] = "euler"
    """How a step is taken: euler as published; ab2 needs fewer steps for the same.

    ab2 (Adams-Bashforth of second order) also looks at the step before: with 25 steps it comes as near to the exact result
    as euler with 38. Under 16 steps of shift 5 it has no advantage.
    """
    order: Literal["wavefront", "steps"] = "wavefront"
    """Order of computation; both give the same video.

    wavefront finishes the beginning of the video first, so that it can be watched while the rest is rendered; steps takes
    one step for the whole video after the other.
    """
    window_batch: WindowBatch = 1
    """Windows computed together: faster where one leaves the GPU idle.

    The last bits of the video depend on it. auto: by the size of a window. It needs order wavefront.
    """
    tail: Literal["full", "reference"] = "full"
    """End of the video: a full last window, or a short one as published."""
    audio_span: Literal["exact", "reference"] = "exact"
    """Sound that a window hears: exactly that of its pictures, or as published."""
    start_s: Annotated[Seconds, Field(ge=0)] = 0.0
    """Where in the recording to begin: 90, 90s, 1:30 or 1:02:03.5."""
    duration_s: Annotated[Seconds, Field(gt=0)] | None = None
    """How much of the recording to use, such as 90s or 1:30 (null: to its end)."""
    audio_track: Annotated[int, Field(ge=1)] | None = None
    """Sound track of a recording with several; 1 is the first (null: its default)."""
    trim_silence: bool = False
    """Leave out silence at both ends of the recording."""
    separate_vocals: bool = False
    """For songs: lips follow the voice alone; the sound of the video is unchanged."""
    loudness_dbfs: Annotated[float, Field(le=0)] | None = None
    """Level of the sound in the video, in dBFS such as -20 (null: as recorded)."""
    fit: Literal["face", "cover", "pad"] = "face"
    """Which part of the picture is used: the one around the face, the middle, all.

    face crops it to the video's shape around the largest face, or around the one that ``face`` names; cover crops the
    middle; pad keeps all of it and adds grey bars.
    """
    face: Annotated[int, Field(ge=1)] | None = None
    """Face to frame, of several; 1 is the leftmost (null: the largest)."""
    with_audio: bool = True
    """Put the recording into the video."""
    crf: Annotated[int, Field(ge=0, le=51)] | None = None
    """Quality of the encoding: lower is better and larger (null: by the codec).

    Constant rate factor, 0 to 51. null: 18, for vp9 and av1 24; prores has a fixed rate and takes no notice of it.
    """
    codec: Literal["auto", "h264", "hevc", "prores", "vp9", "av1"] = "auto"
    """Format of the pictures; auto: vp9 in .webm, h264 elsewhere.

    The container follows from the name of the video: .mp4 holds h264, hevc and av1; .mov h264, hevc and prores (422);
    .mkv h264, hevc, vp9 and av1; .webm vp9 and av1.
    """
    segment_latent_frames: Annotated[int, Field(ge=1)] = 25
    """Length of the pieces in which the video is written: 25 are four seconds.

    Latent frames, of four frames of video each. Longer pieces are fewer files, and each is finished later.
    """
    checkpoint_every_s: Annotated[Seconds, Field(ge=0)] = 60.0
    """Save so often, such as 60s: a kill loses at most this much work."""
    preview: bool = True
    """Keep a playable file of what is finished while rendering."""
    contact_sheet_every_s: Annotated[Seconds, Field(gt=0)] | None = None
    """Also write one image with a picture every so often, such as 5s (null: none)."""
    metadata: bool = True
    """Write into the video how it was made.

    One line of text, as the comment that players show: program version, seed, preset, weights, prompt. No paths or times.
    """
    mark_synthetic: bool = True
    """Mark the video as made by a machine, for programs that look for it.

    XMP DigitalSourceType trainedAlgorithmicMedia, as IPTC has it. It stays without metadata: laws may ask for it.
    """
    enlarge: Annotated[int, Field(ge=1, le=16)] = 1
    """Enlarge the finished pictures by a whole factor, for viewing; no new detail."""

    @model_validator(mode="after")
    def _fits_together(self) -> RenderSettings:
        if self.overlap >= self.window:
            raise ValueError(
                f"overlap: got {self.overlap}, expected less than the window of {self.window} latent frames"
            )
        if self.window_batch != 1 and self.order == "steps":
            raise ValueError(f"window_batch: got {self.window_batch} in step order, expected 1, or order wavefront")
        if max(self.size) * self.enlarge > LARGEST_VIDEO_PX:
            raise ValueError(
                f"enlarge: got {self.enlarge} at {self.size[0]}x{self.size[1]}, expected at most "
                f"{LARGEST_VIDEO_PX // max(self.size)}"
            )
        if self.face is not None and self.fit != "face":
            raise ValueError(f"face: got {self.face} with fit {self.fit}, expected fit face")
        if isinstance(self.guidance, tuple):
            total = sum(row.weight for row in self.guidance)
            if abs(total - 1) > 1e-6:
                raise ValueError(f"guidance: got weights that add up to {total:g}, expected 1")
        if self.guidance_interval and not 0 <= self.guidance_interval[0] < self.guidance_interval[1] <= 1:
            raise ValueError(f"guidance_interval: got {list(self.guidance_interval)}, expected 0 <= low < high <= 1")
        return self


class WeightsSettings(Settings):
    """Which weights a video is made with."""

    weights: WeightsFolder = None
    """Folder of the weights (null: where `avatarctl fetch` puts them).

    puppet stands for the embedded avatar's.
    """
    variant: Literal["auto", "square", "rec-vec", "wan2.1-fun-1.3b", "wan2.1-i2v-14b"] = "auto"
    """Which released transformer: square, rec-vec (480x832, 832x480), or by size.

    Those of Wan2.1 have no audio layers: for a LoRA that brings them.
    """
    lora: Annotated[tuple[Annotated[str, AfterValidator(check_lora)], ...], BeforeValidator(one_or_more)] = ()
    """LoRA files as FILE or FILE:SCALE, applied in this order.

    puppet-student stands for the embedded avatar's few-step student.
    """


class InputSettings(Settings):
    """What a video is made of, where a command doesn't say."""

    image: Annotated[Path | None, AfterValidator(picture_place)] = None
    """Picture of the person, where a command names none.

    puppet, puppet-2 and puppet-3 stand for the embedded avatar's.
    """
    subtitles: Annotated[tuple[Annotated[str, AfterValidator(check_subtitles)], ...], BeforeValidator(one_or_more)] = ()
    """Subtitles that can be switched on, as LANGUAGE:FILE, such as de:talk.srt.

    SRT or VTT. Their times are those of the recording: with start and duration they are moved and cut.
    """


class AllSettings(RenderSettings, PlacementSettings, WeightsSettings, InputSettings):
    """Everything that a preset may say, flat: one check finds every mistake of a file."""

    def part(self, model: type[Model]) -> Model:
        """Return the settings of one kind: ``part(RenderSettings)``."""
        return model.model_validate({name: getattr(self, name) for name in model.model_fields})


class RenderJob(Settings):
    """One video to be made: its inputs, where it goes, and how."""

    image: Path
    """The picture of the person."""
    audio: Path
    """The recording: any audio file, or a video with sound."""
    output: Path
    """The video to write (.mp4, .mov, .mkv or .webm)."""
    render: RenderSettings = RenderSettings()
    """How the video is made."""
    placement: PlacementSettings = PlacementSettings()
    """Where and how the networks compute."""
    weights: WeightsFolder = None
    """Folder of the weights (null: where `avatarctl fetch` puts them; puppet: the embedded avatar's)."""
    variant: Literal["auto", "square", "rec-vec", "wan2.1-fun-1.3b", "wan2.1-i2v-14b"] = "auto"
    """Released transformer: square for square sizes, rec-vec for others; Wan2.1's with a LoRA that brings audio layers."""
    lora: tuple[tuple[Path, float], ...] = ()
    """LoRA files and their scales, merged into the transformer in this order."""
    subtitles: tuple[tuple[str, Path], ...] = ()
    """Language (ISO 639-2, such as deu) and file of each track of subtitles."""
    preset: str | None = None
    """Name of the preset that the settings came from, for the video's metadata."""
    work_dir: Path | None = None
    """The render folder (null: the output's name with .render added)."""
    frames: Path | None = None
    """Folder for every picture as PNG."""
    keep: bool = False
    """Keep the render folder after success."""
    accept_changes: Annotated[bool, Field(exclude=True)] = False
    """Continue with another number format, attention, compile or tiles than the render began with; for this run alone."""

    @property
    def folder(self) -> Path:
        """The render folder."""
        return self.work_dir or derived(self.output, after=".render")

    @property
    def video(self) -> VideoFormat:
        """How the video is written; raises ``UsageError`` for a suffix or a codec that can't be."""
        return format_of(self.output, self.render.codec, self.render.crf)
