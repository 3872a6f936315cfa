"""Tests with samples: a cache gives them back, is a WebDataset, and loses nothing to kills, full disks or other writers."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from avatarctl.data.shard_writer import ShardWriter
from avatarctl.data.shards import Index, Sample, read_bytes, read_tensors
from avatarctl.errors import DeviceError, InputFileError

WRITER = """
import sys, torch
from pathlib import Path
from avatarctl.data.shard_writer import ShardWriter
from avatarctl.data.shards import Index, Sample
cache, who = Path(sys.argv[1]), sys.argv[2]
with ShardWriter(cache, shard_bytes=200_000) as writer:
    print("go", flush=True)
    for number in range(400):
        key = f"{who}{number}"
        if key in Index(cache).clips:
            continue
        tensors = {"latents": torch.full((64, 4), float(number)), "speech": torch.zeros(2, 2)}
        samples = [Sample(f"{key}-{i}", tensors, {}) for i in range(3)]
        writer.add(key, "made", samples)
"""


def sample(key: str, value: float = 0.0, **meta: Any) -> Sample:
    tensors = {"latents": torch.full((4, 2, 3, 3), value), "speech": torch.zeros(5, 2)}
    return Sample(key, tensors, meta, thumb_jpg=f"picture of {key}".encode())


def contents(cache: Path) -> dict[str, float]:
    return {entry.key: float(read_tensors(cache, entry)["latents"].mean()) for entry in Index(cache).samples()}


def test_samples_come_back_and_shards_are_plain_tars(tmp_path: Path) -> None:
    with ShardWriter(tmp_path) as writer:
        writer.add("b", "hash", [sample("b-0", 1.0, fps="25"), sample("b-1", 2.0)], facts={"source": "b.mp4"})
        writer.add("a", "hash", [sample("a-0", 3.0)])
    with ShardWriter(tmp_path) as writer:  # goes on where it was
        writer.add("c", "hash", [sample("c-0", 4.0)])
    assert contents(tmp_path) == {"a-0": 3.0, "b-0": 1.0, "b-1": 2.0, "c-0": 4.0}
    index = Index(tmp_path)
    assert index.clips["b"].facts == {"source": "b.mp4"}
    entry = index.clips["b"].samples[0]
    assert entry.meta == {"fps": "25"}
    assert entry.bucket == ((4, 2, 3, 3), (5, 2))
    assert read_bytes(tmp_path, entry.shard, *entry.thumb) == b"picture of b-0"
    [shard] = (tmp_path / "shards").iterdir()
    with tarfile.open(shard) as tar:
        names = tar.getnames()
        about = tar.extractfile("b-0.json")
        assert about is not None and json.load(about) == {"fps": "25"}
    assert [name for name in names if name.startswith("b-0")] == ["b-0.safetensors", "b-0.jpg", "b-0.json"]
    assert len(names) == 12


def test_webdataset_reads_the_shards(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with ShardWriter(tmp_path) as writer:
        writer.add("a", "hash", [sample("a-0"), sample("a-1")])
    [shard] = (tmp_path / "shards").iterdir()
    found = list(webdataset.WebDataset(str(shard), shardshuffle=False))
    assert [each["__key__"] for each in found] == ["a-0", "a-1"]
    assert all({"safetensors", "json", "jpg"} <= set(each) for each in found)


def test_a_changed_clip_replaces_itself(tmp_path: Path) -> None:
    with ShardWriter(tmp_path) as writer:
        writer.add("a", "old", [sample("a-0", 1.0), sample("a-1", 1.0)])
        writer.add("b", "old", [sample("b-0", 2.0)])
        generation = Index(tmp_path).clips["a"].generation + 1
        writer.add("a", "new", [sample("a-0", 5.0)], generation=generation)
    assert contents(tmp_path) == {"a-0": 5.0, "b-0": 2.0}
    assert Index(tmp_path).clips["a"].made_of == "new"


def test_shards_roll_over(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, shard_bytes=3000) as writer:
        for number in range(6):
            writer.add(f"c{number}", "hash", [sample(f"c{number}-0", float(number))])
    assert len(list((tmp_path / "shards").iterdir())) > 1
    assert contents(tmp_path) == {f"c{number}-0": float(number) for number in range(6)}
    for shard in (tmp_path / "shards").iterdir():
        with tarfile.open(shard) as tar:
            assert tar.getnames()


def test_what_a_kill_tore_is_cut_off(tmp_path: Path) -> None:
    with ShardWriter(tmp_path) as writer:
        writer.add("a", "hash", [sample("a-0", 1.0)])
    [shard], [index] = (tmp_path / "shards").iterdir(), (tmp_path / "index").glob("*.jsonl")
    with shard.open("ab") as file:
        file.write(b"half a sample")
    with index.open("ab") as file:
        file.write(b'{"key": "b", "made')
    assert contents(tmp_path) == {"a-0": 1.0}
    with ShardWriter(tmp_path) as writer:
        writer.add("b", "hash", [sample("b-0", 2.0)])
    assert contents(tmp_path) == {"a-0": 1.0, "b-0": 2.0}
    with tarfile.open(shard) as tar:
        assert len(tar.getnames()) == 6


def test_damage_is_seen(tmp_path: Path) -> None:
    with ShardWriter(tmp_path) as writer:
        writer.add("a", "hash", [sample("a-0", 1.0)])
    [entry] = Index(tmp_path).samples()
    shard = tmp_path / "shards" / entry.shard
    data = bytearray(shard.read_bytes())
    data[entry.offset + entry.size - 3] ^= 1
    shard.write_bytes(data)
    with pytest.raises(InputFileError, match="a-0 is damaged"):
        read_tensors(tmp_path, entry)
    shard.unlink()
    with pytest.raises(InputFileError, match="a-0 is damaged"):
        read_tensors(tmp_path, entry)


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with ShardWriter(tmp_path) as writer:
        writer.add("a", "hash", [sample("a-0", 1.0)])
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(DeviceError, match="the disk is full"):
                writer.add("b", "hash", [sample("b-0", 2.0)])
        assert contents(tmp_path) == {"a-0": 1.0}
        writer.add("c", "hash", [sample("c-0", 3.0)])
    assert contents(tmp_path) == {"a-0": 1.0, "c-0": 3.0}
    [shard] = (tmp_path / "shards").iterdir()
    with tarfile.open(shard) as tar:
        assert not [name for name in tar.getnames() if name.startswith("b")]


@pytest.mark.long
def test_two_writers_at_once_and_kills(tmp_path: Path) -> None:
    chance = random.Random(1)

    def start(who: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), who], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "go\n"
        return process

    for _ in range(3):
        both = [start("x"), start("y")]
        time.sleep(chance.uniform(0.1, 0.6))
        for process in both:
            process.send_signal(signal.SIGKILL)
            process.wait()
        listed = Index(tmp_path)
        for entry in listed.samples():  # what is listed is whole
            number = float(entry.key.partition("-")[0][1:])
            assert float(read_tensors(tmp_path, entry)["latents"].mean()) == number
    both = [start("x"), start("y")]
    assert [process.wait() for process in both] == [0, 0]
    found = contents(tmp_path)
    assert found == {f"{who}{n}-{i}": float(n) for who in "xy" for n in range(400) for i in range(3)}
    assert {path.name[:4] for path in (tmp_path / "shards").iterdir()} == {"0000", "0001"}
