"""Tell how far an item is: new, begun, finished, changed or foreign, from its sealed record and its render folder.

The record of a finished video holds its checksum and the manifest it was made by. It is written while the render folder is
still there, and the folder is removed after it: at any instant a finished video has a record, or a folder that says that it
was delivered, so that none is made twice.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from avatarctl import durable
from avatarctl.batch.items import Item
from avatarctl.errors import ChangedError, InputFileError
from avatarctl.paths import derived
from avatarctl.render.folder import RenderFolder
from avatarctl.render.guard import guarded
from avatarctl.render.inputs import Checked, Rendered, as_begun, check_unchanged, manifest_of
from avatarctl.weights import checksum

STATE = ".avatarctl-batch"
NOT_FACTS = ("output", "contact_sheet", "framing", "notes")  # of a finished render: they stand elsewhere in its record
State = Literal["new", "begun", "finished", "changed", "foreign"]


@dataclass(frozen=True)
class ItemState:
    """How far an item is, and, when it isn't what was begun, every difference."""

    state: State
    why: str = ""


def state_folder(item: Item) -> Path:
    """Return the folder of records in the output folder of an item."""
    return Path(*item.job.output.parts[: len(item.job.output.parts) - len(Path(item.name).parts)]) / STATE


def record_path(item: Item) -> Path:
    """Return the file of an item's record."""
    return derived(state_folder(item) / item.name, after=".json")


def lock_path(item: Item) -> Path:
    """Return the file by which one process at a time makes an item."""
    return derived(state_folder(item) / item.name, after=".lock")


def item_state(item: Item, checked: Checked) -> ItemState:
    """Tell how far an item is; reads, changes nothing."""
    job = item.job
    record = durable.unsealed(record_path(item))
    folder = RenderFolder(job.folder)
    differs = ""
    if record is not None:
        differs = _differences(record["manifest"], checked, job.folder)
        video = checksum(job.output) if job.output.is_file() else None
        if not differs and video is not None and video != record["sha256"]:
            differs = "the video is not the one that was made"
        sheet = record["contact_sheet"]
        if not differs and video is not None and (sheet is None or Path(sheet).is_file()):
            return ItemState("finished")
    if folder.exists():
        try:
            begun = _differences(folder.manifest(), checked, job.folder)
        except InputFileError as error:  # a damaged manifest
            return ItemState("changed", error.message)
        return ItemState("changed", begun) if begun else ItemState("begun")
    if differs:
        return ItemState("changed", differs)
    if record is None and job.output.exists():
        return ItemState("foreign", f"{job.output}: exists already, and no batch made it")
    return ItemState("new")


def _differences(old: dict[str, Any], now: Checked, folder: Path) -> str:
    try:
        check_unchanged(old, manifest_of(as_begun(now, old)), folder)
    except ChangedError as error:
        return "; ".join(line.strip() for line in error.message.split("\n")[1:])
    return ""


def write_record(item: Item, rendered: Rendered) -> None:
    """Note that an item's video is in its place, with the manifest that its render folder still holds."""
    facts = {name: value for name, value in asdict(rendered).items() if name not in NOT_FACTS}
    content = {
        "video": item.name,
        "sha256": checksum(rendered.output),
        "contact_sheet": str(rendered.contact_sheet.resolve()) if rendered.contact_sheet else None,
        "manifest": RenderFolder(item.job.folder).manifest(),
        **facts,
    }
    path = record_path(item)
    with guarded(path.parent):
        durable.replace(path, durable.sealed(content))
