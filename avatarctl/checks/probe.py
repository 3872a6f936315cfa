"""Report on the installed torch as JSON lines, in a process of its own, since a broken torch may kill it.

A line is written as soon as a stage is done, so that what came before a crash is known, and where it was.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

STAGES = ("torch", "gpus", "attention")


def main() -> None:
    """Write one line for each stage."""
    for stage, look in zip(STAGES, (_torch, _gpus, _attention), strict=True):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = look()
        line = {"stage": stage, **found, "warnings": [str(warning.message) for warning in caught]}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def _torch() -> dict[str, Any]:
    import torch

    return {"version": torch.__version__, "cuda": torch.version.cuda, "hip": torch.version.hip}


def _gpus() -> dict[str, Any]:
    import torch

    usable = torch.cuda.is_available()
    return {"usable": usable, "gpus": [_gpu(index) for index in range(torch.cuda.device_count())] if usable else []}


def _gpu(index: int) -> dict[str, Any]:
    """Compute on the GPU: a build without kernels for it shows only then."""
    import torch

    device = torch.device("cuda", index)
    about: dict[str, Any] = {"index": index, "name": torch.cuda.get_device_name(device)}
    about["capability"] = ".".join(map(str, torch.cuda.get_device_capability(device)))
    try:
        about["free_bytes"], about["total_bytes"] = torch.cuda.mem_get_info(device)
        ones = torch.ones(16, 16, device=device)
        about["computes"] = (ones @ ones).sum().item() == 16**3
        with torch.cuda.device(device):
            about["bfloat16"] = torch.cuda.is_bf16_supported(including_emulation=False)
        about["float8"] = _float8(ones)
    except RuntimeError as error:
        about.update(computes=False, error=str(error).splitlines()[0])
    return about


def _float8(ones: Any) -> bool:
    """Return whether float8 can store weights: they are cast to it and back, never computed with."""
    import torch

    try:
        return bool((ones.to(torch.float8_e4m3fn).to(torch.bfloat16) == 1).all())
    except (RuntimeError, AttributeError):
        return False


def _attention() -> dict[str, Any]:
    import torch

    from avatarctl.networks.attention import usable_attention

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {"device": str(device), "usable": usable_attention(device), "cpu_float8": _float8(torch.ones(2))}


if __name__ == "__main__":
    main()
