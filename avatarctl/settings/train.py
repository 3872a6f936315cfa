"""Settings of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from avatarctl.settings.base import Settings
from avatarctl.settings.values import check_device

Probability = Annotated[float, Field(ge=0, le=1)]
Mode = Literal["full", "lora", "frozen"]
GROUPS = ("attention", "feed_forward", "audio", "norms", "embeddings")
# What may be another when a run goes on: everything else changes what an uninterrupted run would have given.
FREE = (
    "steps",
    "device",
    "workers",
    "log_every",
    "checkpoint_every",
    "checkpoint_every_s",
    "keep_checkpoints",
    "validate_every",
    "validation_images",
    "validation_audio",
    "validation_preset",
    "holdout_every",
    "gradient_checkpointing",
    "offload_activations",
)


def _as_paths(value: Any) -> Any:
    return (value,) if isinstance(value, str | Path) else value


Paths = Annotated[tuple[Path, ...], BeforeValidator(_as_paths)]


class TrainSettings(Settings):
    """How a transformer is trained, fully or by a LoRA. presets/train/full-1.3b.yaml explains every one in place."""

    weights: Path | None = None
    """Folder of the weights to start from (null: where `avatarctl fetch` puts them)."""
    variant: Literal["square", "rec-vec"] = "square"
    """Released transformer to start from."""
    dims: dict[str, int | None] | None = None
    """Sizes of a new transformer with random weights instead (dim, heads, layers, ffn …; the rest follows from the data)."""
    attention: Mode = "full"
    """Self-attention, and cross-attention to text and image."""
    feed_forward: Mode = "full"
    """Feed-forward layers."""
    audio: Mode = "full"
    """Audio keys and values of every block, and the audio adapter."""
    norms: Literal["full", "frozen"] = "full"
    """Norms and modulation tables of the blocks."""
    embeddings: Mode = "frozen"
    """Patch, time, text and image embedding, and the output layer."""
    rank: Annotated[int, Field(ge=1, le=4096)] = 128
    """LoRA: rank of every change; size and memory grow with it."""
    alpha: Annotated[float, Field(gt=0)] = 64.0
    """LoRA: strength; a change counts alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """LoRA: share of inputs left out while training."""
    lora_format: Literal["diffusers", "released", "kohya", "comfy"] = "diffusers"
    """LoRA: names in the file that is written."""
    base_dtype: Literal["same", "float8"] = "same"
    """float8 stores frozen linear layers in one byte per weight and computes in dtype."""

    shift: Annotated[float, Field(gt=0)] = 5.0
    """Shift of the noise levels towards high noise, as at generation."""
    time: Literal["uniform", "logit-normal"] = "uniform"
    """How time is drawn before the shift."""
    logit_mean: float = 0.0
    """logit-normal: mean of the logit."""
    logit_std: Annotated[float, Field(gt=0)] = 1.0
    """logit-normal: deviation of the logit."""
    whole_probability: Probability = 0.4
    """Share of samples whose error is weighted 1 + face mask + lip mask."""
    face_probability: Probability = 0.1
    """Share of samples whose error counts in the face alone; the rest counts in the lips alone."""
    face_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the face mask in the first."""
    lip_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the lip mask in the first."""
    normalise_masks: bool = True
    """Divide a mask-only error by the mask's mean, so that its size doesn't depend on the face's; false as released."""
    motion_weight: Probability = 0.0
    """Share of the loss that compares changes between neighbouring latent frames."""
    drop_audio: Probability = 0.1
    """Share of samples trained without speech states, so that guidance has something to subtract."""
    drop_tokens: Probability = 0.1
    """Share of samples trained without audio tokens: the state that guidance compares with at generation."""
    drop_text: Probability = 0.1
    """Share of samples trained with the null text."""
    null_text: Literal["negative", "empty"] = "negative"
    """Null text: the negative prompt, as at generation, or the empty one."""
    clip_audio: Probability = 0.3
    """Share of batches in which every token hears the audio of the whole window."""

    steps: Annotated[int, Field(ge=1)] = 100_000
    """Optimizer steps."""
    batch_size: Annotated[int, Field(ge=1)] = 1
    """Samples per process and pass; all of one size."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Passes per optimizer step."""
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    """AdamW, or with states of 8 bits (needs bitsandbytes and a GPU)."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    """Learning rate after the warm-up."""
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    """Steps over which the learning rate rises from zero."""
    decay: Literal["constant", "cosine"] = "constant"
    """Learning rate after the warm-up: as it is, or down to a tenth at the last step."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Momentum of gradient and squared gradient."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-10
    """AdamW's epsilon."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.03
    """Pull of the weights towards zero (LoRA factors too)."""
    clip_norm: Annotated[float, Field(gt=0)] = 0.05
    """Longest gradient; longer ones are shortened."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the average of the weights that is exported (0: none; 0.999 for long runs)."""

    device: Annotated[str, AfterValidator(check_device)] = "auto"
    """auto (the first GPU, else the CPU), cpu, cuda or cuda:N; a launcher decides for itself."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """What passes compute in; trained weights stay float32. auto: bfloat16 on a GPU."""
    gradient_checkpointing: bool = True
    """Keep a block's input alone and compute the block again on the way back: a third slower, far less memory."""
    offload_activations: bool = False
    """Keep the blocks' inputs in the CPU's memory between the ways there and back: less memory, a little slower."""
    compile: bool = False
    """Compile the blocks: minutes at the start, faster after."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Threads that read samples ahead."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Where every draw comes from: order of samples, time, noise, dropout."""
    log_every: Annotated[int, Field(ge=1)] = 10
    """Steps between two lines on screen; metrics.jsonl has every step."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 500
    """Steps between checkpoints."""
    checkpoint_every_s: Annotated[float, Field(gt=0)] = 1200.0
    """Seconds between checkpoints, whichever comes first."""
    keep_checkpoints: Annotated[int, Field(ge=2)] = 2
    """Checkpoints kept."""
    holdout: Annotated[int, Field(ge=0)] = 0
    """Samples never trained on, whose loss under fixed draws is measured."""
    holdout_every: Annotated[int, Field(ge=1)] = 500
    """Steps between those measurements."""
    validate_every: Annotated[int, Field(ge=0)] = 0
    """Steps between validation videos (0: none)."""
    validation_images: Paths = ()
    """Pictures of the validation videos."""
    validation_audio: Paths = ()
    """Recordings of the validation videos, one for each picture."""
    validation_preset: str = "square"
    """Render preset of the validation videos."""

    @model_validator(mode="after")
    def _fits_together(self) -> TrainSettings:
        modes = {name: getattr(self, name) for name in GROUPS}
        if set(modes.values()) == {"frozen"}:
            raise ValueError("groups: got everything frozen, expected something to train")
        if self.whole_probability + self.face_probability > 1 + 1e-9:
            raise ValueError(
                f"face_probability: got {self.whole_probability:g} + {self.face_probability:g}, expected at most 1 together"
            )
        if len(self.validation_images) != len(self.validation_audio):
            raise ValueError(
                f"validation_audio: got {len(self.validation_audio)} recordings for {len(self.validation_images)} pictures, "
                "expected one each"
            )
        if self.validate_every and not self.validation_images:
            raise ValueError("validate_every: got no validation_images, expected pictures and recordings")
        if self.dims is not None and self.is_lora:
            raise ValueError("dims: got a new transformer for a LoRA, expected weights that have learnt something")
        if self.base_dtype == "float8" and "full" in (self.attention, self.feed_forward):
            raise ValueError(
                "base_dtype: float8 is for frozen weights; got attention or feed_forward that train in full"
            )
        return self

    @property
    def modes(self) -> dict[str, Mode]:
        """What becomes of each group of weights."""
        return {name: getattr(self, name) for name in GROUPS}

    @property
    def is_lora(self) -> bool:
        """Return whether the run makes a LoRA file rather than a transformer."""
        return "lora" in self.modes.values()


class TrainJob(Settings):
    """One training run: the samples, where it lives, and how."""

    data: Path
    """Cache that `avatarctl data encode` made."""
    output: Path
    """Run folder."""
    train: TrainSettings = TrainSettings()
    """How it is trained."""
