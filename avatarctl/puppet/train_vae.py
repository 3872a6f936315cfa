"""Train a small Wan VAE on drawn clips: resumable, reproducible from a seed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    AutoencoderKLWan,
    WanAttentionBlock,
    WanResample,
    WanResidualBlock,
    patchify,
    unpatchify,
)
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from avatarctl import durable
from avatarctl.console import Progress
from avatarctl.errors import ChangedError, InputFileError
from avatarctl.networks.checkpoints import save_weights
from avatarctl.networks.dims import WAN_VAE, VaeDims
from avatarctl.networks.kinds import build_vae
from avatarctl.puppet.draw import mouth_box
from avatarctl.puppet.optimise import Optimiser
from avatarctl.training import checkpoints
from avatarctl.training.draws import seed_of
from avatarctl.training.log import METRICS, read

DIMS = WAN_VAE.with_(
    base_dim=8,
    dim_mult=(1, 2, 4),
    temporal_downsample=(True, True),
    patch_size=2,
    channels=12,
    mean=(0.0,) * 16,
    std=(1.0,) * 16,
)
STEPS, DECODER_STEPS = 6000, 800
# (share of the steps, frames of a clip, clips): short clips teach pictures fast. The causal layers see some forty pictures
# back: without the whole clips of the end, pictures decay from the twentieth on, by five decibels.
STAGES = ((0.6, 9, 2), (0.85, 17, 2), (1.0, 33, 1), (1.08, 81, 1))
MOUTH_WEIGHT, KL_WEIGHT, LOG_VARIANCE = 4.0, 5e-5, -6.0
SAVE_EVERY_S = 120.0


def train_vae(data: Path, output: Path, steps: int, seed: int, show: Progress) -> Path:
    """Train, or go on where the run folder ``vae/`` stands; return the file of weights, ``vae.safetensors``.

    The last stage comes on top of ``steps`` (``STAGES``), while the learning rate fades out.
    Raises ``ChangedError`` for a run folder of another seed or number of steps.
    """
    clips = load_pictures(data)
    model = new_vae(seed)
    total = round(STAGES[-1][0] * steps)
    optimiser = Optimiser(model, muon_rate=3e-3, adam_rate=1e-3, steps=steps, fade_steps=total - steps)

    def batch(step: int) -> Tensor:
        frames, count = next((frames, count) for share, frames, count in STAGES if step < round(share * steps))
        return batch_of(clips, frames, count, np.random.default_rng([seed, 7010, step]))

    _train(output / "vae", model, optimiser, batch, total, seed, clips, show)
    return save_weights(with_statistics(model, clips), output / "vae.safetensors", names="ours")


def train_decoder(data: Path, looks: Path, output: Path, steps: int, seed: int, show: Progress) -> Path:
    """Teach the decoder of a trained VAE to show looks (hats, glasses) too; give ``vae.safetensors``, written anew.

    Every other step is of a clip of ``looks``. The encoder stays as it is, so that latents, and a transformer that was
    trained on them, keep their worth. Goes on where the run folder ``decoder/`` stands.
    Raises ``InputFileError`` without a finished VAE in ``output``.
    """
    trained, _ = checkpoints.newest(output / "vae")
    if trained is None or not (output / "vae.safetensors").is_file():
        raise InputFileError(
            f"{output}: got no trained VAE", f"avatarctl puppet train vae --data {data} --output {output}"
        )
    clips, others = load_pictures(data), load_pictures(looks)
    model = new_vae(seed)
    model.load_state_dict(trained.tensors("model"))
    for frozen in (model.encoder, model.quant_conv):
        frozen.requires_grad_(False)
    fade = steps // 4
    optimiser = Optimiser(model, muon_rate=1.5e-3, adam_rate=5e-4, steps=steps - fade, fade_steps=fade)

    def batch(step: int) -> Tensor:
        frames = 33 if step < steps - fade else 81
        return batch_of(others if step % 2 else clips, frames, 1, np.random.default_rng([seed, 7011, step]))

    shown = np.concatenate([clips[:2], others[:2]])
    _train(output / "decoder", model, optimiser, batch, steps, seed, shown, show)
    return save_weights(with_statistics(model, clips), output / "vae.safetensors", names="ours")


def _train(
    run: Path,
    model: AutoencoderKLWan,
    optimiser: Optimiser,
    batch: Callable[[int], Tensor],
    total: int,
    seed: int,
    shown: NDArray[np.uint8],
    show: Progress,
) -> None:
    """Take the steps that a run folder lacks, with a checkpoint every two minutes and pictures of the clips ``shown``."""
    made_of = {"seed": seed, "total": total}
    done = 0
    checkpoint, _ = checkpoints.newest(run)
    if checkpoint is not None:
        found = {name: checkpoint.state.get(name) for name in made_of}
        if found != made_of:
            raise ChangedError(
                f"{run}: got seed and steps of {found}, expected {made_of}",
                "give the --seed and --steps it began with, or another --output",
            )
        model.load_state_dict(checkpoint.tensors("model"))
        optimiser.restore({name: checkpoint.tensors(name) for name in ("muon", "adam")}, checkpoint.state["rest"])
        done = checkpoint.step
    run.mkdir(parents=True, exist_ok=True)
    checkpoints.sweep(run)
    # A killed run wrote metrics beyond its checkpoint.
    kept = [json.dumps(line) + "\n" for line in read(run) if line["step"] <= done]
    durable.replace(run / METRICS, "".join(kept).encode())
    saved_at = time.monotonic()
    with (run / METRICS).open("a", encoding="utf-8") as log:
        for step in range(done, total):
            began = time.monotonic()
            generator = torch.Generator().manual_seed(seed_of(seed, "vae", step))
            loss, parts = vae_loss(model, batch(step), generator)
            loss.backward()
            norm = optimiser.step(step)
            log.write(json.dumps({"step": step + 1, "loss": float(loss.detach()), "norm": norm, **parts}) + "\n")
            step_s = time.monotonic() - began
            show(step + 1, total, loss=float(loss.detach()), step_s=step_s, left_s=step_s * (total - step - 1))
            if time.monotonic() - saved_at > SAVE_EVERY_S or step + 1 == total:
                log.flush()
                files, rest = optimiser.state()
                folder = checkpoints.begin(run, step + 1)
                checkpoints.write(folder, {"model": model.state_dict(), **files})
                checkpoints.finish(run, folder, {"step": step + 1, "rest": rest, **made_of}, keep=2)
                contact_sheet(model, shown, run / "pictures.png")
                saved_at = time.monotonic()


# -- Pictures -----------------------------------------------------------------------------------------------------------


def load_pictures(data: Path) -> NDArray[np.uint8]:
    """Return all pictures of a folder of clips as (clips, frames, size, size, 3)."""
    folders = sorted(path for path in data.glob("square/*/*/images") if path.is_dir())
    if not folders:
        raise InputFileError(f"{data}: got no drawn clips", "make some: avatarctl puppet data --output DIR")
    clips = []
    for folder in folders:
        names = sorted(folder.glob("*.png"), key=lambda path: int(path.stem.rpartition("_")[2]))
        clips.append(np.stack([np.asarray(Image.open(name)) for name in names]))
    return np.stack(clips)


def batch_of(clips: NDArray[np.uint8], frames: int, count: int, chance: np.random.Generator) -> Tensor:
    """Return stretches of clips by chance, (count, 3, frames, H, W) in [-1, 1]; never more frames than a clip has."""
    frames = min(frames, clips.shape[1])
    chosen = []
    for _ in range(count):
        clip, start = chance.integers(len(clips)), chance.integers(clips.shape[1] - frames + 1)
        chosen.append(clips[clip, start : start + frames])
    return to_tensor(np.stack(chosen))


def to_tensor(pictures_BTHWC: NDArray[np.uint8]) -> Tensor:
    """Return pictures as (B, 3, T, H, W) in [-1, 1]."""
    return torch.from_numpy(pictures_BTHWC).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


# -- The network, whole clips at once -----------------------------------------------------------------------------------


def new_vae(seed: int, dims: VaeDims = DIMS) -> AutoencoderKLWan:
    """Return a VAE with Kaiming weights, the last convolution of every residual and attention branch zero.

    With the default initialisation training stalls at the mean picture.
    """
    torch.manual_seed(seed_of(seed, "vae weights"))
    model = build_vae(dims)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in model.modules():
        last = module.conv2 if isinstance(module, WanResidualBlock) else None
        last = module.proj if isinstance(module, WanAttentionBlock) else last
        if last is not None:
            nn.init.zeros_(last.weight)
    nn.init.zeros_(model.decoder.conv_out.weight)
    with torch.no_grad():
        model.quant_conv.bias[dims.z_dim :] += LOG_VARIANCE
        model.quant_conv.weight[dims.z_dim :] *= 0.1
        model.quant_conv.weight[: dims.z_dim] *= 0.7
    return at_once(model)


def at_once(model: AutoencoderKLWan) -> AutoencoderKLWan:
    """Let the layers that change time take whole clips when called without a cache, as they do chunk by chunk with one."""
    for module in model.modules():
        if isinstance(module, WanResample) and module.mode in ("upsample3d", "downsample3d"):
            module.forward = _resample_at_once(module, module.forward)
    return model


def _resample_at_once(module: WanResample, chunked: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def forward(x: Tensor, feat_cache: Any = None, feat_idx: Any = None) -> Tensor:
        if feat_cache is not None:
            return chunked(x, feat_cache, feat_idx)
        if module.mode == "upsample3d":
            first, rest = x[:, :, :1], x[:, :, 1:]
            if rest.shape[2]:
                doubled = module.time_conv(rest).unflatten(1, (2, -1))
                rest = torch.stack([doubled[:, 0], doubled[:, 1]], dim=3).flatten(2, 3)
            x = torch.cat([first, rest], dim=2)
        frames = x.shape[2]
        flat = module.resample(x.transpose(1, 2).flatten(0, 1))
        x = flat.unflatten(0, (-1, frames)).transpose(1, 2)
        if module.mode == "downsample3d" and frames > 1:
            x = torch.cat([x[:, :, :1], module.time_conv(x)], dim=2)
        return x

    return forward


def encode_at_once(model: AutoencoderKLWan, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and log-variance (B, z, T', H / 8, W / 8) of whole clips."""
    moments = model.quant_conv(model.encoder(patchify(pictures, model.config.patch_size)))
    mean, log_variance = moments.chunk(2, dim=1)
    return mean, log_variance.clamp(-30, 20)


