"""Calculate the seconds that a render takes from counted operations and what a machine reaches."""

from __future__ import annotations

from dataclasses import dataclass

from avatarctl.networks import flops
from avatarctl.networks.cards import PAGEABLE, Rates
from avatarctl.networks.dims import WAN_VAE, VaeDims
from avatarctl.networks.flops import Operations
from avatarctl.networks.memory import IMAGE_TOKENS, Workload, latent_tokens, transformer_bytes
from avatarctl.render.machine import Machine
from avatarctl.sampling.passes import Passes
from avatarctl.sampling.windows import Plan, pictures_of

STATES_PER_S = 49.975  # of wav2vec 2.0
STREAMED = ("group", "sequential")  # memory modes in which the transformer's weights come for each pass
# Of what a GPU reaches in single convolutions and moves, a pass of the VAE reaches so much: measured on an H100 in bfloat16 with
# torch 2.11, 0.39 and 0.42 when it decodes, 0.42 and 0.43 when it encodes, at 512x512 and at 480x832.
VAE_REACH = 0.41
ENCODING_S = 6e-8  # per pixel of the video: x264 medium on one core (1.5 s for 100 pictures of 512x512)


@dataclass(frozen=True)
class Timing:
    """Seconds of each part of a render."""

    conditions_s: float
    sampling_s: float
    decoding_s: float
    encoding_s: float

    @property
    def total_s(self) -> float:
        """All parts, one after the other."""
        return self.conditions_s + self.sampling_s + self.decoding_s + self.encoding_s


def seconds(work: Operations, rates: Rates) -> float:
    """Return how long operations take at these rates."""
    busy = work.products / rates.products + work.attention / rates.attention
    busy += work.convolutions / rates.convolutions + work.moved / rates.moved
    called = work.calls * rates.call_s
    return max(busy, called) if rates.overlaps else busy + called


def vae_seconds(work: Operations, rates: Rates) -> float:
    """Return how long operations of the VAE take at these rates."""
    return seconds(work, rates) / (VAE_REACH if rates.overlaps else 1.0)


def window_operations(work: Workload, passes: Passes, window_s: float, compiled: bool = False) -> Operations:
    """Count all passes of a window, whose sound lasts ``window_s``."""
    dims = work.dims
    tokens = latent_tokens(dims, work.width, work.height, work.window)
    states = round(window_s * STATES_PER_S)

    def one(hears: bool, adapts: bool) -> Operations:
        return flops.of_pass(dims, tokens, dims.text_len, IMAGE_TOKENS, states, work.window, hears, adapts, compiled)

    silent = passes.total - passes.hearing
    again = passes.hearing - passes.adapting
    return one(True, True).times(passes.adapting) + one(True, False).times(again) + one(False, False).times(silent)


def streaming_s(work: Workload, passes: Passes, machine: Machine) -> float:
    """Return the seconds in which the transformer's weights come to the device for all passes of a window."""
    if machine.memory not in STREAMED or not machine.rates.link:
        return 0.0
    weights = transformer_bytes(work.dims, machine.formats.value_bytes, machine.formats.float8)
    rate = machine.rates.link if machine.memory == "group" else min(PAGEABLE, machine.rates.link)
    return passes.total * weights / rate / work.batch


def time_of(
    plan: Plan, work: Workload, passes: Passes, machine: Machine, vae: VaeDims = WAN_VAE, enlarge: int = 1
) -> Timing:
    """Return the seconds of a render's parts on a machine; loading and what the disk takes are not in it."""
    rates, size = machine.rates, (work.width, work.height)
    window_s = float(pictures_of(work.window) / plan.fps)
    sampling = seconds(window_operations(work, passes, window_s, machine.compiled), rates)
    coming = streaming_s(work, passes, machine)
    # A block comes while the one before it computes; single layers are waited for.
    sampling = max(sampling, coming) if machine.memory == "group" else sampling + coming
    tiling = None if machine.fit is None else machine.fit.tiling
    value_bytes = machine.formats.vae_bytes
    decoding = vae_seconds(flops.of_decoding(vae, *size, tiling, value_bytes), rates)
    conditions = work.window * vae_seconds(flops.of_encoding(vae, *size, tiling, value_bytes), rates)
    pixels = work.width * work.height * enlarge**2
    return Timing(
        conditions, plan.count * sampling, plan.latent_frames * decoding, plan.video_frames * pixels * ENCODING_S
    )
