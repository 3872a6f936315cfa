"""Calculate the bytes that a training run needs on the device; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from avatarctl.networks.dims import TransformerDims
from avatarctl.networks.memory import CUDA_CONTEXT_BYTES, latent_tokens, transformer_parameters
from avatarctl.settings.train import TrainSettings

# Bytes per token that one block keeps at its widest moment on the way back, for passes in float32 (4 bytes) and bfloat16
# (2): per unit of width, of the feed-forward's hidden width, and of LoRA rank. Measured as peaks of the allocator over
# passes of small models on the CPU (tests/training/test_training_memory.py compares other sizes with them).
BLOCK_BYTES = {4: (77.0, 16.0, 26.0), 2: (79.0, 10.0, 11.0)}
# Bytes of the optimizer's states per trained weight.
STATE_BYTES = {
    "adamw": 8,
    "adamw8bit": 2,
    "lion8bit": 1,
    "adamw8bit-torchao": 2,
    "adamw4bit-torchao": 1,
    "prodigy": 16,
    "adafactor": 2,
    "came": 4,
    "lion": 4,
    "muon": 4,
}
SWAP_RESIDENT = 2  # swapped blocks whose weights are on the device: the one that computes, and the next


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes on the device: weights as they are stored, gradients, optimizer states, activations, and their sum."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    peak: int

    def in_words(self) -> str:
        """Return the parts in GiB."""
        parts = {"weights": self.weights, "gradients": self.gradients, "optimizer": self.optimizer}
        return ", ".join(
            f"{name} {size / 2**30:.1f}" for name, size in {**parts, "activations": self.activations}.items()
        )


def linear_weights(dims: TransformerDims) -> dict[str, list[tuple[int, int]]]:
    """Return (inputs, outputs) of every linear layer by group."""
    d, f = dims.dim, dims.ffn
    hidden = dims.vocal_hidden
    adapter = [(dims.w2v, hidden or d)] + ([(hidden, d)] if hidden else [])
    adapter += 2 * [*(4 * [(d, d)]), (d, 2 * d), (2 * d, d)] + [(d, d)]
    return {
        # self-attention 4; cross-attention query, output, keys and values of text and image
        "attention": dims.layers * 10 * [(d, d)],
        "feed_forward": dims.layers * [(d, f), (f, d)],
        "audio": dims.layers * 2 * [(d, d)] + adapter,
        # text, time and its modulation, image, output
        "embeddings": [
            *((dims.text, d), (d, d)),
            *((dims.freq_dim, d), (d, d), (d, 6 * d)),
            *((dims.clip, dims.clip), (dims.clip, d)),
            (d, dims.out_dim * dims.patch[0] * dims.patch[1] * dims.patch[2]),
        ],
    }


def trained_parameters(dims: TransformerDims, settings: TrainSettings) -> tuple[int, int]:
    """Count (weights that train, base weights among them: those of groups that train in full)."""
    whole = transformer_parameters(dims)
    linear = {group: sum(i * o + o for i, o in layers) for group, layers in linear_weights(dims).items()}
    sizes = {**linear, "norms": dims.layers * 13 * dims.dim}
    # The adapter's norms and tables train with it; its first projections, counted above with a bias, have none.
    hidden = dims.vocal_hidden
    sizes["audio"] += 24 * dims.dim + (2 * hidden - hidden - dims.dim if hidden else -dims.dim)
    # Patch embedding, the image tokens' norms and the output's table train with the embeddings.
    sizes["embeddings"] = whole - sum(size for group, size in sizes.items() if group != "embeddings")
    modes = settings.modes
    full = sum(size for group, size in sizes.items() if modes[group] == "full")
    lora = sum(
        settings.rank * (i + o)
        for group, layers in linear_weights(dims).items()
        if modes[group] == "lora"
        for i, o in layers
    )
    return full + lora, full


def activation_bytes(dims: TransformerDims, tokens: int, settings: TrainSettings, value_bytes: int) -> int:
    """Bytes of activations of one sample: the blocks' inputs (unless they wait in the CPU's memory), and one block at its widest.

    Without checkpointing every block is kept as a whole; what of it is freed on the way is not taken off.
    """
    width, hidden, rank = BLOCK_BYTES[value_bytes]
    block = round(dims.dim * width + dims.ffn * hidden + (settings.rank * rank if settings.is_lora else 0))
    if not settings.gradient_checkpointing:
        return tokens * dims.layers * block
    inputs = 0 if settings.offload_activations else dims.layers * dims.dim * value_bytes
    return tokens * (inputs + block)


def frozen_block_bytes(dims: TransformerDims, settings: TrainSettings, value_bytes: int) -> int:
    """Bytes of one block's frozen weights as they are stored: what block swap keeps in the CPU's memory."""
    d, f = dims.dim, dims.ffn
    layers = {"attention": 10 * d * d, "feed_forward": 2 * d * f, "audio": 2 * d * d}
    frozen = sum(size for group, size in layers.items() if settings.modes[group] != "full")
    return frozen * (1 if settings.base_dtype == "float8" else value_bytes)


def estimate(
    dims: TransformerDims, width: int, height: int, window: int, settings: TrainSettings, narrow: bool, on_gpu: bool
) -> TrainingMemory:
    """Estimate the device memory of a training step at ``width`` x ``height`` pixels; ``narrow``: passes in bfloat16.

    Frozen weights count as they are stored, trained ones four bytes; gradients four bytes each, AdamW's states eight (two
    with 8 bits), the running average four more. A calculation: what it rests on is measured on small models on the CPU.
    """
    trained, full = trained_parameters(dims, settings)
    frozen = transformer_parameters(dims) - full
    value_bytes = 2 if narrow else 4
    stored = frozen * value_bytes
    if settings.base_dtype == "float8":
        linear = sum(
            i * o
            for group, layers in linear_weights(dims).items()
            if settings.modes[group] != "full"
            for i, o in layers
        )
        stored -= linear * (value_bytes - 1)
    swapped = min(settings.block_swap, dims.layers)
    if swapped > SWAP_RESIDENT:
        stored -= (swapped - SWAP_RESIDENT) * frozen_block_bytes(dims, settings, value_bytes)
    # Autocast keeps a narrow copy of each trained weight while the passes run.
    weights = stored + trained * (4 + (2 if narrow else 0) + (4 if settings.ema else 0))
    gradients = trained * 4
    states = trained * STATE_BYTES[settings.optimizer]
    tokens = latent_tokens(dims, width, height, window)
    activations = settings.batch_size * activation_bytes(dims, tokens, settings, value_bytes)
    context = CUDA_CONTEXT_BYTES if on_gpu else 0
    return TrainingMemory(weights, gradients, states, activations, weights + gradients + states + activations + context)


def ways_to_save(
    dims: TransformerDims, width: int, height: int, window: int, settings: TrainSettings, narrow: bool, begun: bool
) -> list[tuple[str, int]]:
    """Return (flags, bytes saved) of every setting that lets a run need less of the device, what saves most first.

    ``begun``: a checkpoint is there, so the shape of what trains has to stay.
    """
    trains_full = {name for name, mode in settings.modes.items() if mode == "full"}
    batch, accumulate = settings.batch_size, settings.accumulate
    changes: list[tuple[str, dict[str, Any]]] = [
        ("--set gradient_checkpointing=true", {"gradient_checkpointing": True}),
        ("--set offload_activations=true", {"offload_activations": True}),
        (f"--batch-size 1 --accumulate {batch * accumulate}", {"batch_size": 1, "accumulate": batch * accumulate}),
        ("--set ema=0", {"ema": 0.0}),
    ]
    if find_spec("bitsandbytes"):
        changes.append(("--set optimizer=adamw8bit", {"optimizer": "adamw8bit"}))
    if settings.is_lora and not trains_full & {"attention", "feed_forward"}:
        changes.append(("--set base_dtype=float8", {"base_dtype": "float8"}))
    if (
        settings.is_lora
        and settings.gradient_checkpointing
        and not settings.compile
        and settings.block_swap < dims.layers
    ):
        changes.append((f"--set block_swap={dims.layers}", {"block_swap": dims.layers}))
    if not begun and settings.is_lora:
        changes.append((f"--rank {max(settings.rank // 4, 1)}", {"rank": max(settings.rank // 4, 1)}))
        if "audio" in trains_full:
            changes.append(("--set audio=lora", {"audio": "lora"}))
    found: list[tuple[str, int]] = []
    now = estimate(dims, width, height, window, settings, narrow, True).peak
    for flags, update in changes:
        saved = now - estimate(dims, width, height, window, settings.model_copy(update=update), narrow, True).peak
        if saved > 0:
            found.append((flags, saved))
    if not narrow:
        saved = now - estimate(dims, width, height, window, settings, True, True).peak
        found.append(("--dtype bfloat16", saved))
    return sorted(found, key=lambda way: -way[1])
