"""Takes plain values, gives frozen, validated settings of a render, its weights and its device; no torch, no files."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    Tag,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from avatarctl.errors import UsageError
from avatarctl.paths import picture_place, weights_place

# Rates that decimals only approximate (SMPTE 1001 family).
NTSC = {"23.976": "24000/1001", "23.98": "24000/1001", "29.97": "30000/1001", "59.94": "60000/1001"}
LARGEST_VIDEO_PX = 8192  # a side that common decoders take
SIZE_STEP = 16  # eight pixels per latent, two latents per token


def parse_fps(value: Any) -> Fraction:
    """Give the exact frame rate of 25, "25", 23.976, "29.97", "30000/1001"; raises ``ValueError`` for anything else."""
    text = str(value).strip()
    try:
        fps = Fraction(NTSC.get(text, text))
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"got '{value}', expected frames per second such as 25, 29.97 or 30000/1001") from error
    if not 1 <= fps <= 240:
        raise ValueError(f"got {value}, expected 1 to 240 frames per second")
    return fps


def parse_size(value: Any) -> tuple[int, int]:
    """Give (width, height) of "512x512", a pair or {width, height}; raises ``ValueError`` for anything else."""
    if isinstance(value, Mapping) and set(value) == {"width", "height"}:
        value = (value["width"], value["height"])
    pair = re.fullmatch(r"\s*(\d+)\s*[xX×]\s*(\d+)\s*", value) if isinstance(value, str) else None
    sides = [int(side) for side in pair.groups()] if pair else value
    if not isinstance(sides, list | tuple) or len(sides) != 2 or any(type(side) is not int for side in sides):
        raise ValueError(f"got '{value}', expected WIDTHxHEIGHT such as 512x512")
    width, height = sides
    if width % SIZE_STEP or height % SIZE_STEP or not (64 <= width <= 4096 and 64 <= height <= 4096):
        near = "x".join(str(min(max(round(side / SIZE_STEP) * SIZE_STEP, 64), 4096)) for side in (width, height))
        raise ValueError(f"got {width}x{height}, expected 64 to 4096 and divisible by {SIZE_STEP}, such as {near}")
    return width, height


def parse_window_batch(value: Any) -> int | Literal["auto"]:
    """Give how many windows may share a pass; raises ``ValueError`` for what is neither auto nor 1 to 64."""
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if value == "auto" or (type(number) is int and 1 <= number <= 64):
        return number
    raise ValueError(f"got '{value}', expected 1 to 64, or auto")


def parse_lora(text: str) -> tuple[str, float]:
    """Give (file, scale) of "FILE" or "FILE:SCALE"; what follows the last colon is a scale only if it is a number.

    Raises ``ValueError`` for an empty file name or a scale that is not finite.
    """
    file, _, tail = text.rpartition(":")
    try:
        scale = float(tail)
    except ValueError:  # no scale: the colon, if any, belongs to a path such as C:/style.safetensors
        file, scale = text, 1.0
    if not file or not math.isfinite(scale):
        raise ValueError(f"got '{text}', expected FILE or FILE:SCALE such as style.safetensors:0.8")
    return file, scale


def check_device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ValueError(f"got '{name}', expected auto, cpu, cuda or cuda:N")
    return name


def _check_lora(text: str) -> str:
    parse_lora(text)
    return text


def _one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Fps = Annotated[
    Fraction,
    BeforeValidator(parse_fps),
    PlainSerializer(str),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string"}]}),
]
Size = Annotated[
    tuple[int, int],
    BeforeValidator(parse_size),
    PlainSerializer(lambda s: f"{s[0]}x{s[1]}"),
    WithJsonSchema({"type": "string", "pattern": r"^\d+x\d+$"}),
]


WindowBatch = Annotated[
    int | Literal["auto"],
    BeforeValidator(parse_window_batch),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1, "maximum": 64}, {"const": "auto"}]}),
]
WeightsFolder = Annotated[Path | None, AfterValidator(weights_place)]

Model = TypeVar("Model", bound="Settings")


class Settings(BaseModel):
    """Base of all settings: frozen, nothing unknown, every default checked too."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


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


class PlacementSettings(Settings):
    """Where and how the networks compute."""

    device: Annotated[str, AfterValidator(check_device)] = "auto"
    """auto (the first GPU, else the CPU), cpu, cuda or cuda:N."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the transformer: auto is bfloat16 on GPUs that have it, float32 on the CPU."""
    memory: Literal["full", "model", "group", "sequential"] = "full"
    """How much stays on the device: all, one network, streamed groups of layers, single layers."""
    weights_dtype: Literal["same", "float8"] = "same"
    """float8 stores the transformer's weights in one byte each and computes in dtype."""
    attention: str = "auto"
    """Attention backend of diffusers (native, flash, _flash_3, sage …), or auto."""
    compile: bool = False
    """Compile the transformer's blocks: minutes at the start, faster passes after."""
    vae_tiling: bool = False
    """Encode and decode in tiles: less memory, pictures not quite equal."""


