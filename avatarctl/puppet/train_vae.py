"""Train a small Wan VAE on the pictures of drawn clips: resumable, reproducible from a seed, or begun from weights."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from avatarctl import durable
from avatarctl.errors import ChangedError, InputFileError
from avatarctl.networks.checkpoints import load_vae, save_weights
from avatarctl.networks.dims import VaeDims
from avatarctl.networks.kinds import build_vae, dims_of
from avatarctl.progress import Progress
from avatarctl.puppet.optimise import Optimiser
from avatarctl.puppet.pictures import Pictures, to_tensor
from avatarctl.puppet.vae import decode_at_once, encode_at_once, new_vae
from avatarctl.puppet.vae_recipes import RECIPE, Batch, Recipe, batch_of
from avatarctl.training import checkpoints
from avatarctl.training.draws import seed_of
from avatarctl.training.log import METRICS, read

DECODER_STEPS, DECODER_IRIS_WEIGHT = 1500, 32.0
AHEAD = 8  # batches that are read while a device works
CPU = torch.device("cpu")
AREA, AREA_WEIGHT = 4, 4.0  # side in pixels of areas whose colours count, and how much they do
SAVE_EVERY_S = 240.0
SHEET_EVERY_S = 600.0  # of the processor's time: on a busy machine pictures would take as long as the steps
Draw = Callable[[int], tuple[Tensor, Tensor]]  # step -> pictures, and how much their pixels count


def train_vae(
    data: Path,
    output: Path,
    steps: int,
    seed: int,
    show: Progress,
    recipe: Recipe = RECIPE,
    start: Path | None = None,
    rate: float = 1.0,
    begin: int = 0,
    device: torch.device = CPU,
    times: int = 1,
) -> Path:
    """Train, or resume where the run folder ``vae/`` stands; return the file of weights, ``vae.safetensors``.

    The last stage comes on top of ``steps``, while the learning rate fades out. ``start``: weights to begin with, in any
    precision, instead of fresh ones. ``rate``: multiplies the recipe's learning rates. ``begin``: steps that the weights
    have behind them, which are not taken again. ``times``: batches of so many times as many clips, for a GPU.
    Raises ``ChangedError`` for a run folder of another seed, number of steps, recipe, start, rate, first step or batch.
    """
    clips = Pictures(data)
    model = new_vae(seed, recipe.dims)
    made_of: dict[str, Any] = {"seed": seed, "total": recipe.total(steps), "recipe": recipe.name}
    if start is not None:
        model.load_state_dict(load_vae(start, dtype=torch.float32, device="cpu").state_dict())
        made_of["start"] = durable.digest(start)
    if rate != 1:
        made_of["rate"] = rate
    if begin:
        made_of["begin"] = begin
    if times != 1:
        made_of["times"] = times
    fade_steps = recipe.total(steps) - steps
    model = model.to(device)
    optimiser = Optimiser(model, recipe.muon_rate * rate, recipe.adam_rate * rate, steps=steps, fade_steps=fade_steps)

    def draw(step: int) -> tuple[Tensor, Tensor]:
        batch = recipe.batch(step, steps)
        batch = replace(batch, clips=times * batch.clips)
        return batch_of(clips, batch, recipe, np.random.default_rng([seed, 7010, step]))

    shown = [clips.clip(number) for number in range(0, len(clips), max(len(clips) // 4, 1))][:4]
    _train(output / "vae", model, optimiser, draw, recipe, made_of, shown, show)
    return save_weights(with_statistics(model, clips), output / "vae.safetensors", names="ours")


def open_vae(weights: Path, recipe: Recipe = RECIPE) -> AutoencoderKLWan:
    """Return a VAE of a file of weights, or of the newest checkpoint of the run in a folder. The run may still go on.

    Raises ``InputFileError`` for a folder without a checkpoint.
    """
    if weights.is_file():
        return load_vae(weights, dtype=torch.float32, device="cpu")
    checkpoint, _ = checkpoints.newest(weights / "vae")
    if checkpoint is None:
        raise InputFileError(
            f"{weights / 'vae'}: got no checkpoint of a training",
            "train first: avatarctl puppet train vae --output DIR",
        )
    model = new_vae(0, recipe.dims)
    model.load_state_dict(checkpoint.tensors("model"))
    return model


def export_vae(model: AutoencoderKLWan, clips: Pictures, target: Path) -> Path:
    """Write a VAE in half precision with the statistics of its latents over some clips; return the file."""
    return save_weights(with_statistics(model, clips).half(), target, names="ours")


def train_decoder(
    data: Path,
    looks: Path,
    output: Path,
    steps: int,
    seed: int,
    show: Progress,
    recipe: Recipe = RECIPE,
    device: torch.device = CPU,
) -> Path:
    """Teach the decoder of a trained VAE looks (hats, glasses) and the colours of eyes; return its file, written again.

    Every other step is of a clip of ``looks``. The encoder stays as it is, so that latents, and a transformer that was
    trained on them, keep their worth. Resumes where the run folder ``decoder/`` stands.
    Raises ``InputFileError`` without a finished VAE in ``output``.
    """
    trained = output / "vae.safetensors"
    if not trained.is_file():
        raise InputFileError(
            f"{output}: got no trained VAE", f"avatarctl puppet train vae --data {data} --output {output}"
        )
    whole = load_vae(trained, dtype=torch.float32, device="cpu")
    clips, others = Pictures(data), Pictures(looks)
    recipe = replace(recipe, iris_weight=DECODER_IRIS_WEIGHT)
    model = new_vae(seed, recipe.dims)
    model.load_state_dict(whole.state_dict())
    for frozen in (model.encoder, model.quant_conv):
        frozen.requires_grad_(False)
    model = model.to(device)
    fade = steps // 4
    rates = recipe.muon_rate / 2, recipe.adam_rate / 2
    optimiser = Optimiser(model, *rates, steps=steps - fade, fade_steps=fade)

    def draw(step: int) -> tuple[Tensor, Tensor]:
        batch = Batch(33, 2, 56) if step < steps - fade else Batch(81, 2, 48)
        return batch_of(others if step % 2 else clips, batch, recipe, np.random.default_rng([seed, 7011, step]))

    made_of = {"seed": seed, "total": steps, "recipe": recipe.name}
    shown = [each.clip(number) for each in (clips, others) for number in range(min(2, len(each)))]
    _train(output / "decoder", model, optimiser, draw, recipe, made_of, shown, show)
    whole.load_state_dict(model.state_dict())
    return save_weights(whole, trained, names="ours")


def _train(
    run: Path,
    model: AutoencoderKLWan,
    optimiser: Optimiser,
    draw: Draw,
    recipe: Recipe,
    made_of: dict[str, Any],
    shown: list[NDArray[np.uint8]],
    show: Progress,
) -> None:
    """Take the steps that a run folder lacks, with a checkpoint every few minutes and pictures of the clips ``shown``."""
    seed, total, done = made_of["seed"], made_of["total"], made_of.get("begin", 0)
    checkpoint, _ = checkpoints.newest(run)
    if checkpoint is not None:
        found = checkpoint.state.get("made_of")
        if found != made_of:
            raise ChangedError(
                f"{run}: got a training of {found}, expected {made_of}",
                "give the flags it began with (--seed, --steps, …, --times), or another --output",
            )
        model.load_state_dict(checkpoint.tensors("model"))
        optimiser.restore({name: checkpoint.tensors(name) for name in ("muon", "adam")}, checkpoint.state["rest"])
        done = checkpoint.step
    run.mkdir(parents=True, exist_ok=True)
    checkpoints.sweep(run)
    # A killed run wrote metrics beyond its checkpoint.
    kept = [json.dumps(line) + "\n" for line in read(run) if line["step"] <= done]
    durable.replace(run / METRICS, "".join(kept).encode())
    saved_at, shown_at = time.monotonic(), time.process_time()
    device = next(model.parameters()).device
    with (run / METRICS).open("a", encoding="utf-8") as log, closing(_drawn(draw, done, total, device)) as batches:
        for step, (pictures, weights) in enumerate(batches, start=done):
            began = time.monotonic()
            generator = torch.Generator().manual_seed(seed_of(seed, "vae", step))
            loss, parts = vae_loss(model, pictures, weights, generator, recipe.kl_weight)
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
                checkpoints.finish(run, folder, {"step": step + 1, "rest": rest, "made_of": made_of}, keep=2)
                saved_at = time.monotonic()
                if time.process_time() - shown_at > SHEET_EVERY_S or step + 1 == total:
                    contact_sheet(model, shown, run / "pictures.png")
                    shown_at = time.process_time()


def _drawn(draw: Draw, done: int, total: int, device: torch.device) -> Generator[tuple[Tensor, Tensor]]:
    """Return the batches of the steps in turn, on the device; threads read ahead for one that isn't the CPU itself."""
    if device == CPU:
        yield from map(draw, range(done, total))
        return
    with ThreadPoolExecutor(AHEAD) as pool:
        waiting: deque[Future[tuple[Tensor, Tensor]]] = deque()
        try:
            for step in range(done, total + AHEAD):
                if step < total:
                    waiting.append(pool.submit(draw, step))
                if step >= done + AHEAD:
                    pictures, weights = waiting.popleft().result()
                    yield pictures.to(device), weights.to(device)
        finally:
            for future in waiting:
                future.cancel()


