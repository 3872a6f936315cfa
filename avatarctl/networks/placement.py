"""Place a network where and how the settings want it to compute; refuse what can't work."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import torch
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from torch import nn
from transformers import CLIPVisionModel, Wav2Vec2Model

from avatarctl.errors import DeviceError, UsageError
from avatarctl.networks import lean
from avatarctl.networks.audio_adapter import AudioAdapter
from avatarctl.networks.transformer import StableAvatarTransformer3DModel
from avatarctl.settings.placement import PlacementSettings

Model = TypeVar("Model", bound=nn.Module)
Role = Literal["transformer", "vae", "text encoder", "image encoder", "speech encoder"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FLOAT8 = torch.float8_e4m3fn
# Encoders that stay on the CPU when layers are streamed.
SMALL_ENCODERS = (CLIPVisionModel, Wav2Vec2Model)
# Small and sensitive networks compute in float32 whatever the transformer does.
FLOAT32_ROLES: tuple[Role, ...] = ("vae", "speech encoder")


@dataclass(frozen=True)
class Placement:
    """Settings with every ``auto`` decided."""

    device: torch.device
    dtype: torch.dtype
    memory: str
    float8: bool
    attention: str | None  # None: torch's own choice
    compile: bool

    def dtype_of(self, role: Role) -> torch.dtype:
        """Return the dtype that the network of this role computes in."""
        return torch.float32 if role in FLOAT32_ROLES else self.dtype

    def streamed(self) -> Placement:
        """Return a placement that streams layers: for a network that is used once and would fill the device."""
        return replace(self, memory="group")

    def has_room(self, weight_bytes: int) -> bool:
        """Return whether so many bytes of weights, and two GiB to compute in, are free on the device now."""
        if self.device.type != "cuda":
            return True
        return torch.cuda.mem_get_info(self.device)[0] > weight_bytes + (2 << 30)

    @property
    def load_device(self) -> torch.device:
        """Where weights are read to before :func:`place`: the CPU, unless they shall stay on the device."""
        return self.device if self.memory == "full" and not self.float8 else torch.device("cpu")


def decide(settings: PlacementSettings) -> Placement:
    """Decide every ``auto`` for this machine and refuse what it can't do.

    Raises ``DeviceError`` for devices, dtypes and attention backends that aren't there, ``UsageError`` for settings that
    contradict each other.
    """
    device = _device(settings.device)
    dtype = _dtype(settings.dtype, device)
    if settings.compile and settings.memory == "sequential":
        raise UsageError(
            "compile with memory mode sequential: got both, expected one (single layers come and go inside the "
            "compiled block)",
            "use --memory group, or leave compile off",
        )
    float8 = settings.weights_dtype == "float8"
    if float8 and dtype == torch.float16:
        raise UsageError(
            "float8 weights with float16 compute: got float16, expected bfloat16 or float32", "use --dtype bfloat16"
        )
    if float8 and settings.compile:
        raise UsageError(
            "float8 weights with compile: got both, expected one (torch can't trace weights that are cast as they are used)",
            "leave compile off, or use weights_dtype same",
        )
    if device.type == "cpu" and settings.memory in ("group", "sequential"):
        warnings.warn(
            f"memory mode {settings.memory} saves nothing on the CPU: weights stay where they are", stacklevel=2
        )
    attention = None if settings.attention == "auto" else _attention(settings.attention, device)
    return Placement(device, dtype, settings.memory, float8, attention, settings.compile)


def place(model: Model, placement: Placement) -> Model:
    """Put a freshly loaded network where the placement wants it, and give it back ready to compute.

    ``full`` and ``model`` leave its weights whole (in mode ``model`` on the CPU, :class:`DeviceResidency` moves them); ``group``
    streams blocks and ``sequential`` single layers from memory to the device as they are needed, but leaves the small
    encoders of pictures and speech on the CPU, where a second of work per window costs nothing. Float8 storage, the attention
    backend and compilation concern the transformer.
    """
    model.requires_grad_(False)
    if isinstance(model, StableAvatarTransformer3DModel):
        if placement.attention:
            _set_attention(model, placement.attention)
        if placement.float8:
            from diffusers.hooks import apply_layerwise_casting

            apply_layerwise_casting(
                model, FLOAT8, placement.dtype, skip_modules_pattern=model._skip_layerwise_casting_patterns
            )
    if placement.memory == "full":
        model.to(placement.device)
    elif placement.memory in ("group", "sequential") and not isinstance(model, SMALL_ENCODERS):
        on_gpu = placement.device.type == "cuda"
        blocks = isinstance(model, StableAvatarTransformer3DModel) and placement.memory == "group"
        from diffusers.hooks import apply_group_offloading

        apply_group_offloading(
            model,
            onload_device=placement.device,
            offload_type="block_level" if blocks else "leaf_level",
            num_blocks_per_group=1 if blocks else None,
            use_stream=on_gpu and blocks,  # it pins the weights in memory: worth it for what runs at every step
            non_blocking=on_gpu,
        )
    if placement.compile and isinstance(model, StableAvatarTransformer3DModel):
        lean.load_compiler()
        model.compile_repeated_blocks(fullgraph=True)
    return model


class DeviceResidency:
    """Which network is on the device: all of them, or in memory mode ``model`` the one asked for last."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._resident: nn.Module | None = None

    def use(self, model: Model) -> Model:
        """Return ``model`` on the device, sending the one before it back to memory first."""
        if self._placement.memory == "model" and self._resident is not model:
            if self._resident is not None:
                self._resident.to("cpu")
            model.to(self._placement.device)
            self._resident = model
        return model

    def drop(self, model: nn.Module) -> None:
        """Forget a network that is not needed any more, so that its memory can be reused."""
        if self._resident is model:
            self._resident = None
        if self._placement.device.type == "cuda":
            torch.cuda.empty_cache()


