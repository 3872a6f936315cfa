"""Write small colour profiles for tests, of matrices, grey curves and a table for inks; they are nobody's but ours."""

from __future__ import annotations

import struct
from itertools import product

import numpy as np

D50 = np.array([0.9642, 1.0, 0.8249])
D65 = np.array([0.9505, 1.0, 1.089])
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
DISPLAY_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE_RGB = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
PROPHOTO = ((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001))
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def fixed(values: object) -> bytes:
    return b"".join(struct.pack(">i", round(float(value) * 65536)) for value in np.ravel(values))


def gamma_curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


def profile(space: bytes, kind: bytes, pcs: bytes, tags: dict[bytes, bytes]) -> bytes:
    """Put tags together to a profile of version 2."""
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + b"\0" * 78
    tags = {b"desc": text, b"cprt": b"text\0\0\0\0none\0\0\0\0", b"wtpt": b"XYZ \0\0\0\0" + fixed(D50), **tags}
    place, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        padded = content + b"\0" * (-len(content) % 4)
        table += name + struct.pack(">II", place + len(body), len(content))
        body += padded
    rest = struct.pack(">I", len(tags)) + table + body
    head = struct.pack(">I4sI4s4s4s", 128 + len(rest), b"test", 0x02400000, kind, space, pcs)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 28 + fixed(D50)
    return head.ljust(128, b"\0") + rest


def to_xyz(primaries: tuple[tuple[float, float], ...], white: np.ndarray) -> np.ndarray:
    """Return the matrix from linear RGB to XYZ under D50."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    matrix = columns * np.linalg.solve(columns, white)
    adapt = np.linalg.inv(BRADFORD) @ np.diag((BRADFORD @ D50) / (BRADFORD @ white)) @ BRADFORD
    return adapt @ matrix


def rgb_profile(
    primaries: tuple[tuple[float, float], ...], gamma: float, white: np.ndarray = D65, order: str = "rgb"
) -> bytes:
    """Return a profile of these primaries; ``order``: which primary the first, second and third channel stand for."""
    matrix = to_xyz(primaries, white)
    columns = {letter + b"XYZ": matrix[:, "rgb".index(meant)] for letter, meant in zip((b"r", b"g", b"b"), order)}
    tags = {name: b"XYZ \0\0\0\0" + fixed(column) for name, column in columns.items()}
    return profile(b"RGB ", b"mntr", b"XYZ ", tags | {c + b"TRC": gamma_curve(gamma) for c in (b"r", b"g", b"b")})


def grey_profile(gamma: float) -> bytes:
    return profile(b"GRAY", b"mntr", b"XYZ ", {b"kTRC": gamma_curve(gamma)})


def inks_profile() -> bytes:
    """Return a profile of four inks that are other colours than their names say: cyan prints as a green of L 50."""
    # In the order of the table, the last ink fastest: L, a and b of each mixture; any ink but cyan alone is black.
    white, green, black = (255, 128, 128), (128, 78, 178), (0, 128, 128)
    grid = [white if not any(inks) else green if inks == (1, 0, 0, 0) else black for inks in product((0, 1), repeat=4)]
    straight = bytes(range(256))
    table = (
        struct.pack(">BBBB", 4, 3, 2, 0)
        + fixed(np.eye(3))
        + straight * 4
        + bytes(np.ravel(grid).tolist())
        + straight * 3
    )
    return profile(b"CMYK", b"prtr", b"Lab ", {b"A2B0": b"mft1\0\0\0\0" + table})


def srgb_of(linear_xyz_d50: np.ndarray) -> np.ndarray:
    """Return 8-bit sRGB of XYZ under D50, unrounded and clipped."""
    linear = np.clip(np.linalg.solve(to_xyz(SRGB, D65), linear_xyz_d50), 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
