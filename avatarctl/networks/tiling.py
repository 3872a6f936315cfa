"""Cut pictures into tiles that the VAE codes one after the other, so that each needs less memory; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from avatarctl.errors import UsageError

SPATIAL = 8  # pixels per latent row and column
OVERLAP_PX = 64
LEAST_PX = 128  # smaller tiles are overlap for the most part
MOST = 64  # tiles
SMALL_PX2 = 320 * 320  # tiles that are asked for without a memory to fit are at most so large


@dataclass(frozen=True)
class Tiling:
    """Tiles of ``size_px`` rows and ``width_px`` columns (None: square) that share ``overlap_px`` with their neighbours.

    They are blended linearly. Less memory, but pictures close to those of a whole decode, not equal.
    """

    size_px: int = 256
    overlap_px: int = OVERLAP_PX
    width_px: int | None = None

    def __post_init__(self) -> None:
        sides = (self.size_px, self.overlap_px, self.columns_px)
        if any(side % SPATIAL for side in sides) or not 0 < self.overlap_px < min(self.size_px, self.columns_px):
            raise UsageError(
                f"tiling: got tiles of {self.size_px} px with {self.overlap_px} px of overlap, expected multiples of "
                f"{SPATIAL} with 0 < overlap < size"
            )

    @property
    def columns_px(self) -> int:
        """The width of a tile."""
        return self.size_px if self.width_px is None else self.width_px

    def pixels(self, width: int, height: int) -> int:
        """Return the pixels of the largest tile of a picture."""
        return min(height, self.size_px) * min(width, self.columns_px)

    def name(self, width: int, height: int) -> str:
        """Return rows and columns of tiles in words: "2x2"."""
        rows = starts(height // SPATIAL, self.size_px // SPATIAL, self.overlap_px // SPATIAL)
        columns = starts(width // SPATIAL, self.columns_px // SPATIAL, self.overlap_px // SPATIAL)
        return f"{len(rows)}x{len(columns)}"

    def work(self, width: int, height: int) -> float:
        """Return how many times the pixels of the picture all tiles have together."""
        rows, columns = map(int, self.name(width, height).split("x"))
        return rows * columns * self.pixels(width, height) / (width * height)


def starts(length: int, size: int, overlap: int) -> list[int]:
    """Cover ``length`` latents with tiles of one size; the last one is moved back to end at the edge."""
    if length <= size:
        return [0]
    return [*range(0, length - size, size - overlap), length - size]


def tilings(width: int, height: int) -> list[Tiling]:
    """Return the ways to cut a picture, from the least work on, each with smaller tiles than those before."""
    found: list[tuple[float, int, Tiling]] = []
    for (rows, size_px), (columns, width_px) in product(_sides(height), _sides(width)):
        if 1 < rows * columns <= MOST:
            tiling = Tiling(size_px, OVERLAP_PX, width_px)
            found.append((tiling.work(width, height), rows * columns, tiling))
    kept: list[Tiling] = []
    least = width * height
    for _, _, tiling in sorted(found, key=lambda each: each[:2]):
        if tiling.pixels(width, height) < least:
            kept.append(tiling)
            least = tiling.pixels(width, height)
    return kept


def small_tiling(width: int, height: int) -> Tiling | None:
    """Return the fewest tiles of at most 320 x 320 pixels; None for pictures that are no larger."""
    if width * height <= SMALL_PX2:
        return None
    ways = tilings(width, height)
    return next((each for each in ways if each.pixels(width, height) <= SMALL_PX2), ways[-1] if ways else None)


def tiling_named(name: str, width: int, height: int) -> Tiling:
    """Return the tiling that :meth:`Tiling.name` named."""
    ways = {each.name(width, height): each for each in tilings(width, height)}
    if name not in ways:
        raise UsageError(f"vae_tiling: got '{name}' at {width}x{height}, expected one of {', '.join(ways) or 'none'}")
    return ways[name]


def _sides(length_px: int) -> list[tuple[int, int]]:
    """Return (number of tiles along a side, their size in pixels); the smallest even size of each number."""
    sides = [(1, max(length_px, LEAST_PX))]
    length, overlap = length_px // SPATIAL, OVERLAP_PX // SPATIAL
    for count in range(2, MOST + 1):
        size = -(-(length + (count - 1) * overlap) // count)
        if size * SPATIAL < LEAST_PX:
            break
        if len(starts(length, size, overlap)) == count:
            sides.append((count, size * SPATIAL))
    return sides