class WeightsSettings(Settings):
    """Which weights a video is made with."""

    weights: WeightsFolder = None
    """Folder of the weights (null: where `avatarctl fetch` puts them; puppet: the embedded avatar's)."""
    variant: Literal["auto", "square", "rec-vec"] = "auto"
    """Released transformer: square for square sizes, rec-vec for others."""
    lora: Annotated[tuple[Annotated[str, AfterValidator(_check_lora)], ...], BeforeValidator(_one_or_more)] = ()
    """LoRA files as FILE or FILE:SCALE, applied in this order."""


class InputSettings(Settings):
    """What a video is made of, where a command doesn't say."""

    image: Annotated[Path | None, AfterValidator(picture_place)] = None
    """Picture of the person where a command names none (puppet: the embedded avatar's)."""


class AllSettings(RenderSettings, PlacementSettings, WeightsSettings, InputSettings):
    """Everything that a preset may say, flat: one check finds every mistake of a file."""

    def part(self, model: type[Model]) -> Model:
        """Give the settings of one kind: ``part(RenderSettings)``."""
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


def make(
    model: type[Model],
    values: Mapping[str, Any],
    places: Mapping[str, str] | None = None,
    mistakes: Sequence[str] = (),
) -> Model:
    """Build settings from plain values; every mistake is listed in one ``UsageError``.

    ``places`` says for a field (or ``guidance.1.text``) where its value came from: a flag, a line of a file.
    ``mistakes`` found before are listed first.
    """
    lines = list(mistakes)
    try:
        made = model.model_validate(dict(values))
    except ValidationError as error:
        lines += [_line(model, problem, places or {}) for problem in error.errors()]
    if lines:
        raise UsageError(
            "\n".join(dict.fromkeys(lines)), "`avatarctl presets show square` tells what each setting takes"
        )
    return made


def describe(model: type[Settings]) -> dict[str, tuple[str, Any, str]]:
    """Give field -> (type in words, default as a file has it, what it does), for help and documents."""
    defaults = model().model_dump(mode="json")
    return {
        name: (_type_words(field.annotation), defaults[name], field.description or "")
        for name, field in model.model_fields.items()
    }


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Give ", did you mean X?" for the closest known word, or nothing."""
    close = get_close_matches(word, known, n=1)
    return f", did you mean {close[0]}?" if close else ""


WORDS: dict[Any, str] = {
    type(None): "null",
    Path: "folder",
    tuple[int, int]: "WIDTHxHEIGHT",
    Fraction: "frames per second",
    GuidancePass: "{text, audio, tokens, weight}",
}


def _type_words(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if kind in WORDS:
        return WORDS[kind]
    if origin is Annotated:
        return _type_words(inner[0])
    if origin is Literal:
        return " | ".join(inner)
    if origin in (Union, UnionType):
        return " | ".join(_type_words(part) for part in inner)
    if origin is tuple:
        return f"list of {_type_words(inner[0])}" if inner[-1] is Ellipsis else "pair of " + _type_words(inner[0])
    return kind.__name__


def _line(model: type[Settings], problem: Any, places: Mapping[str, str]) -> str:
    # Drop the tag of the union, which is nothing a user wrote.
    path = [str(part) for part in problem["loc"] if part not in ("guidance name", "guidance table")]
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not path:  # a rule over several fields: its message begins with the field to change
        name, _, message = message.partition(": ")
        path = [name]
    given, kind = problem["input"], problem["type"]
    if kind == "extra_forbidden":
        known = list(model.model_fields if len(path) == 1 else GuidancePass.model_fields)
        message = "unknown setting" + did_you_mean(path[-1], known)
    elif kind == "missing":
        message = "missing"
    elif kind == "literal_error":
        wanted = problem["ctx"]["expected"]
        near = did_you_mean(given, re.findall(r"'([^']*)'", wanted)) if isinstance(given, str) else ""
        message = f"got '{given}', expected {wanted}{near}"
    elif kind != "value_error":
        wanted = re.sub(r"^Input should( be)? ", "expected ", message)
        message = f"got '{given}', {wanted}"
    return f"{'.'.join(path)}{_place(path, places)}: {message}"


def _place(path: Sequence[str], places: Mapping[str, str]) -> str:
    for length in range(len(path), 0, -1):
        if place := places.get(".".join(path[:length])):
            return f" ({place})"
    return ""
