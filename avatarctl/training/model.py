"""Build the transformer to train: loaded or new, groups set, LoRA attached."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from avatarctl.errors import UsageError, WeightsError
from avatarctl.networks import checkpoints, weight_dims
from avatarctl.networks.adapters import load_merged
from avatarctl.networks.attach import adapter_parameters, attach
from avatarctl.networks.audio_adapter import AudioAdapter
from avatarctl.networks.dims import TransformerDims
from avatarctl.networks.float8 import to_float8
from avatarctl.networks.float8_matmul import to_float8_matmul
from avatarctl.networks.header import WEIGHTS_HINT, refuse_damaged, refuse_damaged_lora
from avatarctl.networks.kinds import build_transformer
from avatarctl.networks.lora_start import start_from
from avatarctl.networks.names import is_audio
from avatarctl.networks.transformer import StableAvatarTransformer3DModel
from avatarctl.settings.train import TrainSettings
from avatarctl.settings.values import lora_file, parse_lora
from avatarctl.training.draws import seed_of
from avatarctl.weights import find_transformer

TEXT_LEN = 512
CPU = torch.device("cpu")
ADAPTER_EPS = 1e-6


def base_file(settings: TrainSettings) -> Path | None:
    """Return the file of weights to start from; None for a new transformer."""
    if settings.dims is not None:
        return None
    given = settings.weights is not None and settings.weights.is_file()
    path = settings.weights if given and settings.weights else find_transformer(settings.weights, settings.variant)
    refuse_damaged(path, "a transformer", WEIGHTS_HINT)
    return path


def base_files(settings: TrainSettings) -> list[tuple[str, Path]]:
    """Return (name, file) of the weights to start from, and of the LoRAs that a teacher is rendered with."""
    file = base_file(settings)
    loras = [(f"teacher_lora {i}", path) for i, (path, _) in enumerate(teacher_loras(settings), 1)]
    return [("transformer", file), *loras] if file else []


def make_model(
    settings: TrainSettings,
    shapes: Mapping[str, tuple[int, ...]] | None,
    device: torch.device = CPU,
    dims: Mapping[str, Any] | None = None,
) -> tuple[StableAvatarTransformer3DModel, dict[str, Tensor]]:
    """Load or make the transformer, on the CPU, and set which of its weights train; those are float32, the rest as stored.

    ``shapes``: those of the samples that it has to fit. ``device``: where it will compute. ``dims``: all its sizes, where
    they are known from a checkpoint and ``shapes`` is None.

    Also return, for a LoRA run, what the base holds of the weights that train in full: zeros where it has none.
    """
    file = base_file(settings)
    if file is not None:
        speech_width = shapes["speech"][-1] if shapes is not None else int((dims or {}).get("w2v", 0))
        loras = teacher_loras(settings)
        model = load_merged(file, loras, None)[0] if loras else load_base(file, settings, speech_width)
    else:
        sizes = new_dims(settings, shapes) if shapes is not None else TransformerDims.parse(dims or settings.dims or {})
        model = new_transformer(settings, sizes)
    if shapes is not None:
        check_fits(model.dims, shapes, str(file or "dims"))
    if settings.matmul == "float8":
        to_float8_matmul(model, device)
    torch.manual_seed(seed_of(settings.seed, "lora"))  # the LoRA's down-weights
    attach(model, settings.modes, settings.rank, settings.alpha, settings.dropout, settings.lora_kind, settings.rslora)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32, copy=True)  # never the mapped file itself
    base = full_weights(model) if settings.is_lora else {}
    if file is not None and not weight_dims.has_audio(file):
        base |= {name: torch.zeros_like(tensor) for name, tensor in base.items() if is_audio(name)}
    if (lora := init_lora(settings)) is not None:
        start_from(model, lora)
    if settings.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    return model.train(), base


def hollow_model(
    settings: TrainSettings, shapes: Mapping[str, tuple[int, ...]], device: torch.device
) -> StableAvatarTransformer3DModel:
    """Return the model of :func:`make_model` with weights that nobody has filled: the first process sends them.

    Memory that isn't written takes none, so that a model of 14 billion weights lies in a machine's memory once.
    """
    file = base_file(settings)
    dims = new_dims(settings, shapes) if file is None else base_dims(file, shapes["speech"][-1])
    with init_empty_weights(include_buffers=False):
        model = StableAvatarTransformer3DModel.from_dims(dims)
    if settings.matmul == "float8":
        to_float8_matmul(model, device)
    attach(model, settings.modes, settings.rank, settings.alpha, settings.dropout, settings.lora_kind, settings.rslora)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            empty = torch.empty(parameter.shape, dtype=torch.float32)
            module.register_parameter(name, nn.Parameter(empty, requires_grad=parameter.requires_grad))
    if settings.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    return model.train()


def load_base(file: Path, settings: TrainSettings, speech_width: int) -> StableAvatarTransformer3DModel:
    """Load the transformer to start from, as it is stored; the audio layers of one that has none are new.

    Audio keys and values begin at zero, so that the first pictures are those of the base; the adapter is drawn from the seed.
    """
    if weight_dims.has_audio(file):
        return checkpoints.load_transformer(file, dtype=None)
    if settings.audio != "full":
        raise UsageError(
            f"audio: got {settings.audio}, and {file} has no audio layers: expected full, which trains new ones",
            "--set audio=full; or start from weights that have them: avatarctl fetch stableavatar-1.3b",
        )
    dims = base_dims(file, speech_width)
    torch.manual_seed(seed_of(settings.seed, "adapter"))
    adapter = AudioAdapter(dims.w2v, dims.dim, dims.vocal_heads, dims.vocal_hidden, ADAPTER_EPS)
    drawn = {f"vocal_projector.{name}": tensor for name, tensor in adapter.state_dict().items()}

    def absent(name: str, shape: torch.Size) -> Tensor:
        return drawn[name] if name in drawn else torch.zeros(shape)

    return checkpoints.load_transformer(file, dims, dtype=None, absent=absent)


def base_dims(file: Path, speech_width: int) -> TransformerDims:
    """Return the sizes of a transformer to start from; audio layers that it lacks fit speech states of this width."""
    dims = weight_dims.transformer_dims(file)
    return dims if weight_dims.has_audio(file) else dims.with_(w2v=speech_width)


def beginning(settings: TrainSettings) -> list[str]:
    """Return what people are told of where a run begins."""
    told = []
    if (file := base_file(settings)) is not None and not weight_dims.has_audio(file):
        told.append(
            f"{file} has no audio layers: audio keys and values begin at zero, the adapter is drawn from the seed"
        )
    if (lora := init_lora(settings)) is not None:
        told.append(f"begins with the LoRA {lora}" + ("" if settings.is_lora else " merged into the base"))
    return told


def init_lora(settings: TrainSettings) -> Path | None:
    """Return the LoRA file to start from; raises ``UsageError`` where there is none at the place that the settings name."""
    if settings.init_lora is None:
        return None
    path = lora_file(settings.init_lora)
    if not path.is_file():
        raise UsageError(
            f"init_lora: got {settings.init_lora}, expected a LoRA file or the run folder of one",
            "--init-lora RUN/lora.safetensors",
        )
    refuse_damaged_lora(path)
    return path


def teacher_loras(settings: TrainSettings) -> list[tuple[Path, float]]:
    """Return the LoRA files that the teacher is rendered with, and their scales; raises ``UsageError`` for a missing one."""
    found = []
    for text in settings.teacher_lora:
        name, scale = parse_lora(text)
        path = lora_file(Path(name))
        if not path.is_file():
            raise UsageError(
                f"teacher_lora: got {name}, expected a LoRA file or the run folder of one",
                "--set teacher_lora=PERSON.safetensors",
            )
        refuse_damaged_lora(path)
        found.append((path, scale))
    return found


def new_dims(settings: TrainSettings, shapes: Mapping[str, tuple[int, ...]]) -> TransformerDims:
    """Return the sizes of a new transformer: those that the settings name, the rest as the samples need them."""
    channels = shapes["latents"][0]
    from_data = {
        "text": shapes["text"][-1],
        "clip": shapes["image_tokens"][-1],
        "w2v": shapes["speech"][-1],
        "in_dim": channels + shapes["condition"][0],
        "out_dim": channels,
    }
    return TransformerDims.parse({**from_data, "text_len": TEXT_LEN, **(settings.dims or {})})


def new_transformer(settings: TrainSettings, dims: TransformerDims) -> StableAvatarTransformer3DModel:
    """Return a transformer with random weights; its output layer begins at zero.

    An output of zero makes the first steps predict the mean, not noise (Peebles and Xie 2023, adaLN-Zero).
    """
    torch.manual_seed(seed_of(settings.seed, "weights"))
    model = build_transformer(dims)
    nn.init.zeros_(model.proj_out.weight)
    nn.init.zeros_(model.proj_out.bias)
    return model


def check_fits(dims: TransformerDims, shapes: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Raise ``WeightsError`` naming every size in which samples and transformer differ."""
    channels = shapes["latents"][0]
    pairs = {
        "latent channels": (channels, dims.out_dim),
        "latent and condition channels": (channels + shapes["condition"][0], dims.in_dim),
        "width of text states": (shapes["text"][-1], dims.text),
        "width of image tokens": (shapes["image_tokens"][-1], dims.clip),
        "width of speech states": (shapes["speech"][-1], dims.w2v),
    }
    wrong = [f"{what}: samples have {got}, the transformer {has}" for what, (got, has) in pairs.items() if got != has]
    if shapes["text"][0] > dims.text_len:
        wrong.append(f"text: samples have up to {shapes['text'][0]} tokens, the transformer takes {dims.text_len}")
    if wrong:
        raise WeightsError(
            f"{source}: the samples were encoded by other networks: {'; '.join(wrong)}",
            "encode them with the weights, and the text_len, that belong to this transformer",
        )


def place_model(
    model: StableAvatarTransformer3DModel, settings: TrainSettings, dtype: torch.dtype, whole: bool
) -> StableAvatarTransformer3DModel:
    """Store frozen weights in ``dtype`` or float8; what trains stays float32. ``whole``: shards need one dtype throughout."""
    keep = model._keep_in_fp32_modules
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            wide = whole or any(piece in name.split(".") for piece in keep)
            parameter.data = parameter.data.to(torch.float32 if wide else dtype)
    if settings.base_dtype == "float8":
        to_float8(model)
    return model


def full_weights(model: StableAvatarTransformer3DModel) -> dict[str, Tensor]:
    """Return copies of the weights that train in full beside a LoRA."""
    trains = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    factors = {name for name, _ in adapter_parameters(model)}
    return {name: parameter.detach().clone() for name, parameter in trains.items() if name not in factors}
