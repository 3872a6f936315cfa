"""The batches of every step: by size and length, from one cache or several, in an order that depends on (seed, epoch) alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from avatarctl.data.compact import MASK_CHANNELS, read_sample
from avatarctl.data.shards import SampleEntry
from avatarctl.errors import InputFileError, UsageError
from avatarctl.settings.train import TrainSettings
from avatarctl.training import sources
from avatarctl.training.draws import seed_of
from avatarctl.training.holdout import split
from avatarctl.training.loss import Batch

TEMPORAL = 4  # video frames per latent frame after the first


class Samples:
    """The samples of a cache. ``train`` and ``held_out`` are what is trained on and what never is; ``left_out`` is neither."""

    def __init__(self, caches: Path | Sequence[Path], settings: TrainSettings, null_text_LD: Tensor) -> None:
        self.caches = (caches,) if isinstance(caches, Path) else tuple(caches)
        self.cache, self.settings, self.null_text = self.caches[0], settings, null_text_LD
        entries = sources.entries_of(self.caches)
        if not entries:
            raise InputFileError(
                f"{self.cache}: got no samples, expected encoded clips", f"avatarctl data check {self.cache}"
            )
        sources.check_patterns(settings, entries)
        entries = [entry for entry in entries if sources.matching(settings.repeats, entry, 1.0) > 0]
        parts = split(entries, settings.holdout)
        self.train, self.held_out, self.left_out = list(parts.train), list(parts.held_out), list(parts.left_out)
        self._order: tuple[int, list[list[SampleEntry]]] = (-1, [])
        self._damaged: set[str] = set()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of a sample's tensors; of text, the longest that the transformer will meet."""
        longest = max([len(self.null_text), *(entry.shapes["text"][0] for entry in [*self.train, *self.held_out])])
        first = next((entry.shapes for entry in self.train if "speech" in entry.shapes), None)
        if first is None:
            raise UsageError(
                f"{self.cache}: got pictures alone to train on, expected clips with sound beside them",
                "encode clips too, or lower holdout",
            )
        channels, *rest = first["latents"]
        condition = (MASK_CHANNELS + channels, *rest)
        return {"condition": condition, **first, "text": (longest, first["text"][1])}

    @property
    def pictures(self) -> list[SampleEntry]:
        """The samples that are pictures without sound, held-out ones among them."""
        return [entry for entry in [*self.train, *self.held_out] if "speech" not in entry.shapes]

    @property
    def has_pictures(self) -> bool:
        """Whether some samples to train on are pictures without sound."""
        return any("speech" not in entry.shapes for entry in self.train)

    def without_pictures(self) -> str:
        """Return what leaves the pictures out: a hint for those who can't use them."""
        return sources.without(self.pictures, [entry for entry in self.train if "speech" in entry.shapes])

    def fingerprint(self) -> str:
        """Return a hash of what is trained on: a resumed run has to find the same."""
        digest = hashlib.sha256()
        for entry in [*self.train, *self.held_out]:
            digest.update(f"{entry.key} {entry.sha256}\n".encode())
        return digest.hexdigest()

    def epoch(self, number: int) -> list[list[SampleEntry]]:
        """Return the batches of an epoch: samples shuffled within their bucket, cut, and the batches shuffled."""
        if self._order[0] != number:
            buckets: dict[Any, list[SampleEntry]] = {}
            for entry in self.train:
                buckets.setdefault(entry.bucket, []).append(entry)
            generator = torch.Generator().manual_seed(seed_of(self.settings.seed, "epoch", number))
            size = self.settings.clips_per_pass
            batches = []
            for bucket in sorted(buckets):
                chosen = sources.repeated(buckets[bucket], self.settings.repeats, generator)
                members = [chosen[i] for i in torch.randperm(len(chosen), generator=generator).tolist()]
                batches += [members[i : i + size] for i in range(0, len(members), size)]
            order = torch.randperm(len(batches), generator=generator).tolist()
            self._order = (number, [batches[i] for i in order])
        return self._order[1]

    @cached_property
    def whole_held_out(self) -> list[SampleEntry]:
        """The held-out samples but those that are damaged."""
        return [entry for entry in self.held_out if self._tensors(entry) is not None]

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch: as many in every one."""
        return len(self.epoch(max(self._order[0], 0)))

    def entries(self, number: int) -> list[SampleEntry]:
        """Return the samples of batch ``number``, counted over all epochs; each as often as states of its path are learnt."""
        per_epoch = self.per_epoch
        clips = self.epoch(number // per_epoch)[number % per_epoch]
        return [entry for entry in clips for _ in range(self.settings.states_per_clip)]

    def whole(self, entries: Sequence[SampleEntry]) -> Batch:
        """Read samples of one bucket; each one that is damaged is skipped: the next of its bucket stands for it."""
        chosen, skipped = [], []
        read: dict[str, dict[str, Tensor]] = {}
        for entry in entries:
            standing = entry
            while (tensors := read.get(standing.key) or self._tensors(standing)) is None:
                standing = self._next(standing, entry)
            if standing is not entry:
                skipped.append(entry.key)
            chosen.append(standing)
            read[standing.key] = tensors
        return replace(self._batch(chosen, [read[entry.key] for entry in chosen]), skipped=tuple(skipped))

    def _tensors(self, entry: SampleEntry) -> dict[str, Tensor] | None:
        """Return a sample's tensors, or None when it is damaged or holds numbers that aren't finite."""
        if entry.key in self._damaged:
            return None
        try:
            return self._read(entry)
        except InputFileError:
            self._damaged.add(entry.key)
            return None

    def _next(self, entry: SampleEntry, first: SampleEntry) -> SampleEntry:
        """Return the sample that follows in the bucket; raises ``InputFileError`` when it is the one that was begun with."""
        bucket = [each for each in self.train if each.bucket == entry.bucket]
        following = bucket[(bucket.index(entry) + 1) % len(bucket)]
        if following is first:
            raise InputFileError(
                f"{self.cache}: {len(bucket)} of {len(bucket)} samples of a size are damaged, expected some that are whole",
                f"avatarctl data check {self.cache} --repair, then encode again",
            )
        return following

    def load(self, entries: Sequence[SampleEntry]) -> Batch:
        """Read samples of one bucket; raises ``InputFileError`` when one is damaged."""
        return self._batch(entries, [self._read(entry) for entry in entries])

    def _read(self, entry: SampleEntry) -> dict[str, Tensor]:
        cache, own = sources.place_of(self.caches, entry)
        return _read(cache, own)

    def _batch(self, entries: Sequence[SampleEntry], tensors: Sequence[Mapping[str, Tensor]]) -> Batch:
        length = max(each["text"].shape[0] for each in tensors)
        frames = tensors[0]["latents"].shape[1]

        def together(name: str) -> Tensor:
            return torch.stack([each[name].float() for each in tensors])

        text = torch.stack(
            [functional.pad(each["text"].float(), (0, 0, 0, length - each["text"].shape[0])) for each in tensors]
        )
        valid = torch.stack([_valid(entry, frames) for entry in entries])
        return Batch(
            keys=tuple(entry.key for entry in entries),
            latents=together("latents"),
            condition=together("condition"),
            image_tokens=together("image_tokens"),
            speech=together("speech") if "speech" in tensors[0] else None,
            text=text,
            null_text=self.null_text,
            face=together("face_mask"),
            lips=together("lip_mask"),
            valid=valid,
            masked=torch.tensor([sources.masks_of(entry) for entry in entries]),
            weight=torch.tensor([sources.matching(self.settings.loss_weights, entry, 1.0) for entry in entries]),
        )

    def stream(self, numbers: Iterator[int]) -> Iterator[Batch]:
        """Return batches in this order, read ahead by a few threads."""
        ahead = self.settings.workers
        if not ahead:
            for number in numbers:
                yield self.whole(self.entries(number))
            return
        with ThreadPoolExecutor(ahead, thread_name_prefix="samples") as pool:
            waiting: list[Future[Batch]] = []
            try:
                for number in numbers:
                    waiting.append(pool.submit(self.whole, self.entries(number)))
                    if len(waiting) > ahead:
                        yield waiting.pop(0).result()
                while waiting:
                    yield waiting.pop(0).result()
            finally:
                for each in waiting:
                    each.cancel()


def _read(cache: Path, entry: SampleEntry) -> dict[str, Tensor]:
    """Return a sample's tensors; raises ``InputFileError`` when it is damaged or holds numbers that aren't finite."""
    tensors = read_sample(cache, entry)
    if broken := [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        raise InputFileError(
            f"{cache}: sample {entry.key} holds numbers that aren't finite ({', '.join(broken)})",
            f"avatarctl data check {cache} --repair, then encode again",
        )
    return tensors


def _valid(entry: SampleEntry, latent_frames: int) -> Tensor:
    """Return 1 for latent frames that hold pictures of the clip, 0 for those that only fill up."""
    count = (int(entry.meta["frames"]) + TEMPORAL - 2) // TEMPORAL + 1
    return (torch.arange(latent_frames) < count).float()
