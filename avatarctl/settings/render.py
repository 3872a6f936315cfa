"""Settings of a render, its inputs and its weights."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from avatarctl.paths import picture_place, weights_place
from avatarctl.settings.base import Model, Settings
from avatarctl.settings.placement import PlacementSettings
from avatarctl.settings.values import LARGEST_VIDEO_PX, Fps, Size, WindowBatch, check_lora, one_or_more

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
    """What the guidance moves away from."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Where the noise comes from: same seed and settings, same video."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 50
    """Denoising steps: time grows with them; under 20 fine detail is lost."""
    size: Size = (512, 512)
    """Width x height of the video in pixels, both divisible by 16."""
    fps: Fps = Fraction(25)
    """Frames per second; 25 is what the released weights know best."""
    window: Annotated[int, Field(ge=2, le=128)] = 21
    """Latent frames denoised together (21 are 81 video frames), as trained."""
    overlap: Annotated[int, Field(ge=2)] = 5
    """Latent frames that neighbouring windows share: more is smoother and slower."""
    blend: Literal["linear", "log"] = "linear"
    """Weights of the later window over the overlap."""
    guidance: Guidance = "cfg"
    """Scheme of passes, or a table of them: cfg as released, native for sharper lips, none for distilled weights."""
    audio_scale: float = 5.0
    """cfg: how strongly lips follow the voice."""
    text_scale: float = 3.0
    """cfg: how strongly the prompt is followed."""
    native_audio_weight: float = 2.0
    """native: weight against the pass without speech."""
    native_token_weight: float = 2.0
    """native: weight against the pass without audio tokens."""
    guidance_interval: tuple[float, float] | None = None
    """Guide only between these two noise levels (0 … 1), one pass elsewhere: faster."""
    guidance_reuse: Annotated[int, Field(ge=1)] = 1
    """Recompute the guidance only every so many steps of a window: faster, less exact."""
    shift: Annotated[float, Field(gt=0)] = 5.0
    """Shift of the noise schedule towards high noise."""
    schedule: Literal["released", "textbook"] = "released"
    """The published schedule (shifted twice at its end) or the textbook one."""
    order: Literal["wavefront", "steps"] = "wavefront"
    """Order of window steps; both give the same video, wavefront finishes its beginning first."""
    window_batch: WindowBatch = 1
    """Windows that may share a pass: faster where one window leaves the device idle; last bits differ. auto: by their size."""
    tail: Literal["full", "reference"] = "full"
    """Last window full (moved left), or short as the published code has it."""
    audio_span: Literal["exact", "reference"] = "exact"
    """Audio of a window cut to its pictures, or as the published code cuts it."""
    start_s: Annotated[float, Field(ge=0)] = 0.0
    """Where in the recording to begin, in seconds."""
    duration_s: Annotated[float, Field(gt=0)] | None = None
    """How much of the recording to use, in seconds (null: to its end)."""
    audio_track: Annotated[int, Field(ge=1)] | None = None
    """Which sound track of a recording with several, from 1 (null: the one that it marks as default)."""
    trim_silence: bool = False
    """Leave out silence at both ends of the recording."""
    separate_vocals: bool = False
    """Lips follow the voice alone, taken out of the music; the video's sound stays as it is. For songs."""
    loudness_dbfs: Annotated[float, Field(le=0)] | None = None
    """Level of the sound in the video in dBFS (null: as recorded)."""
    fit: Literal["cover", "pad"] = "cover"
    """How the picture meets the video's aspect: cropped, or whole between grey bars."""
    with_audio: bool = True
    """Put the recording into the video."""
    crf: Annotated[int, Field(ge=0, le=51)] = 18
    """Constant rate factor of the encoder: lower is larger and better."""
    codec: Literal["h264", "hevc"] = "h264"
    """Format of the pictures in the video."""
    segment_latent_frames: Annotated[int, Field(ge=1)] = 25
    """Latent frames per encoded segment (25: four seconds at 25 fps)."""
    checkpoint_every_s: Annotated[float, Field(ge=0)] = 60.0
    """Seconds between checkpoints: at most this much work is lost by a kill."""
    preview: bool = True
    """Keep a playable file of what is finished while rendering."""
    contact_sheet_every_s: Annotated[float, Field(gt=0)] | None = None
    """Write a sheet with one picture per so many seconds beside the video."""
    enlarge: Annotated[int, Field(ge=1, le=16)] = 1
    """Enlarge the video's pictures by this whole factor, for viewing; nothing is computed at that size."""

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
    """Folder of the weights (null: where `avatarctl fetch` puts them; puppet: the embedded avatar's)."""
    variant: Literal["auto", "square", "rec-vec"] = "auto"
    """Released transformer: square for square sizes, rec-vec for others."""
    lora: Annotated[tuple[Annotated[str, AfterValidator(check_lora)], ...], BeforeValidator(one_or_more)] = ()
    """LoRA files as FILE or FILE:SCALE, applied in this order."""


class InputSettings(Settings):
    """What a video is made of, where a command doesn't say."""

    image: Annotated[Path | None, AfterValidator(picture_place)] = None
    """Picture of the person where a command names none (puppet: the embedded avatar's)."""


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
    """The video to write (.mp4)."""
    render: RenderSettings = RenderSettings()
    """How the video is made."""
    placement: PlacementSettings = PlacementSettings()
    """Where and how the networks compute."""
    weights: WeightsFolder = None
    """Folder of the weights (null: where `avatarctl fetch` puts them; puppet: the embedded avatar's)."""
    variant: Literal["auto", "square", "rec-vec"] = "auto"
    """Released transformer: square for square sizes, rec-vec for others."""
    lora: tuple[tuple[Path, float], ...] = ()
    """LoRA files and their scales, merged into the transformer in this order."""
    work_dir: Path | None = None
    """The render folder (null: the output's name with .render added)."""
    frames: Path | None = None
    """Folder for every picture as PNG."""
    keep: bool = False
    """Keep the render folder after success."""

    @property
    def folder(self) -> Path:
        """The render folder."""
        return self.work_dir or self.output.with_name(self.output.name + ".render")
