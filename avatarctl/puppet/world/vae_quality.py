"""How well a VAE shows drawn clips that it has not seen: decibels by picture and region, colours, mouths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from numpy.typing import NDArray

from avatarctl.evaluation.report import markdown_table
from avatarctl.evaluation.sync import correlation
from avatarctl.progress import Progress
from avatarctl.puppet.pictures import Pictures, to_tensor
from avatarctl.puppet.vae import at_once, decode_at_once, encode_at_once
from avatarctl.puppet.world.clips import EYE_REGIONS, MOUTH_REGION, region_mask
from avatarctl.puppet.world.see import gap_area, saturation

# Pictures of a clip, from and up to: what decays shows in the later ones.
BANDS = ((0, 1), (1, 5), (5, 9), (9, 17), (17, 33), (33, 81))


def vae_quality(model: AutoencoderKLWan, clips: Pictures, show: Progress, most: int = 24) -> dict[str, Any]:
    """Return what is left of (up to ``most``) clips that go through a VAE: means over clips, decibels of mean errors.

    ``gap``: correlation of the mouth's inside, shown with true; ``saturation``: of the truth.
    """
    model = at_once(model)
    squares, colours, gaps = [], [], []
    for number in range(min(len(clips), most)):
        truth = clips.clip(number)
        shown = rebuilt(model, truth)
        squares.append((truth.astype(np.float64) - shown) ** 2)
        colours.append(saturation(shown) / saturation(truth))
        gaps.append(correlation(gap_area(shown), gap_area(truth)))
        show(number + 1, min(len(clips), most))
    errors = np.stack(squares).mean(-1)  # clips, pictures, rows, columns
    size = errors.shape[2]
    mouth, eyes = (region_mask(size, regions) > 0 for regions in ([MOUTH_REGION], EYE_REGIONS))
    saturations = np.stack(colours)
    last = errors.shape[1]
    return {
        "clips": len(errors),
        "pictures": last,
        "all_db": _db(errors),
        "first_db": _db(errors[:, 0]),
        "mouth_db": _db(errors[:, :, mouth]),
        "eyes_db": _db(errors[:, :, eyes]),
        "by_picture_db": {f"{a}-{min(b, last) - 1}": _db(errors[:, a:b]) for a, b in BANDS if a < last},
        "saturation_first": round(float(saturations[:, 0].mean()), 4),
        "saturation_later": round(float(saturations[:, 8:].mean()), 4),
        "gap": round(float(np.mean(gaps)), 4),
    }


@torch.no_grad()
def rebuilt(model: AutoencoderKLWan, clip_THWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a clip as the VAE shows it."""
    shown = decode_at_once(model, encode_at_once(model, to_tensor(clip_THWC[None]))[0]).clamp(-1, 1)
    return ((shown[0] + 1) * 127.5).round().byte().permute(1, 2, 3, 0).numpy()


def to_markdown(quality: Mapping[str, Any]) -> str:
    """Return the numbers as a table."""
    rows = [
        ("all", f"{quality['all_db']} dB"),
        ("mouth", f"{quality['mouth_db']} dB"),
        ("eyes", f"{quality['eyes_db']} dB"),
        *((f"pictures {name}", f"{value} dB") for name, value in quality["by_picture_db"].items()),
        ("saturation of the first picture, of the truth", quality["saturation_first"]),
        ("the same of later ones", quality["saturation_later"]),
        ("correlation of the mouth's inside", quality["gap"]),
    ]
    return markdown_table((f"{quality['clips']} clips of {quality['pictures']} pictures", ""), rows)


def _db(squares: NDArray[np.float64]) -> float:
    return round(10 * float(np.log10(255**2 / max(float(squares.mean()), 1e-9))), 2)
