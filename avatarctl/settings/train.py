"""Settings of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PositiveFloat, model_validator

from avatarctl.settings.base import Settings
from avatarctl.settings.distill import Stage, check_student
from avatarctl.settings.render import Guidance
from avatarctl.settings.train_rules import check_train
from avatarctl.settings.values import (
    Kept,
    Paths,
    Seconds,
    Seeds,
    Texts,
    check_device,
    check_lora,
    one_or_more,
    parse_interval,
)

Probability = Annotated[float, Field(ge=0, le=1)]
Mode = Literal["full", "lora", "frozen"]
GROUPS = ("attention", "feed_forward", "audio", "norms", "embeddings")
# A run that is resumed refuses another shape: what is saved would not fit. The weights to start from belong to it.
# A student is of one teacher and of one number of steps, which its file tells.
STUDENT = ("distill", "distill_steps", "teacher_guidance", "teacher_audio_scale", "teacher_text_scale", "teacher_lora")
SHAPE = ("variant", "init_lora", "dims", *GROUPS, "rank", "alpha", "lora_kind", "rslora", *STUDENT)
# What changes no step of a run. Every other setting is its course: it may change from a step on, and run.json notes it.
FREE = (
    "weights",
    "steps",
    "device",
    "workers",
    "log_every",
    "tracker",
    "block_swap",
    "checkpoint_every",
    "checkpoint_every_s",
    "keep_checkpoints",
    "max_bad_steps",
    "exports_kept",
    "export_dtype",
    "validate_every",
    "validation_images",
    "validation_audio",
    "validation_prompts",
    "validation_seeds",
    "validation_preset",
    "holdout_every",
    "gradient_checkpointing",
    "offload_activations",
)


class TrainSettings(Settings):
    """How a transformer is trained, fully or by a LoRA. presets/train/full-1.3b.yaml explains every one in place."""

    weights: Path | None = None
    """Weights to start from: a folder (null: where `avatarctl fetch` puts them).

    Or a transformer file.
    """
    variant: Literal["square", "rec-vec", "wan2.1-fun-1.3b", "wan2.1-i2v-14b"] = "square"
    """Transformer to start from: StableAvatar's, or one of Wan2.1.

    square or rec-vec (480x832, 832x480). Those of Wan2.1 (`avatarctl fetch wan2.1-i2v-14b`) have no audio layers: these begin
    at zero.
    """
    init_lora: Path | None = None
    """LoRA to start from: a file, or the run folder of one (null: none).

    A LoRA run continues its factors; full training begins with it merged in.
    """
    dims: dict[str, int | None] | None = None
    """Sizes of a new transformer with random weights instead (null: none).

    Such as {dim: 96, heads: 4, layers: 4, ffn: 384}; what is left out follows from the data.
    """
    attention: Mode = "full"
    """Train attention (looks, motion, identity): full, by a LoRA, or not."""
    feed_forward: Mode = "full"
    """Train the feed-forward layers (detail, looks): full, by a LoRA, or not."""
    audio: Mode = "full"
    """Train the audio layers (how lips follow): full, by a LoRA, or not."""
    norms: Literal["full", "frozen"] = "full"
    """Train norms and modulation tables of the blocks, or not."""
    embeddings: Mode = "frozen"
    """Train input and output layers: full, by a LoRA, or not.

    Patch, time, text and image embedding, and the output layer.
    """
    rank: Annotated[int, Field(ge=1, le=4096)] = 128
    """LoRA: its size; memory, file and likeness grow with it."""
    alpha: Annotated[float, Field(gt=0)] = 64.0
    """LoRA: its strength; a change counts alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """LoRA: share of its inputs left out at random; helps with few clips."""
    lora_format: Literal["diffusers", "released", "kohya", "comfy"] = "diffusers"
    """LoRA: whose names stand in the file that is written."""
    lora_kind: Literal["lora", "dora", "lokr", "loha"] = "lora"
    """LoRA: dora learns lengths of rows too, lokr and loha make smaller files."""
    rslora: bool = False
    """LoRA: a change counts alpha / sqrt(rank), so that high ranks learn as fast."""
    base_dtype: Literal["same", "float8"] = "same"
    """float8 stores layers that are not trained in one byte per weight."""

    distill: Literal["none", "guidance", "steps"] = "none"
    """Train a student of the guided network: guidance (any steps), steps (few).

    The teacher is the same network with its LoRA off, guided as the settings below say. guidance: one prediction a step
    instead of three, at any number of steps. steps: also large steps, distill_steps of them for a whole video.
    """
    distill_steps: Annotated[int, Field(ge=1, le=64)] = 8
    """distill steps: denoising steps that the student takes, such as 8 or 4."""
    teacher_guidance: Guidance = "cfg"
    """Teacher: how it is guided, as at generation: cfg, or a table of passes."""
    teacher_audio_scale: float = 5.0
    """Teacher: how strongly lips follow the voice (teacher_guidance cfg)."""
    teacher_text_scale: float = 3.0
    """Teacher: how strongly the prompt is followed (teacher_guidance cfg)."""
    teacher_interval: Annotated[tuple[float, float] | None, BeforeValidator(parse_interval)] = None
    """Teacher: guided only between these noise levels (null: always): cheaper."""
    teacher_evaluations: Annotated[int, Field(ge=1, le=64)] = 3
    """distill steps: small steps of the teacher, for one of the student's."""
    teacher_lora: Annotated[tuple[Annotated[str, AfterValidator(check_lora)], ...], BeforeValidator(one_or_more)] = ()
    """Teacher: LoRA files (FILE or FILE:SCALE) that it is rendered with.

    Such as a person's. They are merged into the base, and are named again beside the student at generation.
    """
    own_states: Probability | None = None
    """Share of the student's own paths in what it learns from; the rest are clips.

    null: all with distill steps, none with guidance. With audio scales of 5 guidance is helped by half.
    """
    rollout_states: Annotated[int, Field(ge=1)] | None = None
    """distill steps: noise levels learnt from one path (null: all of a step)."""
    error_floor: Annotated[float, Field(gt=0)] = 0.05
    """Distilling: added to the guidance effect that errors are divided by."""
    stages: tuple[Stage, ...] = ()
    """Students in turn, each from the one before: a list of {distill, steps, …}."""

    shift: Annotated[float, Field(gt=0)] = 5.0
    """Larger trains the coarse picture more, smaller the detail; as at generation."""
    time: Literal["uniform", "logit-normal"] = "uniform"
    """Noise levels trained: all alike, or middle ones more often."""
    stratify: bool = False
    """Spread the noise levels of a step's samples evenly, as released."""
    logit_mean: float = 0.0
    """time logit-normal: where the middle lies."""
    logit_std: Annotated[float, Field(gt=0)] = 1.0
    """time logit-normal: how wide it is."""
    repeats: dict[str, Annotated[float, Field(ge=0)]] = Field(default={})
    """How often clips count in an epoch, by name: {speech/*: 2, pictures/*: 0.5}."""
    loss_weights: dict[str, Annotated[float, Field(ge=0)]] = Field(default={})
    """How much the error of clips counts, by their names: {pictures/*: 0.3}."""
    whole_probability: Probability = 0.4
    """Share of samples whose whole picture counts, face and lips more."""
    face_probability: Probability = 0.1
    """Share of samples where only the face counts; in the rest only the lips."""
    face_weight: Annotated[float, Field(ge=0)] = 1.0
    """How much more the face counts in the whole picture."""
    lip_weight: Annotated[float, Field(ge=0)] = 1.0
    """How much more the lips count in the whole picture."""
    normalise_masks: bool = True
    """Let a small mouth count as much as a large one; false: as released."""
    motion_weight: Probability = 0.0
    """Share of the loss on changes between neighbouring latent frames."""
    motion_axis: Literal["time", "channels"] = "time"
    """Which neighbours: latent frames, or channels of the latents, as released."""
    drop_audio: Probability = 0.1
    """Share of samples without speech, so that guidance can compare."""
    drop_tokens: Probability = 0.1
    """Share of samples without audio tokens, so that guidance can compare."""
    drop_text: Probability = 0.1
    """Share of samples without a prompt, so that guidance can compare."""
    null_text: Literal["negative", "empty"] = "negative"
    """What stands for no prompt: the negative prompt, or an empty one."""
    clip_audio: Probability = 0.3
    """Share of batches in which every picture hears the whole window."""

    steps: Annotated[int, Field(ge=1)] = 100_000
    """Training steps."""
    batch_size: Annotated[int, Field(ge=1)] = 1
    """Samples computed together on each GPU."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Batches per step: steadier and slower, without more memory."""
    optimizer: Literal[
        "adamw",
        "adamw8bit",
        "lion8bit",
        "adamw8bit-torchao",
        "adamw4bit-torchao",
        "prodigy",
        "adafactor",
        "came",
        "lion",
        "muon",
    ] = "adamw"
    """How gradients become steps; those of 8 and 4 bits save memory.

    adamw8bit and lion8bit need bitsandbytes, those of torchao that; the others pytorch-optimizer: `pip install
    'avatarctl[optimizers]'`. prodigy finds its own learning rate: set learning_rate to 1.
    """
    optimizer_options: dict[str, Any] = Field(default={})
    """Further options of the optimizer, such as {d_coef: 2} for prodigy."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    """How far each step changes the weights, after the warm-up."""
    learning_rates: dict[Literal["attention", "feed_forward", "audio", "norms", "embeddings"], PositiveFloat] = Field(
        default={}
    )
    """Learning rates of groups that learn at another one, such as {audio: 1e-4}."""
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    """Steps over which the learning rate rises from zero."""
    decay: Literal["constant", "cosine", "cosine_with_restarts", "linear", "polynomial"] = "constant"
    """Learning rate after the warm-up: as it is, or falling to decay_floor."""
    decay_floor: Probability = 0.1
    """What is left of the learning rate at the last step."""
    decay_cycles: Annotated[int, Field(ge=1)] = 1
    """decay cosine_with_restarts: how many times it falls."""
    decay_power: Annotated[float, Field(gt=0)] = 1.0
    """decay polynomial: its power."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW: memory of the gradient and of its square."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-10
    """AdamW: smallest divisor."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.03
    """Pull of the weights towards zero."""
    clip_norm: Annotated[float, Field(gt=0)] = 0.05
    """Longest gradient: one odd clip can't spoil the weights."""
    clip_start: Annotated[float, Field(ge=1)] = 1.0
    """How many times clip_norm at the first step; it falls to once (1: no fall)."""
    clip_fall_steps: Annotated[int, Field(ge=1)] = 1000
    """Steps over which it falls; from then on clip_outliers counts."""
    clip_outliers: Annotated[float, Field(ge=1)] = 1.0
    """Gradients over five limits are cut up to so many times shorter (1: no)."""
    max_bad_steps: Annotated[int, Field(ge=1)] = 10
    """Steps in a row that may be skipped: loss or gradient isn't finite."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Export the running average of the weights: calmer pictures (0: none).

    Decay of the average: 0.999 for long runs.
    """

    device: Annotated[str, AfterValidator(check_device)] = "auto"
    """auto (the first GPU, else the CPU), cpu, cuda or cuda:N.

    `accelerate launch` decides for itself.
    """
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the computation; auto: bfloat16 on a GPU.

    Trained weights are kept in float32.
    """
    gradient_checkpointing: bool = True
    """Far less memory, a third slower: blocks are computed twice."""
    offload_activations: bool = False
    """Keep the blocks' inputs in the CPU's memory: less on the GPU, a bit slower."""
    block_swap: Annotated[int, Field(ge=0)] = 0
    """Blocks whose frozen weights wait in the CPU's memory until they compute.

    For cards that don't hold the base: each block less leaves its weights free, a bit slower. LoRA only.
    """
    matmul: Literal["same", "float8"] = "same"
    """float8: multiply in float8, on GPUs that have it (torchao): faster, coarser."""
    compile: bool = False
    """Compile the blocks: minutes at the start, faster afterwards."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Threads that read samples ahead."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Same seed and settings, same run."""
    tracker: Literal[
        "auto", "none", "tensorboard", "wandb", "mlflow", "comet_ml", "aim", "clearml", "dvclive", "swanlab", "trackio"
    ] = "auto"
    """Where measurements go beside metrics.jsonl; auto: tensorboard if installed.

    Others than tensorboard may send them to the network, as they are set up.
    """
    log_every: Annotated[int, Field(ge=1)] = 10
    """Steps between two lines on screen; metrics.jsonl has every step."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 500
    """Save every so many steps."""
    checkpoint_every_s: Annotated[Seconds, Field(gt=0)] = 1200.0
    """Save every so many seconds, whichever comes first."""
    keep_checkpoints: Annotated[int, Field(ge=2)] = 2
    """How many checkpoints are kept on disk."""
    exports_kept: Kept = None
    """How many checkpoints are also exported, the newest ones, as files to use.

    null: all of a LoRA, none of a full transformer, which is large.
    """
    export_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of what is exported; auto: bfloat16 for a LoRA, else float32."""
    holdout: Annotated[int, Field(ge=0)] = 0
    """Samples never trained on, whose loss is the curve to watch."""
    holdout_every: Annotated[int, Field(ge=1)] = 500
    """Steps between two measurements of it."""
    validate_every: Annotated[int, Field(ge=0)] = 0
    """Steps between two validation videos, the first before any step (0: none)."""
    validation_images: Paths = ()
    """Pictures of the validation videos."""
    validation_audio: Paths = ()
    """Recordings of the validation videos, one for each picture."""
    validation_prompts: Texts = ()
    """Prompts of the validation videos: none (the preset's), one, or one for each."""
    validation_seeds: Seeds = ()
    """Seeds of the validation videos: none (the preset's), one, or one for each."""
    validation_preset: str = "square"
    """Render preset of the validation videos."""

    @model_validator(mode="after")
    def _fits_together(self) -> TrainSettings:
        check_train(self)
        check_student(self)
        return self

    @property
    def modes(self) -> dict[str, Mode]:
        """What becomes of each group of weights."""
        return {name: getattr(self, name) for name in GROUPS}

    @property
    def is_student(self) -> bool:
        """Whether a student of the guided network is trained, rather than clips learnt."""
        return self.distill != "none"

    @property
    def states_per_clip(self) -> int:
        """How many noise levels of a clip's path are computed together."""
        return min(self._rollout_states, self.batch_size)

    @property
    def clips_per_pass(self) -> int:
        """How many clips are computed together: with distill steps some rows of a batch are noise levels of one."""
        return self.batch_size // self.states_per_clip

    @property
    def passes_per_batch(self) -> int:
        """How many passes of a step learn from the same clips."""
        return max(self._rollout_states // self.batch_size, 1)

    @property
    def _rollout_states(self) -> int:
        if self.distill != "steps":
            return 1
        return self.rollout_states or self.batch_size * self.accumulate

    @property
    def exports(self) -> int | None:
        """How many exports of checkpoints are kept; None: all."""
        kept = ("all" if self.is_lora else 0) if self.exports_kept is None else self.exports_kept
        return None if kept == "all" else kept

    @property
    def is_lora(self) -> bool:
        """Return whether the run makes a LoRA file rather than a transformer."""
        return "lora" in self.modes.values()


class TrainJob(Settings):
    """One training run: the samples, where it lives, and how."""

    data: Path
    """Cache that `avatarctl data encode` made."""
    more_data: tuple[Path, ...] = ()
    """Further caches, of other sizes, lengths or clips."""
    output: Path
    """Run folder."""
    train: TrainSettings = TrainSettings()
    """How it is trained."""
    preset: str = ""
    """Name of the preset that it was begun with, for the metadata of what is exported."""
