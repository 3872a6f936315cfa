"""Tests with samples of several caches, sizes, lengths and folders, and pictures among them."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training.conftest import make_cache, random_sample
from training.test_loop import losses

from avatarctl import durable
from avatarctl.data.shards import ABOUT, Sample
from avatarctl.errors import UsageError
from avatarctl.settings.train import TrainJob, TrainSettings
from avatarctl.training import train
from avatarctl.training.draws import draw
from avatarctl.training.loss import error_weights
from avatarctl.training.samples import Samples

Maker = Callable[..., TrainJob]


def from_folder(folder: str, number: int, **more: Any) -> Sample:
    sample = random_sample(f"{folder}{number}-0", **more)
    return dataclasses.replace(sample, meta={**sample.meta, "source": f"{folder}/{number}.mp4"})


def picture(number: int) -> Sample:
    """A picture's sample: one latent frame, no speech."""
    sample = from_folder("pictures", number)
    kept = {name: t[:, :1] for name, t in sample.tensors.items() if name in ("latents", "condition")}
    kept |= {name: t[:1] for name, t in sample.tensors.items() if name.endswith("mask")}
    kept |= {name: t for name, t in sample.tensors.items() if name in ("text", "image_tokens")}
    return dataclasses.replace(sample, tensors=kept, meta={**sample.meta, "frames": 1, "masks": []})


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    samples = [from_folder("speech", i) for i in range(4)] + [from_folder("singing", i) for i in range(4)]
    return make_cache(tmp_path / "mixed", [*samples, *(picture(i) for i in range(3))])


def keys_of(cache: Path, epoch: int = 0, **settings: Any) -> Counter[str]:
    made = Samples(cache, TrainSettings(**settings), torch.zeros(4, 24))
    return Counter(entry.key for batch in made.epoch(epoch) for entry in batch)


def test_folders_are_repeated_and_thinned(mixed: Path) -> None:
    repeats = {"speech/*": 2, "pictures/*": 1 / 3, "singing/[01]*": 0}
    counts = keys_of(mixed, repeats=repeats)
    assert [counts[f"speech{i}-0"] for i in range(4)] == [2, 2, 2, 2]
    assert [counts[f"singing{i}-0"] for i in range(4)] == [0, 0, 1, 1]
    drawn = [tuple(sorted(key for key in keys_of(mixed, n, repeats=repeats) if "pictures" in key)) for n in range(8)]
    assert all(len(each) == 1 for each in drawn) and len(set(drawn)) > 1
    assert keys_of(mixed, 3, repeats=repeats) == keys_of(mixed, 3, repeats=repeats)


def test_a_pattern_without_a_clip_is_told_with_the_names_there_are(mixed: Path) -> None:
    with pytest.raises(UsageError, match=r"repeats: no clip's name matches 'sing/\*'; clips are pictures/0\.mp4"):
        keys_of(mixed, repeats={"sing/*": 2})
    with pytest.raises(UsageError, match="loss_weights: no clip"):
        keys_of(mixed, loss_weights={"nothing": 2})
    with pytest.raises(UsageError, match="repeats: got 0 for every clip"):
        keys_of(mixed, repeats={"*": 0})


def test_pictures_train_beside_clips(job: Maker, mixed: Path) -> None:
    made = job(steps=14, norms="full", holdout=0).model_copy(update={"data": mixed})
    done = train(made)
    assert done is not None and len(losses(made.output)) == 14
    resumed = job("resumed", steps=5).model_copy(update={"data": mixed})
    train(resumed)
    train(job("resumed", steps=14).model_copy(update={"data": mixed}))
    assert losses(resumed.output) == losses(made.output)


def test_pictures_alone_are_refused(job: Maker, tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "alone", [picture(i) for i in range(3)])
    with pytest.raises(UsageError, match="got pictures alone"):
        train(job().model_copy(update={"data": cache}))


def test_an_error_counts_as_much_as_its_folder_says(job: Maker, mixed: Path) -> None:
    plain, half = (
        Samples(mixed, TrainSettings(loss_weights=weights), torch.zeros(4, 24)) for weights in ({}, {"speech/*": 0.5})
    )
    entries = [entry for entry in plain.train if entry.key == "speech0-0"]
    assert plain.load(entries).weight.tolist() == [1.0]  # type: ignore[union-attr]
    assert half.load(entries).weight.tolist() == [0.5]  # type: ignore[union-attr]


def test_a_sample_without_masks_counts_once(mixed: Path) -> None:
    settings = TrainSettings(whole_probability=1.0, face_probability=0.0)
    made = Samples(mixed, settings, torch.zeros(4, 24))
    batch = made.load([entry for entry in made.train if entry.key == "pictures0-0"])
    draws = draw(settings, batch.latents.shape, [("a",)])
    assert torch.equal(error_weights(batch, draws, settings), torch.ones(1, 1, 1, 4, 6))


# -- Several caches ---------------------------------------------------------------------------------------------------


def test_caches_of_several_sizes_and_lengths_are_one_run(job: Maker, mixed: Path, tmp_path: Path) -> None:
    wide = make_cache(tmp_path / "wide", [from_folder("speech", i, rows=2, columns=8) for i in range(3)])
    made = job(steps=12, batch_size=2).model_copy(update={"data": mixed, "more_data": (wide,)})
    samples = Samples((mixed, wide), made.train, torch.zeros(4, 24))
    assert len({entry.bucket for entry in samples.train}) == 3
    assert all(len({entry.bucket for entry in batch}) == 1 for batch in samples.epoch(0))
    done = train(made)
    assert done is not None
    manifest = json.loads((made.output / "run.json").read_text())
    assert manifest["data"] == [str(mixed), str(wide)]


def test_a_clip_that_is_held_out_is_so_in_every_cache(mixed: Path, tmp_path: Path) -> None:
    clips = [random_sample(f"clip{i}-0") for i in range(30)]
    one, other = make_cache(tmp_path / "one", clips), make_cache(tmp_path / "other", clips)
    samples = Samples((one, other), TrainSettings(holdout=4), torch.zeros(4, 24))
    held = {entry.key.rpartition("/")[2] for entry in samples.held_out}
    assert not held & {entry.key.rpartition("/")[2] for entry in samples.train}


def test_caches_of_other_networks_are_refused(mixed: Path, tmp_path: Path) -> None:
    other = make_cache(tmp_path / "other", [from_folder("speech", 0)])
    durable.replace(other / ABOUT, durable.sealed({"version": 1, "weights": {"vae": {"sha256": "b", "path": "x"}}}))
    with pytest.raises(UsageError, match="was encoded with another vae than"):
        Samples((mixed, other), TrainSettings(), torch.zeros(4, 24))
    with pytest.raises(UsageError, match="twice, expected different caches"):
        Samples((mixed, mixed), TrainSettings(), torch.zeros(4, 24))
