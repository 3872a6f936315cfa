"""What the sections of device.py share: the device under measurement, sizes, inputs, and the figures so far."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avatarctl.networks import memory
from avatarctl.networks.cards import Rates
from avatarctl.networks.dims import TRANSFORMER_1_3B, WAN_VAE, TransformerDims
from avatarctl.networks.placement import Placement
from avatarctl.networks.reach import measure
from avatarctl.networks.transformer import StableAvatarTransformer3DModel
from avatarctl.sampling.denoise import schedule
from avatarctl.sampling.guidance import scheme_of
from avatarctl.sampling.predict import Conditions, Predictor
from avatarctl.sampling.windows import Window
from avatarctl.settings.render import RenderSettings
from benchmarks.window_step import now, random_inputs, random_transformer

SIZES = ((512, 512), (480, 832))
WINDOW = 21
IMAGE_TOKENS, SPEECH_STATES = 257, 161  # of CLIP ViT-H/14; of wav2vec 2.0 over a window at 25 pictures a second
FPS = Fraction(25)
TINY_DIMS = TransformerDims(dim=128, heads=2, layers=2, ffn=256, text=64, text_len=16, clip=32, w2v=32, freq_dim=32)
MODES = ("full", "model", "group", "sequential")
OUT_OF_MEMORY = "out of memory"


class Bench:
    """What is measured and where: the device, the sizes, and the figures so far."""

    def __init__(self, device: torch.device, tiny: bool, minutes: float, target: Path | None) -> None:
        self.device, self.tiny, self.target = device, tiny, target
        self.dims = TINY_DIMS if tiny else TRANSFORMER_1_3B
        self.sizes = ((64, 64), (64, 96)) if tiny else SIZES
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.vae_dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.vae_dims = WAN_VAE.with_(base_dim=8 if tiny else WAN_VAE.base_dim)
        self._rates: dict[tuple[int, int], Rates] = {}
        self.seconds_per_row = minutes * 60 / 60
        self.figures: dict[str, Any] = {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
            "torch": torch.__version__,
            "dtype": str(self.dtype),
            "parameters": memory.transformer_parameters(self.dims),
            "tiny": tiny,
        }

    def time(self, work: Callable[[], object]) -> float | str:
        """Return the median seconds of some runs after a warm-up, or say that memory ran out."""
        try:
            work()
            runs: list[float] = []
            while len(runs) < 3 or (sum(runs) < self.seconds_per_row and len(runs) < 20):
                begin = now(self.device)
                work()
                runs.append(now(self.device) - begin)
                if sum(runs) > 10 * self.seconds_per_row:
                    break
            return sorted(runs)[len(runs) // 2]
        except torch.OutOfMemoryError:
            return OUT_OF_MEMORY

    def free(self) -> None:
        """Return memory back to the device, and forget what was compiled.

        Kernels compiled for one size would be made again for any size when the next one comes, and those are slower.
        """
        torch.compiler.reset()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def rates(self, size: tuple[int, int]) -> Rates:
        """Return what the device reaches with the shapes of a size: what estimates of renders rest on."""
        if size not in self._rates:
            work = memory.Workload(self.dims, *size, WINDOW, decoder_width=self.vae_dims.base_dim)
            self._rates[size] = measure(self.device, self.dtype, self.vae_dtype, work)
        return self._rates[size]

    def save(self) -> None:
        """Write the figures so far."""
        if self.target:
            # Renamed into place: a run that is killed while writing leaves the figures of the section before.
            part = self.target.with_name(self.target.name + ".part")
            part.write_text(json.dumps(self.figures, indent=2) + "\n", encoding="utf-8")
            part.replace(self.target)

    def placement(self, **changes: Any) -> Placement:
        """Return a placement on this device."""
        fields = {"memory": "full", "float8": False, "attention": None, "compile": False, **changes}
        return Placement(self.device, self.dtype, **fields)

    def inputs(self, size: tuple[int, int], batch: int = 1) -> dict[str, Tensor]:
        """Return the arguments of a pass."""
        made = random_inputs(self.dims, *size, WINDOW, self.dtype, self.device)
        return {name: value.repeat(batch, *[1] * (value.ndim - 1)) for name, value in made.items()}

    def transformer(self) -> StableAvatarTransformer3DModel:
        """Build the transformer with audio layers that say something: they are zero before training."""
        model = random_transformer(self.dims, self.dtype, self.device)
        generator = torch.Generator(self.device).manual_seed(2)
        for name, parameter in model.named_parameters():
            if "_vocal" in name:
                parameter.normal_(0, self.dims.dim**-0.5, generator=generator)
        return model


def predictor_of(
    model: StableAvatarTransformer3DModel,
    inputs: dict[str, Any],
    placement: Placement,
    hear: Callable[[Window], Tensor] | None = None,
) -> Predictor:
    """Return what a render predicts a window step with: three passes of cfg, the adapter once."""
    states = inputs["audio_states"].float().cpu()
    text = inputs["encoder_hidden_states"]
    conditions = Conditions(
        text, text.flip(1), inputs["encoder_hidden_states_image"], inputs["condition"], hear or (lambda _: states)
    )
    ahead = placement.memory in ("full", "model")
    return Predictor(model, conditions, scheme_of(RenderSettings()), schedule(50), WINDOW, precompute=ahead)


def failure(error: Exception) -> str:
    """Return the words that stand in place of a figure."""
    return (
        OUT_OF_MEMORY
        if isinstance(error, torch.OutOfMemoryError)
        else f"failed: {str(error).strip().partition(chr(10))[0][:120]}"
    )
