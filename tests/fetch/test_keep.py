"""Tests with folders of weights: --from, --verify and --remove: links, damage found and mended, nothing of others touched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fakehub import Hub
from shelf import NEEDED, SEPARATOR, SIZES, SQUARE, WAN, Fetch, content, files_in, whole

from avatarctl.fetching import record

VAE = f"{WAN}/Wan2.1_VAE.pth"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder that holds everything that was released, in its layout."""
    for path, size in SIZES.items():
        target = tmp_path / "elsewhere" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content(path, size))
    return tmp_path / "elsewhere"


def test_from_links_what_is_needed_and_copies_nothing(fetch: Fetch, hub: Hub, folder: Path, elsewhere: Path) -> None:
    done = fetch("--from", str(elsewhere), "--json", HF_HUB_OFFLINE="1")
    assert done.code == 0, done.err
    assert done.data()["sets"]["stableavatar-1.3b"]["linked"] == dict.fromkeys(NEEDED, "hard link")
    assert files_in(folder) == sorted(NEEDED) and hub.asked == []
    assert all((folder / path).samefile(elsewhere / path) for path in NEEDED)
    assert record.weights_complete(folder) == []
    assert fetch("--verify", HF_HUB_OFFLINE="1").code == 0
    # And what was linked is what the hub has.
    assert fetch("--revision", "main").code == 0 and hub.downloads() == []
    assert fetch("--remove", "stableavatar-1.3b").code == 0
    assert files_in(folder) == [] and whole(elsewhere, hub, NEEDED)


def test_from_knows_files_in_other_layouts(fetch: Fetch, hub: Hub, folder: Path, elsewhere: Path) -> None:
    flat = elsewhere / "flat"
    flat.mkdir()
    for path in NEEDED[:5]:
        (elsewhere / path).rename(flat / Path(path).name)
    deep = elsewhere / "snapshots" / "abc"
    deep.mkdir(parents=True)
    for name in ("wav2vec2-base-960h", WAN):
        (elsewhere / name).rename(deep / name)
    (elsewhere / "outside").mkdir()
    model = deep / "wav2vec2-base-960h" / "model.safetensors"
    model.rename(elsewhere / "outside" / "blob")
    model.symlink_to(elsewhere / "outside" / "blob")  # as in the hub's cache
    (deep / WAN).rename(elsewhere / "outside" / "wan")
    (deep / WAN).symlink_to(elsewhere / "outside" / "wan")
    (deep / "back").symlink_to(elsewhere)
    assert fetch("--from", str(elsewhere)).code == 0
    assert files_in(folder) == sorted(NEEDED) and whole(folder, hub, NEEDED)
    assert not (folder / "wav2vec2-base-960h" / "model.safetensors").is_symlink()


def test_from_another_file_system_makes_symbolic_links(fetch: Fetch, hub: Hub, folder: Path) -> None:
    shared = Path("/dev/shm")
    folder.mkdir()
    if not shared.is_dir() or shared.stat().st_dev == folder.stat().st_dev:
        pytest.skip("no second file system")
    other = shared / f"avatarctl-{folder.parent.name}"
    other.mkdir()
    try:
        (other / SEPARATOR).write_bytes(hub.files[SEPARATOR])
        done = fetch("vocal-separator", "--from", str(other))
        assert done.code == 0 and f"{SEPARATOR}: symbolic link" in done.err
        assert (folder / SEPARATOR).is_symlink() and whole(folder, hub, [SEPARATOR])
    finally:
        shutil.rmtree(other)


def test_from_says_what_is_missing_and_fetch_gets_the_rest(
    fetch: Fetch, hub: Hub, folder: Path, elsewhere: Path
) -> None:
    (elsewhere / SQUARE).unlink()
    shutil.rmtree(elsewhere / WAN / "google")
    dry = fetch("--from", str(elsewhere), "--dry-run", "--json").data()["sets"]["stableavatar-1.3b"]
    assert dry["missing"] == ["transformer for square videos", "tokenizer"] and not folder.exists()
    done = fetch("--from", str(elsewhere), "--json")
    assert done.code == 5
    (error,) = done.json()["errors"]
    assert "recognised 6 files" in error["message"] and SQUARE in error["message"]
    assert "avatarctl fetch stableavatar-1.3b downloads the rest" in error["hint"]
    assert len(done.data()["linked"]) == 6 and len(files_in(folder)) == 6
    assert fetch().code == 0 and whole(folder, hub, NEEDED)
    assert sorted({path.rpartition("/")[2] for path, _ in hub.downloads()}) == sorted(
        Path(path).name for path in NEEDED if path == SQUARE or "google" in path
    )


