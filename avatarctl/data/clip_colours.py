"""Tell from what ffmpeg says of a video how its colours are coded, and the filters that make them those of a screen."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from avatarctl.audio.source import ffmpeg
from avatarctl.errors import InputFileError

HD_LINES, HD_WIDTH = 720, 1280
HDR = {"smpte2084": "PQ", "arib-std-b67": "HLG"}
WIDE = ("bt2020", "smpte431", "smpte432")  # primaries beyond a screen's
MATRICES = ("bt709", "fcc", "bt470bg", "smpte170m", "smpte240m", "ycgco", "bt2020nc", "bt2020c", "gbr", "ictcp")
# Of primaries, where nothing tells the matrix that belongs to them.
MATRIX_OF = {
    "bt709": "bt709",
    "bt470bg": "bt470bg",
    "smpte170m": "smpte170m",
    "smpte240m": "smpte240m",
    "bt2020": "bt2020nc",
}
UNKNOWN = "unknown"
WHITE_NITS = 203  # of a picture's white in PQ and HLG: ITU-R BT.2408, table 1
SAVE = "convert it to SDR first, and name that clip"


@dataclass(frozen=True)
class Colours:
    """``before``: filters ahead of scaling; ``after``: those behind it; ``note``: what the user should know, or nothing."""

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    note: str = ""


def colours_of(path: Path, track: str, below: str, width: int, height: int) -> Colours:
    """Return what ffmpeg's line of a video track, and the lines below it, tell of its colours.

    What is tagged is taken as tagged. Without a tag, video of 720 lines or 1280 columns and more is BT.709, smaller BT.601,
    as players have it. HDR (PQ, HLG) is tone-mapped to SDR, wide primaries are brought to BT.709's. Raises
    ``InputFileError`` for Dolby Vision of profile 5, and where this ffmpeg can't map tones.
    """
    if re.search(r"DOVI configuration record:.*profile: 5\b", below):
        raise InputFileError(f"{path}: got Dolby Vision of profile 5, which has no picture for other screens", SAVE)
    pixels, matrix, primaries, transfer = _tags(track)
    if re.match(r"0?[argb]{3,4}\d|0?[argb]{3,4}$|gbr|gray|ya|pal|mono|x2", pixels):
        matrix = "gbr"
    tagged = matrix
    if transfer in HDR:
        primaries = "bt2020" if primaries == UNKNOWN else primaries
    if matrix == UNKNOWN:
        hd = width >= HD_WIDTH or height >= HD_LINES
        matrix = MATRIX_OF.get(primaries, "bt709" if hd else UNKNOWN)
    before = (f"setparams=colorspace={matrix}",) if matrix != tagged else ()
    if transfer not in HDR and primaries not in WIDE:
        return Colours(before)
    if not _has_zscale():
        what = f"HDR ({HDR[transfer]})" if transfer in HDR else f"wide colours ({primaries})"
        raise InputFileError(
            f"{path}: got {what}, which this ffmpeg can't convert (it has no zscale and tonemap)", SAVE
        )
    given = f"setparams=color_primaries={primaries}:color_trc={'bt709' if transfer == UNKNOWN else transfer}"
    last = "zscale=p=bt709:t=bt709:m=gbr:r=pc,format=gbrp"
    if transfer in HDR:
        linear = f"zscale=t=linear:npl={WHITE_NITS},format=gbrpf32le,zscale=p=bt709,tonemap=mobius:desat=0"
        note = f"{path}: got HDR ({HDR[transfer]}), its tones are mapped to those of an ordinary screen"
        return Colours((*before, given), ("format=yuv444p16le", linear, last), note)
    return Colours((*before, given), ("format=yuv444p16le", last))


def _tags(track: str) -> tuple[str, str, str, str]:
    """Return pixel format, matrix, primaries and transfer of a track's line, such as ``yuv420p(tv, bt709, progressive)``."""
    found = re.search(r": Video: .*?, (\w+)(?:\(([^)]*)\))?, \d+x\d+", track)
    if found is None:
        return UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN
    for tag in (found[2] or "").split(", "):
        if tag in MATRICES:  # all three are the same
            return found[1], tag, tag, tag
        if tag.count("/") == 2:
            matrix, primaries, transfer = tag.split("/")
            return found[1], matrix, primaries, transfer
    return found[1], UNKNOWN, UNKNOWN, UNKNOWN


@cache
def _has_zscale() -> bool:
    listed = subprocess.run([ffmpeg(), "-hide_banner", "-filters"], capture_output=True, check=False, text=True)
    return all(re.search(rf" {name} ", listed.stdout) for name in ("zscale", "tonemap"))
