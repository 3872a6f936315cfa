"""Tests with `data prepare`: clips, masks, captions and sound of recordings whose truth is known, and what isn't kept."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import filmed
import footage
import numpy as np
import pytest
from filmed import RATE_HZ, Recording, Truth, placed, shifted, speaking, voice
from PIL import Image
from separators import write_separator

from avatarctl.audio.decode import waveform_16k
from avatarctl.data.clips import film_of, stream
from avatarctl.data.discover import discover

Prepare = Callable[..., footage.Ended]
SECONDS, SIZE = 4.0, (300, 260)
LAG_S = 0.16


def small(name: str, sound: np.ndarray | None, seed: int = 1, **more: Any) -> Recording:
    """Return a recording of one drawn face, made fast."""
    show = placed((speaking(1, seed, seed, SECONDS, 180), 60, 40), background=seed, size=SIZE)
    return Recording(name, show, sound, SECONDS, Truth(()), size=SIZE, **more)


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of footage: two that are good, one of them late; a copy, a mute one, a cut off one, and other files."""
    folder = tmp_path_factory.mktemp("raw")
    heard = voice(1, SECONDS)
    lossless = ("-c:a", "flac")
    filmed.write(small("singing/one.mkv", heard, arguments=lossless), folder)
    (folder / "singing" / "one.txt").write_text("A drawn man\nspeaks.")
    filmed.write(small("late.mkv", shifted(heard, LAG_S), arguments=lossless), folder)
    filmed.write(small("mute.mp4", None), folder)
    shutil.copy(folder / "late.mkv", folder / "zz-copy.mkv")
    whole = (folder / "mute.mp4").read_bytes()
    (folder / "broken.mp4").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (64, 64)).save(folder / "still.png")
    return folder


