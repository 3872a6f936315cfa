"""Published figures of GPUs, for estimates of time and memory on a card that isn't here; no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches

from avatarctl.errors import UsageError
from avatarctl.networks.memory import CUDA_CONTEXT_BYTES

# What of the published figures real kernels of these sizes reach: assumptions, none is measured by this project.
PRODUCTS, CONVOLUTIONS, MOVED = 0.65, 0.4, 0.8
ATTENTION, ATTENTION_OLD = 0.5, 0.25  # flash or cuDNN's; memory-efficient attention of cards before Ampere
CALL_S = 6e-6  # from one kernel's start to the next one's
LOCKED = 0.8  # of the bus, from locked main memory
PAGEABLE = 5e9  # bytes per second from main memory that isn't locked: a processor copies them first
SYSTEM = 0.97  # of the memory is free on an idle card


@dataclass(frozen=True)
class Rates:
    """What a device reaches: operations per second by kind, bytes moved per second, seconds of a call.

    ``link``: bytes per second that come from locked main memory; 0: nothing has to come, as on a CPU.
    """

    products: float
    attention: float
    convolutions: float
    moved: float
    call_s: float
    overlaps: bool = True  # calls are prepared while the device works, as on a GPU
    link: float = 0.0


@dataclass(frozen=True)
class Card:
    """A GPU as its maker describes it.

    ``tensor``: tera-operations per second of dense products in half precision with sums in float32; ``single``: in float32;
    ``bandwidth`` of its memory in GB/s, ``memory`` in GiB, ``bus`` to main memory in GB/s (16 lanes of PCIe 4 where not said).
    """

    name: str
    capability: tuple[int, int]
    tensor: float
    single: float
    bandwidth: float
    memory: float
    bus: float = 31.5

    @property
    def bfloat16(self) -> bool:
        """Whether it computes in bfloat16; older ones use float16, and float32 for the VAE."""
        return self.capability >= (8, 0)

    @property
    def free_bytes(self) -> int:
        """The memory that a render can take on an idle card."""
        return round(self.memory * 2**30 * SYSTEM) - CUDA_CONTEXT_BYTES

    @property
    def rates(self) -> Rates:
        """What it is taken to reach."""
        share = ATTENTION if self.bfloat16 else ATTENTION_OLD
        convolutions = CONVOLUTIONS * (self.tensor if self.bfloat16 else self.single)
        return Rates(
            PRODUCTS * self.tensor * 1e12,
            share * self.tensor * 1e12,
            convolutions * 1e12,
            MOVED * self.bandwidth * 1e9,
            CALL_S,
            link=LOCKED * self.bus * 1e9,
        )


# From the makers' data sheets and white papers; GeForce cards sum in float32 at half of their largest figure before RTX 50.
CARDS = (
    Card("T4", (7, 5), 65, 8.1, 320, 16, 15.75),
    Card("V100", (7, 0), 125, 15.7, 900, 32, 15.75),
    Card("RTX 2080 Ti", (7, 5), 53.8, 13.4, 616, 11, 15.75),
    Card("RTX 3060", (8, 6), 25.5, 12.7, 360, 12),
    Card("RTX 3080", (8, 6), 59.5, 29.8, 760, 10),
    Card("RTX 3090", (8, 6), 71, 35.6, 936, 24),
    Card("RTX 4060 Ti", (8, 9), 44.1, 22.1, 288, 16, 15.75),
    Card("RTX 4070 Ti Super", (8, 9), 88.2, 44.1, 672, 16),
    Card("RTX 4080", (8, 9), 97.5, 48.7, 717, 16),
    Card("RTX 4090", (8, 9), 165.2, 82.6, 1008, 24),
    Card("RTX 5080", (12, 0), 112.6, 56.3, 960, 16, 63),
    Card("RTX 5090", (12, 0), 209.5, 104.8, 1792, 32, 63),
    Card("A10", (8, 6), 125, 31.2, 600, 24),
    Card("L4", (8, 9), 121, 30.3, 300, 24),
    Card("L40S", (8, 9), 362, 91.6, 864, 48),
    Card("A100", (8, 0), 312, 19.5, 2039, 80),
    Card("H100", (9, 0), 989, 67, 3350, 80, 63),
    Card("H200", (9, 0), 989, 67, 4800, 141, 63),
    Card("B200", (10, 0), 2250, 80, 8000, 180, 63),
)
TEN = ("T4", "RTX 3060", "RTX 3090", "RTX 4060 Ti", "RTX 4090", "RTX 5090", "L4", "L40S", "A100", "H100")


def card_named(name: str) -> Card:
    """Return the card that a name means, such as 4090, "rtx 4090" or H100; raises ``UsageError`` with those that are known."""
    by_key = {_key(card.name): card for card in CARDS}
    asked = _key(name)
    if asked in by_key:
        return by_key[asked]
    near = get_close_matches(asked, by_key, n=1)
    meant = f", did you mean {by_key[near[0]].name}?" if near else ""
    raise UsageError(
        f"--for: got '{name}', expected a GPU with published figures{meant}",
        f"known: {', '.join(card.name for card in CARDS)}",
    )


def _key(name: str) -> str:
    """Return a name without its makers and families: "NVIDIA GeForce RTX 4090" is 4090."""
    plain = re.sub(r"nvidia|geforce|rtx|tesla|quadro|gtx|sxm\d?|pcie|\d+\s*gi?b", "", name.lower())
    return re.sub(r"[^a-z0-9]", "", plain)