def usable_attention(device: torch.device) -> list[str]:
    """List the attention backends that can run on ``device`` here (not those that would download kernels)."""
    names = [backend.value for backend in AttentionBackendName if not backend.value.endswith("_hub")]
    return [name for name in names if _runs(name, device)]


def _runs(name: str, device: torch.device) -> bool:
    """Try a backend on a tiny attention: whether a package or kernel works shows only then."""
    probe = torch.zeros(1, 16, 2, 64, device=device, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32)
    function = _AttentionBackendRegistry._backends.get(AttentionBackendName(name))
    if function is None:
        return False
    try:
        function(probe, probe, probe)
    except (RuntimeError, ImportError, ValueError, TypeError, AttributeError, NotImplementedError, AssertionError):
        return False
    return True


def _set_attention(model: StableAvatarTransformer3DModel, name: str) -> None:
    """Set the backend on this model's processors alone: diffusers' own setter changes the default of the process too."""
    backend = AttentionBackendName(name)
    for module in model.modules():
        if isinstance(module, AttentionModuleMixin):
            module.processor._attention_backend = backend
    for module in model.modules():
        if isinstance(module, AudioAdapter):
            # Its heads are 192 or 640 wide, more than flash kernels take.
            blocks: Any = module.blocks
            for block in blocks:
                block.attn2.processor._attention_backend = AttentionBackendName.NATIVE


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise DeviceError(
                f"device {name}: got a torch without a usable GPU (CUDA build: {torch.version.cuda or 'none'})",
                "use --device cpu, or check the driver with `avatarctl doctor`",
            )
        if (device.index or 0) >= torch.cuda.device_count():
            raise DeviceError(f"device {name}: got {torch.cuda.device_count()} GPUs, counted from cuda:0")
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name != "auto":
        dtype = DTYPES[name]
        if dtype == torch.bfloat16 and device.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise DeviceError(f"dtype bfloat16: {torch.cuda.get_device_name(device)} can't", "use --dtype float16")
        return dtype
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _attention(name: str, device: torch.device) -> str:
    known = [backend.value for backend in AttentionBackendName]
    if name not in known:
        raise UsageError(f"attention: got '{name}', expected auto or one of {', '.join(sorted(known))}")
    usable = usable_attention(device)
    if name not in usable:
        why = "it downloads its kernel" if name.endswith("_hub") else "its package or kernel doesn't run here"
        raise DeviceError(
            f"attention '{name}': not usable on {device} ({why})", f"usable here: auto, {', '.join(usable)}"
        )
    return name