@pytest.fixture(scope="session")
def clips(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clips of that folder, prepared once."""
    folder = tmp_path_factory.mktemp("prepared")
    ended = footage.Command(folder, *words(raw, folder / "clips"), AVATARCTL_HOME=str(folder)).end()
    assert ended.status == 0, ended.log
    assert "passed over 1 file, no videos: still.png" in ended.log and "damaged: broken" in ended.log
    return folder / "clips"


def words(raw: Path, output: Path, *more: object) -> list[object]:
    return ["data", "prepare", raw, "--output", output, "--device", "cpu", "--set", "speech=energy", *more]


@pytest.fixture
def prepare(command: Callable[..., footage.Command]) -> Prepare:
    """Run `data prepare RAW --output CLIPS --json` to its end."""

    def run(raw: Path, output: Path, *more: object, status: int = 0) -> footage.Ended:
        ended = command(*words(raw, output, "--json", *more)).end()
        assert ended.status == status, ended.log
        assert "Traceback" not in ended.log
        return ended

    return run


def rows_of(clips: Path) -> dict[str, dict[str, Any]]:
    """Return the candidates by the name of their footage, of which each has one."""
    lines = [json.loads(line) for line in (clips / "prepare.jsonl").read_text().splitlines()]
    found = {Path(row["source"]).name: row for row in lines}
    assert len(found) == len(lines)
    return found


def pixels(path: Path) -> np.ndarray:
    film = film_of(path)
    return np.stack(list(stream(film, (film.width, film.height), Fraction(25))))


# -- What is kept --------------------------------------------------------------------------------------------------------


def test_every_file_has_its_reason(clips: Path) -> None:
    rows = rows_of(clips)
    found = {name: row["reason"] for name, row in rows.items()}
    assert found == {
        "one.mkv": None,
        "late.mkv": None,
        "zz-copy.mkv": "duplicate",
        "mute.mp4": "silent",
        "broken.mp4": "damaged",
    }
    for name in ("zz-copy.mkv", "broken.mp4"):
        assert rows[name]["track"] is None and rows[name]["box"] is None and rows[name]["clip"] is None
    for name in ("zz-copy.mkv", "mute.mp4"):
        assert rows[name]["start_s"] == 0 and rows[name]["end_s"] == pytest.approx(SECONDS, abs=0.1)
    kept = rows["one.mkv"]
    assert (
        kept["kept"]
        and kept["track"] == 0
        and kept["start_s"] == 0
        and kept["end_s"] == pytest.approx(SECONDS, abs=0.1)
    )
    x0, y0, x1, y1 = kept["box"]
    assert 50 < x0 < x1 < 250 and 30 < y0 < y1 < 245 and kept["scores"]["face_px"] == pytest.approx(y1 - y0, abs=3)
    names = (
        "face_px",
        "presence",
        "identity",
        "lips_correlation",
        "lips_shifted_q95",
        "lag_s",
        "speech_share",
        "sharpness",
    )
    assert all(isinstance(kept["scores"][name], float) for name in names)
    assert kept["scores"]["lips_correlation"] > kept["scores"]["lips_shifted_q95"] + 0.1
    summary = json.loads((clips / "summary.json").read_text())
    assert summary["kept"] == 2 and summary["candidates"] == 5 and summary["reasons"]["duplicate"] == 1
    with Image.open(clips / "contact-sheet.jpg") as sheet:
        assert sheet.width >= 400


def test_pictures_masks_and_caption_of_a_clip(raw: Path, clips: Path) -> None:
    row = rows_of(clips)["one.mkv"]
    clip = Path(row["clip"])
    assert clip == clips / "singing" / "one-001.mp4"
    count = round((row["end_s"] - row["start_s"]) * 25)
    shown = pixels(clip)
    x0, y0, x1, y1 = row["crop"]
    source = pixels(raw / "singing" / "one.mkv")[:count, y0:y1, x0:x1]
    assert len(shown) == count and list(shown.shape[2:0:-1]) == row["size"] == [260, 260] == [x1 - x0, y1 - y0]
    assert np.abs(shown.astype(int) - source).mean() < 2
    assert clip.with_suffix(".txt").read_text() == "A drawn man speaks.\n"
    face, lip = (pixels(clip.parent / "masks" / f"one-001.{part}.mkv")[..., 0] for part in ("face", "lip"))
    assert face.shape == lip.shape == shown.shape[:3] and set(np.unique(face)) == set(np.unique(lip)) == {0, 255}
    assert (lip <= face).mean() > 0.999 and 20 * lip.mean() > face.mean() > 4 * lip.mean() > 0
    box = [row["box"][0] - x0, row["box"][1] - y0, row["box"][2] - x0, row["box"][3] - y0]
    inside = np.argwhere(face[0])
    assert np.abs(np.array([*inside.min(axis=0)[::-1], *inside.max(axis=0)[::-1]]) - box).max() < 12


def test_the_sound_of_a_clip_is_exact_to_the_sample_and_a_late_one_is_moved_to_its_lips(raw: Path, clips: Path) -> None:
    rows, heard = rows_of(clips), voice(1, SECONDS)
    whole, found = waveform_16k(raw / "singing" / "one.mkv"), waveform_16k(Path(rows["one.mkv"]["clip"]))
    assert len(found) == round((rows["one.mkv"]["end_s"] - rows["one.mkv"]["start_s"]) * RATE_HZ)
    assert np.array_equal(found, whole[: len(found)]), "bit for bit, from the first picture on"
    late = rows["late.mkv"]
    assert abs(late["scores"]["lag_s"] - LAG_S) < 0.04 and late["sound_moved_s"] == pytest.approx(
        late["scores"]["lag_s"]
    )
    moved = waveform_16k(Path(late["clip"]))
    span = np.arange(RATE_HZ, 3 * RATE_HZ)
    offsets = np.arange(-1600, 1600, 8)
    best = offsets[int(np.argmax([float(moved[span + offset] @ heard[span]) for offset in offsets]))]
    assert abs(best / RATE_HZ) < 0.04, "the sound isn't at its lips"


def test_the_voice_comes_out_of_the_music(tmp_path: Path, prepare: Prepare) -> None:
    (tmp_path / "weights").mkdir()
    write_separator(tmp_path / "weights" / "Kim_Vocal_2.onnx", keep_below=800)  # 4600 Hz
    heard = 0.5 * voice(1, SECONDS)
    music = 0.2 * np.sin(40_000 * np.arange(len(heard)) / RATE_HZ)  # 6366 Hz
    filmed.write(small("song.mkv", heard + music, arguments=("-c:a", "flac")), tmp_path / "raw")
    prepare(tmp_path / "raw", tmp_path / "clips", "--separate-vocals", "--weights", tmp_path / "weights")
    found = waveform_16k(tmp_path / "clips" / "song-001.mp4")

    def left(sound: np.ndarray) -> float:
        return float(np.hypot(*(sound @ wave(40_000 * np.arange(len(sound)) / RATE_HZ) for wave in (np.sin, np.cos))))

    assert left(found) < 0.05 * left((heard + music)[: len(found)])
    assert np.corrcoef(found, heard[: len(found)])[0, 1] > 0.95


def test_clips_are_what_encode_reads_with_masks(clips: Path, tmp_path: Path, encode: Callable[..., Any]) -> None:
    found = discover(clips)
    assert [clip.name for clip in found] == ["late-001.mp4", "singing/one-001.mp4"]
    assert found[1].kind == "singing" and all(clip.face and clip.lip and clip.caption for clip in found)
    data = encode(clips, tmp_path / "cache").data
    assert data["encoded"] == 2 and data["passed_over"] == [] and data["failed"] == []
    samples = footage.contents(tmp_path / "cache").values()
    assert samples and all(sample["has_masks"] and sample["fps"] == "25" for sample in samples)
    assert {sample["prompt"] for sample in samples} == {"A drawn man speaks.", "A person is speaking to the camera."}


@pytest.mark.long
def test_4k_is_looked_at_smaller_and_cut_from_its_own_pixels(tmp_path: Path, prepare: Prepare) -> None:
    filmed.write(filmed.in_4k(3), tmp_path / "raw")
    prepare(tmp_path / "raw", tmp_path / "clips")
    row = rows_of(tmp_path / "clips")["uhd.mp4"]
    x0, y0, x1, y1 = row["box"]
    assert (
        row["kept"]
        and 1200 < x0 < x1 < 2400
        and y1 - y0 == pytest.approx(row["scores"]["face_px"], abs=20)
        and y1 - y0 > 600
    )
    assert row["size"] == [832, 480] and row["crop"][2] - row["crop"][0] > 1200


# -- The same command again ----------------------------------------------------------------------------------------------


def contents(clips: Path) -> dict[str, bytes]:
    """Return every file that isn't a record or a lock."""
    files = [path for path in clips.rglob("*") if path.is_file() and ".prepare" not in path.parts]
    return {path.relative_to(clips).as_posix(): path.read_bytes() for path in files}


def reports_aside(found: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in found.items() if name != "prepare.jsonl"}  # it has whole paths


def test_again_nothing_is_done_and_other_settings_need_force(
    raw: Path, clips: Path, tmp_path: Path, prepare: Prepare
) -> None:
    again = tmp_path / "clips"
    shutil.copytree(clips, again)
    data = prepare(raw, again).data
    assert data["known"] == 5 and data["new"] == 0
    assert reports_aside(contents(again)) == reports_aside(contents(clips))
    ended = prepare(raw, again, "--set", "min_sync=0.99", status=7)
    assert "min_sync: was 0.3, is 0.99" in ended.log and "--force" in ended.log
    ended = prepare(raw, again, "--set", "min_sync=0.99", "--force", status=4)
    rows = rows_of(again)
    assert {rows["one.mkv"]["reason"], rows["late.mkv"]["reason"]} == {"not_speaking"}
    assert not list(again.rglob("*.mp4")) and not list(again.rglob("*.mkv")), "clips of the old settings stayed"
    assert "0 of 5 candidates" in ended.log and "prepare.jsonl" in ended.log
    assert json.loads(ended.out)["data"]["kept"] == 0


def test_a_dry_run_scores_and_writes_no_clips(raw: Path, clips: Path, tmp_path: Path, prepare: Prepare) -> None:
    output = tmp_path / "dry"
    shutil.copytree(clips / ".prepare" / "scans", output / ".prepare" / "scans")  # looked at before
    data = prepare(raw, output, "--dry-run").data
    assert data["kept"] == 2 and not list(output.rglob("*.mp4")) and not list(output.rglob("*.txt"))
    rows = rows_of(output)
    assert rows["one.mkv"]["kept"] and rows["one.mkv"]["clip"] is None
    straight = rows_of(clips)
    assert {name: row["scores"] for name, row in rows.items()} == {
        name: row["scores"] for name, row in straight.items()
    }
    assert prepare(raw, output).data["kept"] == 2, "a dry run is in the way"
    assert reports_aside(contents(output)) == reports_aside(contents(clips))


def files(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a pattern, also while others write there."""
    with suppress(FileNotFoundError):
        return list(folder.rglob(pattern))
    return []


# What two processes have done by the time they are killed: in turn, of one and the same folder.
STATES: dict[str, Callable[[Path], object]] = {
    "a file is decided": lambda clips: files(clips, "records/*.json"),
    "a file was looked at": lambda clips: files(clips, "scans/*.npz"),
    "a clip is being written": lambda clips: [path for path in files(clips, "*.part") if ".prepare" not in path.parts],
}


def test_two_processes_and_kills_make_the_same_clips(
    raw: Path, clips: Path, tmp_path: Path, command: Callable[..., footage.Command], prepare: Prepare
) -> None:
    output = tmp_path / "clips"
    for reached in STATES.values():  # where both end before a state is seen, there is nothing to kill
        both = [command(*words(raw, output)) for _ in range(2)]
        while not reached(output) and any(each.process.is_alive() for each in both):
            time.sleep(0.01)
        for each in both:
            each.process.kill()
            each.process.join()
        whole = [path for path in output.rglob("*.mp4") if not path.name.startswith(".")]
        assert all(film_of(path).sound for path in whole), "a clip that is half-written"
    both = [command(*words(raw, output)) for _ in range(2)]
    assert [each.end().status for each in both] == [0, 0]
    assert reports_aside(contents(output)) == reports_aside(contents(clips))
    assert not [path for path in output.rglob("*.part") if ".prepare" not in path.parts]


def test_a_copy_that_was_met_before_its_original_costs_nothing(
    raw: Path, clips: Path, tmp_path: Path, prepare: Prepare
) -> None:
    """Of two processes one finds the copy at once, while the other looks at the original, and both are killed."""
    output = tmp_path / "clips"
    shutil.copytree(clips, output)
    [record] = (output / ".prepare" / "records").glob("late-*.json")
    record.unlink()
    for path in (*output.glob("late-*"), *output.glob("masks/late-*"), *output.glob("*.j*")):
        path.unlink()
    data = prepare(raw, output).data
    assert data["kept"] == 2 and data["new"] == 1 and data["known"] == 4
    assert reports_aside(contents(output)) == reports_aside(contents(clips))


@pytest.mark.long
def test_a_copy_is_prepared_once_its_original_has_other_content(
    raw: Path, clips: Path, tmp_path: Path, prepare: Prepare
) -> None:
    source, output = tmp_path / "raw", tmp_path / "clips"
    source.mkdir()
    for name in ("a.mkv", "b.mkv"):
        shutil.copy(raw / "late.mkv", source / name)
    prepare(source, output)
    assert {name: row["reason"] for name, row in rows_of(output).items()} == {"a.mkv": None, "b.mkv": "duplicate"}
    shutil.copy(raw / "mute.mp4", source / "a.mkv")
    prepare(source, output)
    assert {name: row["reason"] for name, row in rows_of(output).items()} == {"a.mkv": "silent", "b.mkv": None}
    (source / "b.mkv").rename(source / "c.mkv")
    prepare(source, output)
    rows = rows_of(output)
    assert rows["c.mkv"]["detail"] == "the same content as b" and rows["b.mkv"]["kept"], (
        "the clips would be there twice"
    )


def test_a_file_that_changed_is_prepared_again(raw: Path, clips: Path, tmp_path: Path, prepare: Prepare) -> None:
    source, output = tmp_path / "raw", tmp_path / "clips"
    source.mkdir()
    shutil.copy(raw / "late.mkv", source / "talk.mkv")
    assert prepare(source, output).data["kept"] == 1
    filmed.write(small("talk.mkv", 0 * voice(1, SECONDS), arguments=("-c:a", "flac")), source)
    prepare(source, output, status=4)
    assert rows_of(output)["talk.mkv"]["reason"] == "silent" and not list(output.rglob("*.mp4"))


# -- Mistakes ------------------------------------------------------------------------------------------------------------


def test_what_is_no_footage(raw: Path, clips: Path, tmp_path: Path, prepare: Prepare) -> None:
    output = tmp_path / "clips"
    assert "got a picture, expected a video" in prepare(raw / "still.png", output, status=4).log
    assert "no such file or folder" in prepare(tmp_path / "nowhere", output, status=4).log
    (tmp_path / "stills").mkdir()
    shutil.copy(raw / "still.png", tmp_path / "stills")
    assert "got no video" in prepare(tmp_path / "stills", output, status=4).log
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "novel.txt").write_text("mine")
    ended = prepare(raw, theirs, status=2)
    assert "novel.txt" in ended.log and "nothing was touched" in ended.log and len(list(theirs.iterdir())) == 1
    assert "min_facepx" in prepare(raw, output, "--set", "min_facepx=3", status=2).log
    assert "twice min_piece_s" in prepare(raw, output, "--set", "max_piece_s=5", status=2).log


def test_one_file_that_cannot_be_used_is_told_in_words(raw: Path, tmp_path: Path, prepare: Prepare) -> None:
    output = tmp_path / "clips"
    ended = prepare(raw / "mute.mp4", output, status=4)
    assert "it has no sound" in ended.log
    one = footage.video(tmp_path / "one-picture.mp4", frames=1)
    assert prepare(one, tmp_path / "other", status=4).log
    assert prepare(raw / "mute.mp4", output, "--strict", status=4).log


def test_a_user_file_is_never_overwritten(raw: Path, tmp_path: Path, prepare: Prepare) -> None:
    output = tmp_path / "clips"
    prepare(raw / "mute.mp4", output, status=4)
    (output / "late-001.txt").write_text("mine")
    ended = prepare(raw / "late.mkv", output, status=2)
    assert "late-001.txt: exists already" in ended.log and (output / "late-001.txt").read_text() == "mine"


def test_a_caption_command_writes_captions(raw: Path, clips: Path, tmp_path: Path, prepare: Prepare) -> None:
    output = tmp_path / "clips"
    shutil.copytree(clips / ".prepare" / "scans", output / ".prepare" / "scans")
    script = tmp_path / "caption.sh"
    script.write_text('#!/bin/sh\ntest -s "$1" && echo "Seen:" && basename "$1"\n')
    script.chmod(0o755)
    prepare(raw / "late.mkv", output, "--caption-command", str(script))
    assert (output / "late-001.txt").read_text() == "Seen: late-001.mp4\n"
    ended = prepare(raw / "late.mkv", tmp_path / "other", "--caption-command", "false", status=2)
    assert "--caption-command: false: got exit code 1" in ended.log
