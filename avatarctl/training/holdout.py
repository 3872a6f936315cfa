"""Choose the samples that are never trained on: whole clips where there are many, else the last windows of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from avatarctl.data.shards import SampleEntry
from avatarctl.errors import UsageError
from avatarctl.training.draws import seed_of

MANY = 20  # clips: from here on whole ones are held out, which tells how strangers fare


@dataclass(frozen=True)
class Split:
    """Samples to train on, samples that are only measured, and windows left out since they share pictures with those."""

    train: tuple[SampleEntry, ...]
    held_out: tuple[SampleEntry, ...]
    left_out: tuple[SampleEntry, ...] = ()


def split(entries: Sequence[SampleEntry], count: int) -> Split:
    """Hold out ``count`` samples, by a hash of the clip's name, so that new clips don't move the others.

    Of fewer than 20 clips, one last window after another is taken, and every clip keeps something to train on as long as
    that is possible. Raises ``UsageError`` where nothing would be left to train on.
    """
    clips: dict[str, list[SampleEntry]] = {}
    for entry in sorted(entries, key=lambda entry: (clip_of(entry), start_of(entry))):
        clips.setdefault(clip_of(entry), []).append(entry)
    order = sorted(clips, key=lambda clip: (seed_of("holdout", clip), clip))
    held: dict[str, int] = dict.fromkeys(order, 0)  # last windows of each clip

    def missing() -> int:
        return count - sum(held.values())

    if len(clips) >= MANY:
        for clip in order:
            if len(clips[clip]) <= missing():
                held[clip] = len(clips[clip])
    for rest in (1, 0):  # what a clip keeps
        while missing() > 0 and (open_ := [clip for clip in order if len(clips[clip]) - held[clip] > rest]):
            for clip in open_[: missing()]:
                held[clip] += 1
    chosen = {entry.key for clip in order for entry in clips[clip][len(clips[clip]) - held[clip] :]}
    left = {entry.key for clip in order for entry in _overlapping(clips[clip], held[clip])}
    split_ = Split(
        tuple(entry for entry in entries if entry.key not in chosen and entry.key not in left),
        tuple(entry for entry in entries if entry.key in chosen),
        tuple(entry for entry in entries if entry.key in left),
    )
    if not split_.train:
        raise UsageError(
            f"holdout: got {count} of {len(entries)} samples, expected some left to train on",
            "lower it: --set holdout=0 holds out none; or encode more clips",
        )
    return split_


def _overlapping(windows: Sequence[SampleEntry], held: int) -> list[SampleEntry]:
    """Return the windows of a clip before its ``held`` last ones that share pictures with them."""
    if not held or held == len(windows):
        return []
    first = start_of(windows[-held])
    return [entry for entry in windows[:-held] if start_of(entry) + int(entry.meta["frames"]) > first]


def clip_of(entry: SampleEntry) -> str:
    """Return the clip that a sample is a window of."""
    return entry.key.rpartition("/")[2].rpartition("-")[0]  # the same clip in another cache is the same clip


def start_of(entry: SampleEntry) -> int:
    """Return the first picture of a sample in its clip."""
    number = entry.key.rpartition("-")[2]
    return int(entry.meta.get("start_frame", number if number.isdecimal() else 0))
