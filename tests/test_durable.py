"""Test helper: what a library's own temporary file must not change, and what an error leaves (from the writer of whole files)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from avatarctl import durable


def rights(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_library_s_file_gets_the_rights_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with durable.beside(tmp_path / "folder" / "made") as part:
        own = tmp_path / "own"
        own.write_bytes(b"whole")
        own.chmod(0o600)
        os.replace(own, part)  # as safetensors does
        assert not (tmp_path / "folder" / "made").exists()
    assert (tmp_path / "folder" / "made").read_bytes() == b"whole"
    assert rights(tmp_path / "folder" / "made") == rights(tmp_path / "plain")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["made"]


def test_after_an_error_the_old_file_stands_alone(tmp_path: Path) -> None:
    (tmp_path / "made").write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), durable.beside(tmp_path / "made") as part:
        part.write_bytes(b"ne")
        raise ZeroDivisionError
    assert (tmp_path / "made").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