def vae_loss(
    model: AutoencoderKLWan, pictures: Tensor, weights: Tensor, generator: torch.Generator, kl_weight: float
) -> tuple[Tensor, dict[str, float]]:
    """Return L1 + 2 MSE, each pixel as much as it counts, L1 of small areas' colours and a little KL; and the parts as numbers.

    Of areas, as pixels alone leave small ones, such as irises, the mean of all colours that they could have.
    """
    mean, log_variance = encode_at_once(model, pictures)
    noise = torch.randn(mean.shape, generator=generator).to(mean.device)
    rebuilt = decode_at_once(model, mean + noise * torch.exp(0.5 * log_variance))
    error = rebuilt - pictures
    rebuilding = (error.abs() * weights).mean() + 2 * (error**2 * weights).mean()
    area = (1, AREA, AREA)
    colours = (functional.avg_pool3d(error, area).abs() * functional.avg_pool3d(weights, area)).mean()
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
    squared = float((error.detach() ** 2).mean())
    psnr = 10 * float(np.log10(4 / max(squared, 1e-9)))
    return rebuilding + AREA_WEIGHT * colours + kl_weight * kl, {
        "psnr": round(psnr, 3),
        "kl": round(float(kl.detach()), 3),
    }


# -- What comes out -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def with_statistics(model: AutoencoderKLWan, clips: Pictures) -> AutoencoderKLWan:
    """Return the VAE with the mean and deviation of its latents over (up to 64) clips in its configuration."""
    device = next(model.parameters()).device
    some = (to_tensor(clips.clip(number)[None]).to(device) for number in range(min(len(clips), 64)))
    latents = torch.cat([encode_at_once(model, each)[0] for each in some])
    mean, std = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
    dims = dims_of(model)
    assert isinstance(dims, VaeDims)
    whole = build_vae(dims.with_(mean=tuple(mean.tolist()), std=tuple(std.tolist())))
    whole.load_state_dict(model.state_dict())
    return whole


@torch.no_grad()
def contact_sheet(model: AutoencoderKLWan, clips: list[NDArray[np.uint8]], target: Path) -> None:
    """Write originals above reconstructions of some clips' 1st, 6th, 11th … picture."""
    rows = []
    for clip in clips:
        pictures = to_tensor(clip[None, :41]).to(next(model.parameters()).device)
        rebuilt = decode_at_once(model, encode_at_once(model, pictures)[0]).clamp(-1, 1)
        for each in (pictures, rebuilt):
            shown = ((each[0, :, ::5] + 1) * 127.5).round().byte().permute(1, 2, 3, 0)
            rows.append(np.concatenate(list(shown.cpu().numpy()), axis=1))
    Image.fromarray(np.concatenate(rows, axis=0)).save(target)
