"""Tests with several renders in one process: weights are loaded once and text states come from the cache."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from desk import Bench

from avatarctl.batch.items import Item
from avatarctl.batch.run import look
from avatarctl.batch.work import make_video
from avatarctl.commands.batch import batch_of
from avatarctl.progress import showing
from avatarctl.render import texts
from avatarctl.render.networks import LoadedNetworks

LOADERS = [
    f"load_{name}" for name in ("transformer", "vae", "speech_encoder", "text_encoder", "tokenizer", "image_encoder")
]


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count the calls of functions that load networks."""
    calls: Counter[str] = Counter()

    def heard(frame: FrameType, event: str, _: Any) -> None:
        name = frame.f_code.co_name
        if (
            event == "call"
            and name.startswith("load_")
            and name != "load_network"
            and frame.f_code.co_filename.endswith("checkpoints.py")
        ):
            calls[name] += 1

    sys.setprofile(heard)
    try:
        yield calls
    finally:
        sys.setprofile(None)


def items(bench: Bench, **flags: Any) -> list[Item]:
    """Return the items of a batch over two voices."""
    given = {"weights": bench.studio / "weights", "prompt": "A person", "guidance": "none", **flags}
    source, preset = bench.voices(0.68, 0.68), str(bench.studio / "tiny.yaml")
    face = bench.studio / "face.png"
    asked = batch_of(source, bench.output, face, "{stem}-{seed}-{size}", preset, given, "1", "local", False, {})
    return [each.item for each in look(asked)[0].run]


def test_weights_are_loaded_once_and_texts_never_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVATARCTL_HOME", str(bench.folder / "home"))
    once = {"load_transformer": 1, "load_vae": 1, "load_speech_encoder": 1}
    with showing("none") as show:
        with counted() as calls:
            kept = LoadedNetworks()
            for item in items(bench, negative_prompt="A ."):
                assert make_video(item, False, kept, show).state == "done"
        assert calls == Counter({**once, "load_text_encoder": 1, "load_tokenizer": 1, "load_image_encoder": 2})
        with counted() as calls:  # another process, later, with other settings
            for item in items(bench, negative_prompt="A .", seed=1):
                assert make_video(item, False, kept, show).state == "done"
        assert calls == Counter({"load_image_encoder": 2})
        with counted() as calls:  # in other places they are loaded anew
            assert make_video(items(bench, negative_prompt="A .", seed=2, dtype="bfloat16")[0], False, kept, show).state
        assert calls["load_transformer"] == 1 and calls["load_text_encoder"] == 1


def test_states_in_the_cache_are_those_that_were_kept_or_none(tmp_path: Path) -> None:
    states = torch.randn(5, 7)
    place = tmp_path / "texts" / "a.states"
    assert texts.read(place) is None
    texts.keep(place, states, 5)
    assert texts.read(place) is None, "a prompt that may have been cut has to warn every time"
    texts.keep(place, states, 6)
    assert torch.equal(texts.read(place), states)
    content = bytearray(place.read_bytes())
    content[-1] ^= 1
    place.write_bytes(content)
    assert texts.read(place) is None
    place.write_bytes(content[:40])
    assert texts.read(place) is None
