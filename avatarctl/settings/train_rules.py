"""Rules over several settings of a training run: what can't go together, said with the setting to change."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from avatarctl.settings.train import TrainSettings


def check_train(settings: TrainSettings) -> None:
    """Raise ``ValueError``, beginning with the setting to change, for the first rule that is broken."""
    if set(settings.modes.values()) == {"frozen"}:
        raise ValueError("groups: got everything frozen, expected something to train")
    if settings.whole_probability + settings.face_probability > 1 + 1e-9:
        raise ValueError(
            f"face_probability: got {settings.whole_probability:g} + {settings.face_probability:g}, expected at most 1 together"
        )
    if len(settings.validation_images) != len(settings.validation_audio):
        raise ValueError(
            f"validation_audio: got {len(settings.validation_audio)} recordings for {len(settings.validation_images)} pictures, "
            "expected one each"
        )
    for name in ("validation_prompts", "validation_seeds"):
        count, videos = len(getattr(settings, name)), len(settings.validation_images)
        if count not in (0, 1, videos):
            raise ValueError(f"{name}: got {count} for {videos} pictures, expected none, one, or one for each")
    if settings.validate_every and not settings.validation_images:
        raise ValueError("validate_every: got no validation_images, expected pictures and recordings")
    if settings.dims is not None and (settings.weights or settings.init_lora) and not settings.validate_every:
        raise ValueError(
            f"{'weights' if settings.weights else 'init_lora'}: has no effect where dims begins from random weights, expected "
            "one of them: leave it out, or set dims to null"
        )
    if settings.dims is not None and settings.is_lora:
        raise ValueError("dims: got a new transformer for a LoRA, expected weights that have learnt something")
    if idle := [group for group in settings.learning_rates if settings.modes[group] == "frozen"]:
        raise ValueError(f"learning_rates: got {', '.join(idle)}, which are frozen, expected groups that train")
    if settings.block_swap and not (settings.is_lora and settings.gradient_checkpointing):
        raise ValueError(
            "block_swap: is for LoRA with gradient_checkpointing: weights that train, or are kept for the way back, stay"
        )
    if settings.block_swap and settings.compile:
        raise ValueError(
            "block_swap: got compile, expected one of them: compiled blocks don't change their weights' place"
        )
    if settings.matmul == "float8" and settings.base_dtype == "float8":
        raise ValueError("matmul: got base_dtype float8 beside it, expected one of them")
    if settings.rslora and settings.lora_kind not in ("lora", "dora"):
        raise ValueError(f"rslora: got lora_kind {settings.lora_kind}, expected lora or dora")
    if settings.base_dtype == "float8" and settings.lora_kind != "lora":
        raise ValueError(
            f"base_dtype: float8 is for plain LoRA; {settings.lora_kind} reads the base's weights: set it to same"
        )
    if settings.base_dtype == "float8" and "full" in (settings.attention, settings.feed_forward):
        raise ValueError("base_dtype: float8 is for frozen weights; got attention or feed_forward that train in full")
