"""Measure the main memory that a GPU's computer needs in each memory mode, with files of full size and no GPU.

The program's own loading code reads real files; what goes to the device goes to torch's "meta" device, where tensors have no
bytes, as those on a GPU have none in main memory. In a process of its own, whose own memory (RssAnon, without pages of mapped
files) is sampled every 50 ms: the prompt's states, block by block (on the CPU here), which come first in a render; then, per
mode, image encoder, VAE, speech encoder, transformer, and every network on the device in turn. Activations live on the device and
are not in it; windows in flight are:

    python -m benchmarks.main_memory --weights /tmp/full-size
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from benchmarks.full_size import make_weights, watched

MODES = ("full", "model", "group", "sequential")
WINDOWS_IN_FLIGHT = 51  # at 50 steps and overlap 5: 281 MB at 512x512


def hold(weights: Path, mode: str, float8: bool) -> None:
    """Load and place every network as a render does, the device being one without bytes."""
    import torch

    from avatarctl.networks import checkpoints
    from avatarctl.networks.conditions import prompt_states
    from avatarctl.networks.placement import Placement
    from avatarctl.networks.text_stream import stream_text_encoder
    from avatarctl.render.networks import Networks
    from avatarctl.weights import find_weights

    files = find_weights(weights, (512, 512), "auto")
    if mode == "text":
        text = stream_text_encoder(
            checkpoints.load_text_encoder(files.text_encoder, dtype=None), torch.device("cpu"), torch.bfloat16
        )
        prompt_states(["a person speaks"], checkpoints.load_tokenizer(files.tokenizer), text)
        return
    device = torch.device("meta")
    networks = Networks(files, (), Placement(device, torch.bfloat16, mode, float8, None, False))
    residency = networks.residency
    with torch.no_grad():
        image = residency.place(
            checkpoints.load_image_encoder(files.image_encoder, dtype=torch.bfloat16, device=residency.load_device)
        )
        residency.use(image)
        residency.drop(image)
        del image
        residency.free()
        flying = [torch.ones(1, 16, 21, 64, 64) for _ in range(WINDOWS_IN_FLIGHT)]
        for network in (
            networks.vae,
            networks.speech_encoder,
            networks.transformer,
            networks.vae,
            networks.transformer,
        ):
            residency.use(network)
        blocks = list(networks.transformer.blocks)
        for block in blocks:  # each comes and leaves, as in a pass
            for module in block.modules():
                for hook in list(module._forward_pre_hooks.values()):
                    hook(module, ())
                for hook in list(module._forward_hooks.values()):
                    hook(module, (), None)
    print(json.dumps({"windows in flight": len(flying)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="folder for 16 GB of files")
    parser.add_argument("--hold", help="a mode: what the measured process does")
    parser.add_argument("--float8", action="store_true")
    asked = parser.parse_args()
    if asked.hold:
        return hold(asked.weights, asked.hold, asked.float8)
    make_weights(asked.weights)
    for mode in ("text", *MODES):
        for float8 in ([], ["--float8"]) if mode in MODES else ([],):
            command = [sys.executable, "-m", "benchmarks.main_memory", "--weights", str(asked.weights), "--hold", mode]
            found = watched([*command, *float8], dict(os.environ))
            print(json.dumps({"mode": mode, "float8": bool(float8), **found}), flush=True)
    return None


if __name__ == "__main__":
    main()
