"""Convert pickled weights of a set to safetensors beside them, which are mapped at start."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import torch

from avatarctl import durable
from avatarctl.errors import DeviceError, UsageError, WeightsError
from avatarctl.fetching import record
from avatarctl.fetching.record import ELSEWHERE, MAKE_ROOM, Record
from avatarctl.fetching.sets import WeightSet, converted, part_of
from avatarctl.networks import checkpoints, kinds
from avatarctl.networks.weight_files import open_weights
from avatarctl.weights import checksum, remember_checksum


def convert(
    weight_set: WeightSet,
    folder: Path,
    records: dict[str, Record],
    paths: list[str],
    drop: bool,
    show: Callable[[int, int], None],
) -> None:
    """Write safetensors for the pickles ``paths`` of a set; with ``drop``, remove each pickle when that is done.

    Numbers keep their format. What was written is read back and compared before a pickle goes. Raises ``WeightsError``
    for weights that aren't those of the network, ``DeviceError`` for a full disk.
    """
    entry = records[weight_set.name]
    for number, path in enumerate(paths, start=1):
        target = converted(path)
        if not is_converted(folder, entry, path):
            made = entry.files.get(target)
            if (folder / target).is_file() and (made is None or checksum(folder / target) != made.sha256):
                raise UsageError(
                    f"{folder / target}: exists already, and was not converted from {path}",
                    "move it elsewhere, and run the same command again",
                )
            _convert_one(folder / path, folder / target, part_of(weight_set, path).network)
            sha256 = durable.digest(folder / target)
            assert sha256 is not None
            entry.put(target, (folder / target).stat().st_size, sha256, "converted", entry.files[path].sha256)
            remember_checksum(folder / target, sha256)
            record.write(folder, records)
        if drop:
            # The record first: what it says is there always is.
            (folder / path).unlink(missing_ok=True)
            del entry.files[path]
            record.write(folder, records)
        show(number, len(paths))


def is_converted(folder: Path, entry: Record, path: str) -> bool:
    """Return whether a pickle was converted as it is now."""
    made = entry.files.get(converted(path))
    if made is None or made.origin_sha256 != entry.files[path].sha256:
        return False
    return not entry.fault(folder, converted(path))


def _convert_one(old: Path, new: Path, kind: str) -> None:
    network: kinds.Network = getattr(kinds, kind)
    formats = {tensor.dtype for tensor in open_weights(old).tensors.values() if tensor.is_floating_point()}
    dtype = formats.pop() if len(formats) == 1 else torch.float32  # float32 holds all of a mixture exactly
    # The speech encoder's sizes stand in the config.json of its folder.
    source = old.parent if network is kinds.SPEECH_ENCODER else old
    model = checkpoints.load_network(network, source, None, dtype, "cpu")
    bytes_needed = sum(tensor.nbytes for tensor in model.state_dict().values())
    if bytes_needed > shutil.disk_usage(new.parent).free:
        raise DeviceError(f"{new}: the disk has no room for {bytes_needed / 10**6:,.1f} MB", MAKE_ROOM)
    with durable.guarded(new, MAKE_ROOM, ELSEWHERE):
        checkpoints.save_weights(model, new)
        new.chmod(stat.S_IMODE(old.stat().st_mode))  # for whom the original was
    written, expected = open_weights(new).tensors, checkpoints.released_state(model)
    wrong = [name for name in expected if name not in written or not torch.equal(written[name], expected[name])]
    if wrong:
        new.unlink()
        raise WeightsError(f"{new}: {len(wrong)} weights aren't what was written, removed", "check the disk")
