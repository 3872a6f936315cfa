"""Tests with checksums of weights: what was fetched is not read again for them, what changed is."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from avatarctl import weights
from avatarctl.fetching import local
from avatarctl.fetching.record import Record
from avatarctl.fetching.sets import SETS


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVATARCTL_HOME", str(tmp_path / "home"))


def large(path: Path, letter: bytes = b"a") -> str:
    """Write a file that is remembered; return its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = letter * weights.SMALL
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise AssertionError(f"{path} is read again")

    monkeypatch.setattr(weights, "_hash", refuse)


def test_what_was_linked_into_the_folder_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weight_set = SETS[0]
    name = "wav2vec2-base-960h/model.safetensors"
    sha256 = large(tmp_path / "elsewhere" / "model.safetensors")
    found = [local.Found(name, tmp_path / "elsewhere" / "model.safetensors")]
    records: dict[str, Record] = {}
    (tmp_path / "weights").mkdir()
    local.link_found(weight_set, found, tmp_path / "weights", records, force=False)
    unread(monkeypatch)
    assert weights.checksum(tmp_path / "weights" / name) == sha256 == records[weight_set.name].files[name].sha256


def test_another_size_or_time_is_another_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    weights.remember_checksum(path, large(path))
    other = large(path, b"b")
    os.utime(path, ns=(1, 1))
    assert weights.checksum(path) == other


def test_small_files_are_read_each_time(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b"{}")
    weights.remember_checksum(path, "0" * 64)
    assert weights.checksum(path) == hashlib.sha256(b"{}").hexdigest()
