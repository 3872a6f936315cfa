"""Measure the loss of held-out samples under draws that never change."""

from __future__ import annotations

import torch

from avatarctl.training.draws import draw
from avatarctl.training.loss import flow_loss
from avatarctl.training.state import RunState


def held_out_loss(state: RunState) -> float:
    """Return the mean loss of the held-out samples, weighted as a whole, every condition given; all processes take part."""
    accelerator, samples = state.accelerator, state.samples
    plain = state.settings.model_copy(
        update={"whole_probability": 1.0, "face_probability": 0.0, "motion_weight": 0.0}
        | dict.fromkeys(("drop_audio", "drop_tokens", "drop_text", "clip_audio"), 0.0)
    )
    total = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
    state.model.eval()
    with torch.no_grad():
        for entry in samples.held_out[accelerator.process_index :: accelerator.num_processes]:
            batch = samples.load([entry]).to(accelerator.device)
            draws = draw(plain, batch.latents.shape, [("held-out", entry.key)]).to(accelerator.device)
            with accelerator.autocast():
                _, errors = flow_loss(state.bare, batch, draws, plain)
            total += torch.tensor([float(errors.sum()), len(errors)], dtype=torch.float64, device=total.device)
    state.model.train()
    total = accelerator.reduce(total, "sum")
    return float(total[0] / total[1])
