"""Take the audio layers out of a StableAvatar transformer: what is left is a Wan2.1 transformer, to train lips from nothing.

Shows that a run from Wan2.1 learns lips, at the embedded avatar's size, by command lines (an hour or two on one CPU core):

    python benchmarks/without_audio.py --output bare.safetensors
    avatarctl puppet data --output drawn/clips
    avatarctl data encode drawn --output cache --weights puppet --preset puppet
    avatarctl train --data cache --output run --preset puppet-lips --weights bare.safetensors
    avatarctl puppet pack --weights puppet --transformer run/transformer.safetensors --output packed
    avatarctl puppet evaluate --weights packed/weights --output report --pairs 20 --minutes 0 --no-tables

report/report.md has the correlation of the mouth's opening with held-out voices, and with other voices.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from avatarctl.networks.checkpoints import load_transformer, released_state
from avatarctl.networks.dims import TransformerDims
from avatarctl.networks.weight_files import write_weights
from avatarctl.paths import embedded_avatar


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=embedded_avatar() / "weights" / "transformer.safetensors")
    parser.add_argument("--output", type=Path, required=True)
    asked = parser.parse_args()
    model = load_transformer(asked.weights)
    dims: TransformerDims = model.dims
    kept = {name: tensor.contiguous() for name, tensor in released_state(model).items() if "vocal" not in name}
    write_weights(asked.output, kept, {"format": "pt", "dims": json.dumps(dims.to_json())}, "choose another --output")
    print(f"{asked.output}: {len(kept)} tensors, {len(released_state(model)) - len(kept)} of audio left out")


if __name__ == "__main__":
    main()
