"""Say what of a render its memory and its time depend on: sizes of networks and pictures, and passes; loads nothing."""

from __future__ import annotations

from avatarctl.networks import memory
from avatarctl.networks.dims import TRANSFORMER_1_3B, WAN_VAE, TextDims, TransformerDims, VaeDims
from avatarctl.networks.header import read_header
from avatarctl.networks.memory import Workload
from avatarctl.sampling.windows import TOKENS_AT_ONCE
from avatarctl.settings.render import RenderSettings
from avatarctl.weights import WeightFiles


def workload_of(weights: WeightFiles, settings: RenderSettings, window: int, passes: int = 0) -> tuple[Workload, str]:
    """Return a render's workload, and in words what it is calculated for: the sizes in the files, or the released ones.

    ``window``: latent frames of a window of this render; ``passes``: of the transformer in all.
    """
    heads = [
        read_header(path) for path in (weights.transformer, weights.vae, weights.speech_encoder, weights.image_encoder)
    ]
    dims, basis = TRANSFORMER_1_3B, "for the 1.3B network"
    if heads[0] is not None:
        dims = TransformerDims.parse(heads[0].dims)
        basis = f"for this transformer of {heads[0].parameters / 1e6:.1f} million weights"
    vae, speech, image = (
        memory.PARAMETERS[name] if head is None else head.parameters
        for name, head in zip(("vae", "speech encoder", "image encoder"), heads[1:], strict=True)
    )
    width, height = settings.size
    work = Workload(
        dims,
        width,
        height,
        window,
        windows_together(settings, memory.latent_tokens(dims, width, height, window)),
        vae,
        speech,
        image,
        WAN_VAE.base_dim if heads[1] is None else VaeDims.parse(heads[1].dims).base_dim,
        passes,
        _text_block(weights),
    )
    return work, basis


def _text_block(weights: WeightFiles) -> int:
    """Count the weights of a block of the text encoder, which is on the device alone."""
    head = read_header(weights.text_encoder)
    if head is None:
        return memory.TEXT_BLOCK
    dims = TextDims.parse(head.dims)
    return 4 * dims.dim * dims.dim_attn + 3 * dims.dim * dims.dim_ffn


def windows_together(settings: RenderSettings, tokens: int) -> int:
    """Return how many windows may share a pass on a GPU."""
    return max(1, TOKENS_AT_ONCE // tokens) if settings.window_batch == "auto" else settings.window_batch
