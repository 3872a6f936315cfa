"""The batches of every step: by size, in an order that depends on (seed, epoch) alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from avatarctl.data.shards import Index, SampleEntry, read_tensors
from avatarctl.errors import InputFileError, UsageError
from avatarctl.settings.train import TrainSettings
from avatarctl.training.draws import seed_of
from avatarctl.training.loss import Batch

TEMPORAL = 4  # video frames per latent frame after the first


class Samples:
    """The samples of a cache. ``train`` and ``held_out`` are what is trained on and what never is."""

    def __init__(self, cache: Path, settings: TrainSettings, null_text_LD: Tensor) -> None:
        entries = Index(cache).samples()
        if not entries:
            raise InputFileError(f"{cache}: got no samples, expected encoded clips", f"avatarctl data check {cache}")
        self.cache, self.settings, self.null_text = cache, settings, null_text_LD
        # By a hash of the clip, so that windows of one clip stay on one side and new clips don't move the others.
        ranked = sorted(entries, key=lambda entry: (seed_of("holdout", _clip_of(entry)), entry.key))
        held = {entry.key for entry in ranked[: settings.holdout]}
        held_clips = {_clip_of(entry) for entry in ranked[: settings.holdout]}
        self.held_out = [entry for entry in entries if entry.key in held]
        self.train = [entry for entry in entries if _clip_of(entry) not in held_clips]
        if not self.train:
            raise UsageError(
                f"holdout: got {settings.holdout} of {len(entries)} samples, expected some left to train on",
                "lower holdout, or encode more clips",
            )
        self._order: tuple[int, list[list[SampleEntry]]] = (-1, [])

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of a sample's tensors; of text, the longest that the transformer will meet."""
        longest = max([len(self.null_text), *(entry.shapes["text"][0] for entry in [*self.train, *self.held_out])])
        first = self.train[0].shapes
        return {**first, "text": (longest, first["text"][1])}

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
            size = self.settings.batch_size
            batches = []
            for bucket in sorted(buckets):
                members = [
                    buckets[bucket][i] for i in torch.randperm(len(buckets[bucket]), generator=generator).tolist()
                ]
                batches += [members[i : i + size] for i in range(0, len(members), size)]
            order = torch.randperm(len(batches), generator=generator).tolist()
            self._order = (number, [batches[i] for i in order])
        return self._order[1]

    def entries(self, number: int) -> list[SampleEntry]:
        """Return the samples of batch ``number``, counted over all epochs."""
        per_epoch = len(self.epoch(max(self._order[0], 0)))  # the same in every epoch
        return self.epoch(number // per_epoch)[number % per_epoch]

    def load(self, entries: Sequence[SampleEntry]) -> Batch:
        """Read samples of one bucket; raises ``InputFileError`` when one is damaged."""
        tensors = [read_tensors(self.cache, entry) for entry in entries]
        length = max(each["text"].shape[0] for each in tensors)
        frames = tensors[0]["latents"].shape[1]

        def together(name: str) -> Tensor:
            return torch.stack([each[name].float() for each in tensors])

        text = torch.stack(
            [functional.pad(each["text"].float(), (0, 0, 0, length - each["text"].shape[0])) for each in tensors]
        )
        valid = torch.stack([_valid(entry, frames) for entry in entries])
        names = ("latents", "condition", "image_tokens", "speech")
        return Batch(
            keys=tuple(entry.key for entry in entries),
            **{name: together(name) for name in names},
            text=text,
            null_text=self.null_text,
            face=together("face_mask"),
            lips=together("lip_mask"),
            valid=valid,
        )

    def stream(self, numbers: Iterator[int]) -> Iterator[Batch]:
        """Return batches in this order, read ahead by a few threads."""
        ahead = self.settings.workers
        if not ahead:
            for number in numbers:
                yield self.load(self.entries(number))
            return
        with ThreadPoolExecutor(ahead, thread_name_prefix="samples") as pool:
            waiting: list[Future[Batch]] = []
            try:
                for number in numbers:
                    waiting.append(pool.submit(self.load, self.entries(number)))
                    if len(waiting) > ahead:
                        yield waiting.pop(0).result()
                while waiting:
                    yield waiting.pop(0).result()
            finally:
                for each in waiting:
                    each.cancel()


def _clip_of(entry: SampleEntry) -> str:
    return entry.key.rpartition("-")[0]


def _valid(entry: SampleEntry, latent_frames: int) -> Tensor:
    """Return 1 for latent frames that hold pictures of the clip, 0 for those that only fill up."""
    count = (int(entry.meta["frames"]) + TEMPORAL - 2) // TEMPORAL + 1
    return (torch.arange(latent_frames) < count).float()
