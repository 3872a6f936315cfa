"""Tests of what a batch is made of: every kind of recording and picture, what is passed over, manifests in every form of text."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import unicodedata
from pathlib import Path

import imageio_ffmpeg
import pytest
from desk import Bench
from PIL import Image
from render.workshop import babble, write_wav

from avatarctl.batch.folders import kind_of
from avatarctl.batch.run import Batch, look
from avatarctl.commands.batch import batch_of
from avatarctl.errors import AvatarError, InputFileError, UsageError
from avatarctl.settings import names

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
# Ending -> how ffmpeg writes it.
SOUNDS = {
    "webm": ["-c:a", "libopus"],
    "mp4": [],
    "MOV": ["-f", "mov"],
    "mka": ["-c:a", "libopus"],
    "m4b": ["-f", "ipod"],
    "caf": ["-c:a", "pcm_s16le"],
    "mp2": [],
    "ac3": [],
    "au": [],
    "weba": ["-c:a", "libopus", "-f", "webm"],
    "wv": [],
    "aiff": [],
    "dat": ["-f", "wav"],  # an ending that tells nothing: it has sound
}


@pytest.fixture
def voices(tmp_path: Path) -> Path:
    """A folder with one voice."""
    (tmp_path / "voices").mkdir()
    write_wav(tmp_path / "voices" / "a.wav", babble(0.68, seed=1), 16000)
    return tmp_path / "voices"


def asked(studio: Path, source: Path, output: Path, image: Path | None = None, **more: object) -> Batch:
    """Return a batch with tiny weights."""
    flags = {"weights": studio / "weights", **more}
    return batch_of(source, output, image, "{stem}", str(studio / "tiny.yaml"), flags, "1", "local", False, {})


def test_a_folder_gives_what_generate_takes_and_names_the_rest(studio: Path, voices: Path, tmp_path: Path) -> None:
    for ending, how in SOUNDS.items():
        command = [
            imageio_ffmpeg.get_ffmpeg_exe(),
            "-v",
            "error",
            "-i",
            voices / "a.wav",
            *how,
            voices / f"r_{ending}.{ending}",
        ]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    (voices / "notes.txt").write_text("no recording")
    (voices / "data.bin").write_bytes(b"neither text nor sound" * 50)
    (voices / ".hidden.wav").touch()
    (voices / "more").mkdir()
    Image.new("RGB", (8, 8)).save(voices / "cover.jpg")
    plan, bad = look(asked(studio, voices, tmp_path / "out", studio / "face.png"))
    assert bad == [] and {each.item.name for each in plan.run} == {"a.mp4", *(f"r_{ending}.mp4" for ending in SOUNDS)}
    assert [path.name for path in plan.passed_over] == ["cover.jpg", "data.bin", "more", "notes.txt"]


@pytest.mark.parametrize("ending", ["jpg", "JPEG", "avif", "gif", "jfif", "tga", "webp", "bmp"])
def test_a_clip_and_a_picture_of_its_name_are_a_pair(ending: str, studio: Path, voices: Path, tmp_path: Path) -> None:
    (voices / "a.wav").rename(voices / f"caf{DECOMPOSED}.mp4")
    kind = {"jfif": "JPEG", "jpg": "JPEG"}.get(ending, ending.upper())
    Image.radial_gradient("L").convert("RGB").save(voices / f"caf{COMPOSED}.{ending}", format=kind)
    plan, bad = look(asked(studio, voices, tmp_path / "out"))
    assert bad == [] and plan.passed_over == ()
    assert [each.item.job.image.name for each in plan.run] == [f"caf{COMPOSED}.{ending}"]


def test_videos_that_batch_made_are_no_recordings_of_the_next_run(bench: Bench) -> None:
    source = bench.voices(0.68)
    here = dataclasses.replace(bench, running=bench.running)
    argv = ["--output", str(source), "--contact-sheet", "0.2"]
    assert here.run(source, *argv).status == 0
    second = here.run(source, *argv, "--json")
    assert second.status == 0, second.err
    assert [row["state"] for row in second.data()["items"]] == ["finished before"]
    assert second.data()["passed_over"] == []


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_tables_as_spreadsheets_write_them(
    encoding: str, delimiter: str, studio: Path, voices: Path, tmp_path: Path
) -> None:
    rows = [
        ("audio ", "output", " prompt", "Contact-Sheet".lower()),
        (" voices/a.wav ", " é.mp4", "Grüße; und, mehr ", " 0.5 "),
    ]
    quoted = [[f'"{cell}"' if delimiter in cell else cell for cell in row] for row in rows]
    text = "\r\n".join(delimiter.join(row) for row in quoted) + "\r\n\r\n"
    (tmp_path / "list.csv").write_bytes((f"sep={delimiter}\r\n" * (delimiter == ";") + text).encode(encoding))
    plan, _ = look(asked(studio, tmp_path / "list.csv", tmp_path / "out", studio / "face.png"))
    [item] = [each.item for each in plan.run]
    assert (item.name, item.job.render.prompt) == ("é.mp4", "Grüße; und, mehr")
    assert item.job.render.contact_sheet_every_s == 0.5


@pytest.mark.parametrize(("name", "encoding"), [("a.csv", "cp1252"), ("a.yaml", "cp1252"), ("a.jsonl", "utf-16-le")])
def test_an_encoding_that_is_not_known_is_refused_with_the_command_that_helps(
    name: str, encoding: str, studio: Path, voices: Path, tmp_path: Path
) -> None:
    texts = {
        "a.csv": "audio,output,prompt\nvoices/a.wav,b.mp4,Grüße\n",
        "a.yaml": "- {audio: voices/a.wav, output: b.mp4, prompt: Grüße}",
        "a.jsonl": '{"audio": "voices/a.wav", "output": "b.mp4", "prompt": "Grüße"}',
    }
    (tmp_path / name).write_bytes(texts[name].encode(encoding))
    with pytest.raises(UsageError, match="can't be read") as found:
        look(asked(studio, tmp_path / name, tmp_path / "out", studio / "face.png"))
    command = found.value.hint.partition(": ")[2].partition(" (")[0]
    subprocess.run(["sh", "-c", command], check=True)
    [made] = tmp_path.glob("a-utf8.*")
    plan, _ = look(asked(studio, made, tmp_path / "out", studio / "face.png"))
    assert plan.run[0].item.job.render.prompt == "Grüße"


def test_a_manifest_finds_files_however_accents_are_written(studio: Path, voices: Path, tmp_path: Path) -> None:
    (voices / "a.wav").rename(voices / f"caf{DECOMPOSED}.wav")
    Image.radial_gradient("L").convert("RGB").save(voices / f"m{COMPOSED}.png")
    row = {"audio": f"voices/caf{COMPOSED}.wav", "image": f"voices/m{DECOMPOSED}.png", "output": "a.mp4"}
    (tmp_path / "one.jsonl").write_text(json.dumps(row))
    [each] = look(asked(studio, tmp_path / "one.jsonl", tmp_path / "out"))[0].run
    assert (each.item.job.audio.name, each.item.job.image.name) == (f"caf{DECOMPOSED}.wav", f"m{COMPOSED}.png")


def test_a_file_name_in_another_encoding_can_be_named_by_json(studio: Path, voices: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.wav")
    (voices / "a.wav").rename(voices / name)
    (tmp_path / "one.jsonl").write_text(json.dumps({"audio": f"voices/{name}"}))
    [each] = look(asked(studio, tmp_path / "one.jsonl", tmp_path / "out", studio / "face.png"))[0].run
    assert each.item.job.audio.exists() and each.item.name == os.fsdecode(b"caf\xe9.mp4")


OLD = {"start_s": 0.1, "duration_s": 0.4, "loudness_dbfs": -20, "checkpoint_every_s": 5, "contact_sheet_every_s": 0.2}
NEW = {"start": 0.1, "duration": 0.4, "loudness": -20, "checkpoint_every": 5, "contact_sheet": 0.2}
DASHED = {key.replace("_", "-"): value for key, value in NEW.items()}


@pytest.mark.parametrize("keys", [NEW, DASHED, OLD], ids=["new", "dashed", "old"])
def test_keys_of_manifests_are_those_of_flags_and_the_old_ones_work_with_a_note(
    keys: dict[str, float], studio: Path, voices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names.note_old_name.cache_clear()
    row = json.dumps({"audio": "voices/a.wav", **keys})
    (tmp_path / "some.jsonl").write_text(f"{row}\n" + row.replace("{", '{"output": "b.mp4", ', 1))
    plan, _ = look(asked(studio, tmp_path / "some.jsonl", tmp_path / "out", studio / "face.png"))
    settings = plan.run[0].item.job.render
    assert {field: getattr(settings, field) for field in OLD} == OLD
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("deprecated")]
    wanted = [
        f"deprecated: use {new} instead of {old} ({tmp_path / 'some.jsonl'})" for old, new in zip(OLD, NEW, strict=True)
    ]
    assert told == (wanted if keys is OLD else [])  # once a file, not once a line


def test_a_setting_under_both_of_its_names_is_a_mistake(studio: Path, voices: Path, tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text('{"audio": "voices/a.wav", "duration": 1, "duration_s": 2}')
    with pytest.raises(UsageError, match="line 1: 'duration_s' stands there twice, as duration too"):
        look(asked(studio, tmp_path / "one.jsonl", tmp_path / "out", studio / "face.png"))
    (tmp_path / "one.jsonl").write_text('{"audio": "voices/a.wav", "durration": 1}')
    with pytest.raises(UsageError, match=r"durration .*: unknown setting, did you mean duration\?"):
        look(asked(studio, tmp_path / "one.jsonl", tmp_path / "out", studio / "face.png"))


def test_hints_fit_the_mistake(studio: Path, voices: Path, tmp_path: Path) -> None:
    def hint(source: Path, **more: object) -> str:
        with pytest.raises(AvatarError) as found:
            look(asked(studio, source, tmp_path / "out", **more))  # type: ignore[arg-type]
        return found.value.hint

    assert "--image PICTURE" in hint(voices) and "--name" not in hint(voices)
    (tmp_path / "one.jsonl").write_text('{"audio": "voices/a.wav"}')
    assert "--image PICTURE" in hint(tmp_path / "one.jsonl") and "--name" not in hint(tmp_path / "one.jsonl")
    (tmp_path / "two.jsonl").write_text('{"audio": "voices/a.wav"}\n' * 2)
    both = hint(tmp_path / "two.jsonl", image=studio / "face.png")
    assert "--name" in both and "--image" not in both
    with pytest.raises(UsageError) as found:
        batch_of(voices, tmp_path, None, "{stem}", "puppet", {"steps": 0}, "1", "local", False, {})
    assert "presets show puppet" in found.value.hint


def test_an_empty_folder_names_what_lies_there(studio: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputFileError, match=r"got no recordings in it \(passed over 1 file: notes.txt\)"):
        look(asked(studio, tmp_path, tmp_path / "out", studio / "face.png"))


def test_endings_decide_before_anything_is_opened(tmp_path: Path) -> None:
    for name, kind in (("a.WAV", "recording"), ("b.zip", "other"), ("c", "unknown"), ("d.part", "other")):
        (tmp_path / name).touch()
        assert kind_of(tmp_path / name) == kind