def test_from_refuses_files_without_their_end(fetch: Fetch, folder: Path, elsewhere: Path) -> None:
    (elsewhere / SQUARE).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with (elsewhere / "wav2vec2-base-960h" / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    done = fetch("--from", str(elsewhere))
    assert done.code == 4 and "a pointer of git-lfs" in done.err and "got 1000 bytes, expected" in done.err
    assert files_in(folder) == []


def test_another_version_that_was_linked_is_found_out_by_the_hub(
    fetch: Fetch, hub: Hub, folder: Path, elsewhere: Path
) -> None:
    (elsewhere / SQUARE).write_bytes(b"\x80\x02another version")
    assert fetch("--from", str(elsewhere)).code == 0
    assert fetch("--revision", "main").code == 0 and whole(folder, hub, NEEDED)
    assert (elsewhere / SQUARE).read_bytes() == b"\x80\x02another version"


def test_verify_finds_damage_and_fetch_mends_it(fetch: Fetch, hub: Hub, folder: Path) -> None:
    assert fetch("stableavatar-1.3b", "vocal-separator").code == 0
    assert f"{len(NEEDED) + 1} files, all whole" in fetch("--verify").out
    data = bytearray(hub.files[SQUARE])
    data[1000] ^= 1
    (folder / SQUARE).write_bytes(data)
    (folder / VAE).unlink()
    with (folder / SEPARATOR).open("ab") as file:
        file.write(b"more")
    assert [line.rpartition(": ")[2] for line in record.weights_complete(folder)] == [
        "missing",
        f"got {SIZES[SEPARATOR] + 4} bytes, expected {SIZES[SEPARATOR]}",
    ]
    done = fetch("--verify", "--json")
    assert done.code == 5 and done.data()["files"] == len(NEEDED) + 1
    assert {path for found in done.data()["damaged"].values() for path in found} == {SQUARE, VAE, SEPARATOR}
    assert "got other bytes than were fetched" in done.err
    assert "avatarctl fetch stableavatar-1.3b vocal-separator downloads them again" in done.err
    assert len(record.weights_complete(folder)) == 3
    before = len(hub.downloads())
    assert fetch("stableavatar-1.3b", "vocal-separator").code == 0
    assert len(hub.downloads()) == before + 3 and whole(folder, hub, [*NEEDED, SEPARATOR])
    assert fetch("--verify").code == 0 and record.weights_complete(folder) == []


def test_damage_that_was_mended_by_hand_is_forgotten(fetch: Fetch, hub: Hub, folder: Path) -> None:
    assert fetch("vocal-separator").code == 0
    (folder / SEPARATOR).write_bytes(bytes(SIZES[SEPARATOR]))
    assert fetch("--verify").code == 5
    (folder / SEPARATOR).write_bytes(hub.files[SEPARATOR])
    assert fetch("--verify").code == 0 and record.weights_complete(folder) == []


def test_remove_removes_what_was_fetched_alone(fetch: Fetch, folder: Path) -> None:
    assert fetch("stableavatar-1.3b", "vocal-separator").code == 0
    (folder / WAN / "mine.txt").write_text("mine")
    told = fetch("--remove", "stableavatar-1.3b", "--dry-run", "--json").data()
    assert len(files_in(folder)) == len(NEEDED) + 2
    done = fetch("--remove", "stableavatar-1.3b", "--json")
    assert done.code == 0 and done.data() == told
    assert done.data()["removed"] == sorted(NEEDED) and done.data()["bytes"] == sum(SIZES[path] for path in NEEDED)
    assert files_in(folder) == sorted([SEPARATOR, f"{WAN}/mine.txt"])
    assert not (folder / "StableAvatar-1.3B").exists()
    done = fetch("--remove", "stableavatar-1.3b")
    assert done.code == 5 and "stableavatar-1.3b was not fetched" in done.err


def test_a_damaged_record_is_told(fetch: Fetch, folder: Path) -> None:
    assert fetch("vocal-separator").code == 0
    content = json.loads((folder / "fetched.json").read_text())
    content["sets"]["vocal-separator"]["revision"] = "other"
    (folder / "fetched.json").write_text(json.dumps(content))
    for words in (("vocal-separator",), ("--list",), ("--verify",)):
        done = fetch(*words)
        assert done.code == 5 and "damaged record" in done.err and "remove" in done.err
    (folder / "fetched.json").unlink()
    assert fetch("vocal-separator").code == 0


def test_from_may_name_a_folder_within_the_layout(fetch: Fetch, folder: Path, elsewhere: Path) -> None:
    done = fetch("--from", str(elsewhere / "wav2vec2-base-960h"), "--json")
    assert done.code == 5 and sorted(done.data()["linked"]) == sorted(NEEDED[-2:]) == files_in(folder)
