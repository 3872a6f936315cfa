"""Settings of how clips are encoded into samples."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from avatarctl.settings.base import Settings
from avatarctl.settings.render import RenderSettings
from avatarctl.settings.values import Fps, Size, check_device

# What may be another when a cache is gone on with: nothing in a sample depends on it.
FREE = ("shard_mb",)
# Settings of later versions: a cache without them was made with their defaults, and is as good.
LATER = {"separate_vocals": False, "split_at_cuts": True, "latents_of": "window"}
OWN_RATES = (20, 30)  # pictures a second that a clip keeps


def one_or_more(value: Any) -> Any:
    """Take one size where a list is expected."""
    single = isinstance(value, str) or (isinstance(value, list | tuple) and value and isinstance(value[0], int))
    return (value,) if single else value


class EncodeSettings(Settings):
    """How clips become samples of one window each."""

    window: Annotated[int, Field(ge=2, le=128)] = 21
    """Latent frames of a sample, as trained: 21 are 81 frames of video."""
    stride: Annotated[int, Field(ge=1)] | None = None
    """Frames from one sample's start to the next (null: a window, no overlap)."""
    starts: Literal["even", "fixed", "random"] = "even"
    """Where a clip's windows begin: even lets the last one end with the clip.

    fixed leaves out what remains at its end; random begins each clip's first window somewhere within a stride.
    """
    sizes: Annotated[tuple[Size, ...], BeforeValidator(one_or_more), Field(min_length=1)] = (
        (512, 512),
        (480, 832),
        (832, 480),
    )
    """Sizes of samples; each clip goes to the one nearest to its shape.

    It is scaled to cover that size, and cropped in the middle.
    """
    fps: Fps | None = None
    """Frames per second of every sample (null: each clip's own).

    Clips of less than 20 or more than 30 become 25.
    """
    latents: Literal["mean", "sample"] = "mean"
    """What the VAE says of a picture: its mean, or a draw around it, as released."""
    latents_of: Literal["window", "clip"] = "window"
    """What the VAE encodes: each window on its own, or a clip's pictures once.

    Of a clip, windows begin at every fourth picture, and after the first with a latent frame that knows the pictures before.
    """
    pictures: bool = False
    """Also encode picture files of the SOURCE, as samples without motion or sound."""
    split_at_cuts: bool = True
    """Look for cuts in clips that `data prepare` didn't make.

    No sample shows two shots then.
    """
    separate_vocals: bool = False
    """Take the voice out of the music first.

    Speech states are those of the voice alone.
    """
    short: Literal["pad", "skip"] = "pad"
    """Clips shorter than a window: pad fills them up, skip leaves them out.

    They are filled up with their last picture and silence, which are not trained on.
    """
    prompt: str | None = None
    """Prompt of every clip without a caption (null: the one of its kind)."""
    prompt_speech: str = "The protagonist is talking"
    """Prompt of clips of speech, and of those whose kind isn't known."""
    prompt_singing: str = "The protagonist is singing"
    """Prompt of clips of singing."""
    prompt_dancing: str = "The protagonist is simultaneously dancing and singing"
    """Prompt of clips of dancing."""
    negative_prompt: str = RenderSettings.model_fields["negative_prompt"].default
    """What stands for no prompt in training: the negative prompt of renders."""
    text_len: Annotated[int, Field(ge=2, le=512)] = 512
    """Most tokens of a prompt; what the transformer reads."""
    store_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Number format of the samples on disk."""
    shard_mb: Annotated[int, Field(ge=1)] = 1024
    """Megabytes after which a new file of samples is begun."""

    @model_validator(mode="after")
    def _sizes_differ(self) -> EncodeSettings:
        if len(set(self.sizes)) < len(self.sizes):
            raise ValueError("sizes: got the same size twice, expected different ones")
        return self

    @model_validator(mode="after")
    def _drawn_once(self) -> EncodeSettings:
        if self.latents == "sample" and self.latents_of == "clip":
            raise ValueError(
                "latents_of: got clip with latents: sample, which draws for each window; expected latents: mean"
            )
        return self

    @property
    def frames(self) -> int:
        """The number of video frames of a sample."""
        return 4 * (self.window - 1) + 1

    def that_count(self) -> dict[str, Any]:
        """Give, as JSON holds them, the settings that every sample of a cache has in common."""
        values = self.model_dump(mode="json").items()
        return {name: value for name, value in values if name not in FREE and value != LATER.get(name, ...)}

    def rate_of(self, own: Fraction) -> Fraction:
        """Return the pictures per second of the samples of a clip: what is asked for, its own, or 25 where that is unusual."""
        lowest, highest = OWN_RATES
        return self.fps or (own if lowest <= own <= highest else Fraction(25))

    def prompt_of(self, kind: str | None) -> str:
        """Return the prompt of a clip without a caption."""
        of_kind: str = getattr(self, f"prompt_{kind or 'speech'}")
        return self.prompt if self.prompt is not None else of_kind


class EncodeJob(Settings):
    """Clips to be encoded: where they are, where the samples go, and how."""

    source: Path
    """A folder of clips, a list of clip folders (.txt), or one video."""
    cache: Path
    """The folder of encoded samples."""
    settings: EncodeSettings = EncodeSettings()
    """How clips become samples."""
    weights: Path | None = None
    """Folder of the weights (null: where `avatarctl fetch` puts them)."""
    batch: Annotated[int, Field(ge=0)] = 0
    """Windows that are encoded together (0: two on a GPU, one on the CPU)."""
    device: Annotated[str, AfterValidator(check_device)] = "auto"
    """auto (the first GPU, else the CPU), cpu, cuda or cuda:N."""
    force: bool = False
    """Throw away what the cache holds and start over."""
