"""Pack an item's inputs as bytes for a machine with its own storage, and store the video that comes back."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from avatarctl import durable
from avatarctl.batch.history import record_path
from avatarctl.batch.items import Item
from avatarctl.paths import cache_folder, fitted
from avatarctl.render.guard import guarded

Packed = dict[str, bytes]


def pack(item: Item) -> Packed:
    """Return the recording, the picture and the LoRAs. Weights are too large: every machine has its own."""
    job = item.job
    files = [("audio", job.audio), ("image", job.image), *((f"lora{i}", path) for i, (path, _) in enumerate(job.lora))]
    files += [(f"subtitles{i}", path) for i, (_, path) in enumerate(job.subtitles)]
    return {fitted(path.suffix, name): path.read_bytes() for name, path in files}


@contextmanager
def unpacked(item: Item, packed: Packed) -> Iterator[tuple[Item, Callable[[], dict[str, Any]]]]:
    """Lay an item's inputs into a folder of this machine; return the item there, and what reads its video.

    The folder is removed when the video was made; else the next attempt here goes on in it.
    """
    name = hashlib.sha256(os.fsencode(item.job.output))
    for content in packed.values():
        name.update(content)
    folder = cache_folder() / "batch" / name.hexdigest()
    for file, content in packed.items():
        durable.replace(folder / file, content)
    by_stem = {Path(file).stem: folder / file for file in packed}
    job = item.job
    own = replace(
        item,
        name=f"video{job.output.suffix}",
        job=job.model_copy(
            update={
                "audio": by_stem["audio"],
                "image": by_stem["image"],
                "output": folder / f"video{job.output.suffix}",
                "subtitles": tuple((code, by_stem[f"subtitles{i}"]) for i, (code, _) in enumerate(job.subtitles)),
                "lora": tuple((by_stem[f"lora{i}"], scale) for i, (_, scale) in enumerate(job.lora)),
            }
        ),
    )
    made = False

    def video() -> dict[str, Any]:
        nonlocal made
        record = durable.unsealed(record_path(own))
        assert record is not None, "it was written when the video was made"
        sheet = record["contact_sheet"]
        content = {
            "record": record,
            "video": own.job.output.read_bytes(),
            "sheet": Path(sheet).read_bytes() if sheet else None,
        }
        made = True
        return content

    yield own, video
    if made:
        shutil.rmtree(folder)


def unpack_video(item: Item, content: dict[str, Any]) -> None:
    """Put a video from another machine in its place. The record comes first: a video without one would be a stranger's."""
    output = item.job.output
    sheet = output.with_suffix(".jpg") if content["sheet"] is not None else None
    record = {**content["record"], "video": item.name, "contact_sheet": str(sheet) if sheet else None}
    with guarded(output.parent):
        output.unlink(missing_ok=True)
        durable.replace(record_path(item), durable.sealed(record))
        if sheet is not None:
            durable.replace(sheet, content["sheet"])
        durable.replace(output, content["video"])
