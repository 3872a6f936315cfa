"""Measure the loss of held-out samples at fixed noise levels, under draws that never change, on what is exported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from accelerate.utils import gather_object

from avatarctl.training.distill import Distiller, by_segment
from avatarctl.training.draws import draw, noise_levels
from avatarctl.training.loss import flow_loss
from avatarctl.training.state import RunState

# Shares of the time from pure noise (1) to the video (0), each measured for every sample: one level alone is luck.
QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)


@contextmanager
def as_exported(state: RunState) -> Iterator[None]:
    """Let the model be what is exported inside: evaluated, with the average of the weights where there is one."""
    if state.ema is not None:
        state.ema.store(state.trained)
        state.ema.copy_to(state.trained)
    state.model.eval()
    try:
        yield
    finally:
        state.model.train()
        if state.ema is not None:
            state.ema.restore(state.trained)


def held_out_loss(state: RunState) -> dict[str, float]:
    """Return the mean loss of the held-out samples, and that at each noise level; all processes take part.

    It is weighted as a whole, with every condition given. Every process measures as many samples (some of them count
    nothing), since with sharded weights each pass needs all processes.
    """
    accelerator, samples = state.accelerator, state.samples
    plain = state.settings.model_copy(
        update={"whole_probability": 1.0, "face_probability": 0.0, "motion_weight": 0.0}
        | dict.fromkeys(("drop_audio", "drop_tokens", "drop_text", "clip_audio"), 0.0)
    )
    entries = samples.whole_held_out
    rounds = -(-len(entries) // accelerator.num_processes)
    levels = noise_levels(plain.shift)
    total = torch.zeros(len(QUANTILES), 2, dtype=torch.float64, device=accelerator.device)
    with torch.no_grad(), as_exported(state):
        for turn in range(rounds):
            place = turn * accelerator.num_processes + accelerator.process_index
            entry = entries[min(place, len(entries) - 1)]
            counts = float(place < len(entries))
            batch = samples.load([entry]).to(accelerator.device)
            for row, quantile in enumerate(QUANTILES):
                draws = draw(plain, batch.latents.shape, [("held-out", entry.key, row)])
                sigma = levels[round((1 - quantile) * len(levels))].expand(len(draws.sigma))
                with state.narrowed():
                    draws = replace(draws, sigma=sigma.clone()).to(accelerator.device)
                    _, errors = flow_loss(state.bare, batch, draws, plain)
                total[row] += counts * torch.tensor([float(errors.sum()), len(errors)], device=total.device)
    total = accelerator.reduce(total, "sum")
    at_each = {
        f"held_out_loss_{quantile:g}": float(row[0] / row[1]) for quantile, row in zip(QUANTILES, total, strict=True)
    }
    return {"held_out_loss": sum(at_each.values()) / len(at_each), **at_each}


def held_out_imitation(state: RunState, distiller: Distiller) -> dict[str, float]:
    """Return how far the student as exported is from its teacher on held-out samples, of the guidance effect, by segment.

    Its paths begin with noise that never changes; all processes take part.
    """
    accelerator, entries = state.accelerator, state.samples.whole_held_out
    found: list[tuple[int, float, float]] = []
    with torch.no_grad(), as_exported(state):
        for entry in entries[accelerator.process_index :: accelerator.num_processes]:
            seen = distiller.held_out(state.samples.load([entry]).to(accelerator.device), entry.key)
            found += zip(seen.segment, seen.error.tolist(), seen.effect.tolist(), strict=True)
    if accelerator.num_processes > 1:
        found = sorted(gather_object(found))
    return by_segment(found, "held_out_err_base")