def decode_at_once(model: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Return the pictures (B, 3, T, H, W) of whole clips."""
    return unpatchify(model.decoder(model.post_quant_conv(latents)), model.config.patch_size)


# -- Loss -----------------------------------------------------------------------------------------------------------------


def vae_loss(model: AutoencoderKLWan, pictures: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
    """Return L1 + 2 MSE with the mouth counting four times, plus a little KL; and the parts as numbers."""
    mean, log_variance = encode_at_once(model, pictures)
    noise = torch.randn(mean.shape, generator=generator)
    rebuilt = decode_at_once(model, mean + noise * torch.exp(0.5 * log_variance))
    error = rebuilt - pictures
    weights = torch.ones(pictures.shape[-2:])
    left, top, right, bottom = mouth_box(pictures.shape[-1])
    weights[top:bottom, left:right] = MOUTH_WEIGHT
    weights = weights / weights.mean()
    rebuilding = (error.abs() * weights).mean() + 2 * (error**2 * weights).mean()
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
    squared = float((error.detach() ** 2).mean())
    psnr = 10 * float(np.log10(4 / max(squared, 1e-9)))
    return rebuilding + KL_WEIGHT * kl, {"psnr": round(psnr, 3), "kl": round(float(kl.detach()), 3)}


# -- What comes out -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def with_statistics(model: AutoencoderKLWan, clips: NDArray[np.uint8]) -> AutoencoderKLWan:
    """Return the VAE with the mean and deviation of its latents over (up to 64) clips in its configuration."""
    latents = torch.cat([encode_at_once(model, to_tensor(clip[None]))[0] for clip in clips[:64]])
    mean, std = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
    whole = build_vae(DIMS.with_(mean=tuple(mean.tolist()), std=tuple(std.tolist())))
    whole.load_state_dict(model.state_dict())
    return whole


@torch.no_grad()
def contact_sheet(model: AutoencoderKLWan, clips: NDArray[np.uint8], target: Path) -> None:
    """Write originals above reconstructions of some clips' 1st, 6th, 11th … picture."""
    rows = []
    for clip in clips[:: max(len(clips) // 4, 1)][:4]:
        pictures = to_tensor(clip[None, :41])
        rebuilt = decode_at_once(model, encode_at_once(model, pictures)[0]).clamp(-1, 1)
        for each in (pictures, rebuilt):
            shown = ((each[0, :, ::5] + 1) * 127.5).round().byte().permute(1, 2, 3, 0)
            rows.append(np.concatenate(list(shown.numpy()), axis=1))
    Image.fromarray(np.concatenate(rows, axis=0)).save(target)
