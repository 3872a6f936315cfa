"""Tests with manifests with mistakes: all are listed at once, with their lines, before anything starts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from desk import Bench

from avatarctl.batch.items import Base, items_of, name_of
from avatarctl.batch.places import check_folder
from avatarctl.batch.rows import Row
from avatarctl.batch.run import Batch, look
from avatarctl.commands.batch import batch_of
from avatarctl.errors import UsageError, WeightsError
from avatarctl.settings.render import AllSettings

# What a line of the manifest says, and what the list says of it: 20 kinds.
LINES: list[tuple[str, str]] = [
    ('{"audio": "voice.wav", "output": "ok.mp4"}', ""),
    ('{"audio": "voice.wav", "output": "1.mp4", "stepz": 4}', "stepz (M:2): unknown setting, did you mean steps?"),
    (
        '{"audio": "voice.wav", "output": "2.mp4", "steps": 0}',
        "steps (M:3): got '0', expected greater than or equal to 1",
    ),
    ('{"audio": "voice.wav", "output": "3.mp4", "seed": "x"}', "seed (M:4): got 'x', expected a valid integer"),
    ('{"audio": "voice.wav", "output": "4.mp4", "size": "65x64"}', "size (M:5): got 65x64, expected 64 to 4096"),
    (
        '{"audio": "voice.wav", "output": "5.mp4", "window": 2}',
        "overlap (F/tiny.yaml, line 5): got 2, expected less than the window of 2 latent frames (in M:6)",
    ),
    (
        '{"audio": "voice.wav", "output": "6.mp4", "fit": "cove"}',
        "fit (M:7): got 'cove', expected 'face', 'cover' or 'pad'",
    ),
    ('{"audio": "none.wav", "output": "7.mp4"}', "audio (M:8): F/none.wav: got no such file"),
    ('{"audio": "face.png", "output": "8.mp4"}', "audio (M:9): F/face.png: "),
    ('{"audio": "voice.wav", "output": "9.mp4", "image": "none.png"}', "image (M:10): F/none.png: got no such file"),
    ('{"audio": "voice.wav", "output": "10.mp4", "image": "voice.wav"}', "image (M:11): F/voice.wav: "),
    ('{"output": "11.mp4"}', "audio (M:12): missing"),
    ('{"audio": 12, "output": "12.mp4"}', "audio (M:13): got '12', expected a file"),
    ('{"audio": "voice.wav", "output": "ok.mp4"}', "output (M:14): ok.mp4 is the name of the video of M:1 too"),
    (
        '{"audio": "voice.wav", "output": "a.avi"}',
        "output (M:15): got 'a.avi', expected a name that ends in .mp4, .mov",
    ),
    ('{"audio": "voice.wav", "output": "../a.mp4"}', "output (M:16): got '../a.mp4', expected a name inside"),
    ('{"audio": "voice.wav", "lora": "no.safetensors:0.5"}', "lora (M:17): F/no.safetensors: got no such file"),
    ('{"audio": "voice.wav", "output": "17.mp4", "weights": "none"}', "weights (M:18): F/none: got no such folder"),
    ('{"audio": "voice.wav", "audio": "other.wav", "output": "18.mp4"}', "M:19: 'audio' stands there twice"),
    ('{"audio": "voice.wav" "output": "19.mp4"}', "M:20: broken JSON in column "),
    ('["voice.wav"]', "M:21: got list, expected settings by name"),
    ('{"audio": "voice.wav", "output": "21.mp4", "device": "cuda:1"}', "device (M:22): got cuda:1, expected cuda"),
]
CSV = """audio,output,steps,prompt,stepz
voice.wav,1.mp4,4,"two
lines",
voice.wav,2.mp4,four,,
voice.wav,3.mp4,4,,,,
voice.wav,4.mp4,4,,1
"""
YAML = """
- audio: voice.wav
  output: 1.mp4
  guidance:
    - {text: positive, audio: window, tokens: adapter, weight: 0.5}
- audio: voice.wav
  prompt: hello
  output: 2.mp4
  crf: 99
  seed: 1
  seed: 2
- voice.wav
"""


def listed(studio: Path, manifest: Path, output: Path, **flags: object) -> list[str]:
    """Return the list of mistakes of a manifest, with short names for it and its folder."""
    image = flags.pop("image", studio / "face.png")
    asked = batch_of(
        manifest,
        output,
        image,  # type: ignore[arg-type]
        "{stem}",
        str(studio / "tiny.yaml"),
        {"weights": studio / "weights", **flags},
        "auto",
        "local",
        False,
        {},
    )
    with pytest.raises(UsageError) as found:
        look(asked)
    assert not output.exists(), "something was started"
    text = found.value.message.replace(f"{manifest}, line ", "M:").replace(str(studio), "F")
    return text.split("\n")[1:] or [text]


def test_every_kind_of_mistake_is_in_one_list(studio: Path, tmp_path: Path) -> None:
    manifest = studio / "mistakes.jsonl"
    manifest.write_text("\n".join(line for line, _ in LINES))
    found = listed(studio, manifest, tmp_path / "videos")
    wanted = [text for _, text in LINES if text]
    assert len(found) == len(wanted) == len(LINES) - 1
    for text in wanted:
        assert [line for line in found if line.startswith(text)], (text, found)


def test_csv(studio: Path, tmp_path: Path) -> None:
    manifest = studio / "mistakes.csv"
    manifest.write_text(CSV)
    assert listed(studio, manifest, tmp_path / "videos") == [
        "steps (M:4): got 'four', expected a valid integer, unable to parse string as an integer",
        "M:5: got 7 cells, expected 5 as in the first line",
        "stepz (M:6): unknown setting, did you mean steps?",
    ]


def test_yaml(studio: Path, tmp_path: Path) -> None:
    manifest = studio / "mistakes.yaml"
    manifest.write_text(YAML)
    assert listed(studio, manifest, tmp_path / "videos") == [
        "guidance (M:4): got weights that add up to 0.5, expected 1",
        "M:6: 'seed' stands there twice",
        "crf (M:9): got '99', expected less than or equal to 51",
        "M:12: got str, expected settings by name, audio among them",
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "voice.wav", "got the ending '.txt', expected a folder of recordings or .csv"),
        ("a.yaml", "", "got no items"),
        ("a.csv", "audio\n", "got no items"),
        ("a.jsonl", "\n\n", "got no items"),
        ("a.yaml", "audio: voice.wav", "got dict, expected a list"),
        ("a.yaml", "- audio: [", "M:1: broken YAML"),
        ("a.csv", 'audio\n"voice.wav', "M:2: broken CSV"),
        ("a.csv", "audio,audio\nvoice.wav,voice.wav", "M:1: 'audio' stands there twice"),
        ("a.yaml", b"- audio: \xff\xfe", "can't be read"),
    ],
)
def test_a_manifest_that_cannot_be_read(
    studio: Path, tmp_path: Path, name: str, text: str | bytes, message: str
) -> None:
    manifest = tmp_path / name
    manifest.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert message in "\n".join(listed(studio, manifest, tmp_path / "videos"))


def test_no_picture_at_all(studio: Path, tmp_path: Path) -> None:
    manifest = studio / "bare.jsonl"
    manifest.write_text('{"audio": "voice.wav"}\n{"audio": "other.wav", "image": "face.png"}')
    [line] = listed(studio, manifest, tmp_path / "videos", image=None)
    assert line == "image (M:1): missing, and neither --image nor the preset names one"


def test_mistakes_of_flags_and_presets_come_once_not_per_item(studio: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as found:
        batch_of(studio, tmp_path, None, "{stem}", None, {"steps": 0, "size": "1x1"}, "0", "moon", False, {})
    assert len(found.value.message.split("\n")) == 4


@pytest.mark.parametrize("name", ["{stemm}", "{0}", "{stem", "{index:x2}", "{stem.real}", "{}"])
def test_a_template_that_names_nothing(bench: Bench, name: str) -> None:
    with pytest.raises(UsageError, match="--name"):
        batch_of(bench.folder, bench.output, None, name, None, {}, "auto", "local", False, {})


def test_a_video_that_no_batch_made_is_not_overwritten(studio: Path, tmp_path: Path) -> None:
    manifest = studio / "one.jsonl"
    manifest.write_text('{"audio": "voice.wav", "image": "face.png"}')
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "voice.mp4").write_bytes(b"dear")
    flags = {"weights": studio / "weights"}
    asked = batch_of(manifest, videos, None, "{stem}", str(studio / "tiny.yaml"), flags, "auto", "local", False, {})
    with pytest.raises(UsageError, match="exists already, and no batch made it"):
        look(asked)
    assert (videos / "voice.mp4").read_bytes() == b"dear"


def test_an_input_is_not_overwritten(studio: Path, tmp_path: Path) -> None:
    (tmp_path / "voice.mp4").write_bytes((studio / "voice.wav").read_bytes())
    manifest = tmp_path / "one.jsonl"
    manifest.write_text(json.dumps({"audio": "voice.mp4", "image": str(studio / "face.png")}))
    flags = {"weights": studio / "weights"}
    asked = batch_of(manifest, tmp_path, None, "{stem}", str(studio / "tiny.yaml"), flags, "auto", "local", False, {})
    with pytest.raises(UsageError, match="would overwrite an input"):
        look(asked)


def test_folders_pair_pictures_by_name(studio: Path, tmp_path: Path) -> None:
    voices, pictures = tmp_path / "voices", tmp_path / "pictures"
    for folder in (voices, pictures):
        folder.mkdir()
    for name in ("anna", "ben", "carl"):
        (voices / f"{name}.wav").write_bytes((studio / "voice.wav").read_bytes())
    for name in ("anna.png", "ben.png", "ben.PNG"):
        (pictures / name).write_bytes((studio / "face.png").read_bytes())
    (voices / "notes.txt").write_text("no recording")
    flags = {"weights": studio / "weights"}
    asked = batch_of(
        voices, tmp_path / "out", pictures, "{index}-{stem}", str(studio / "tiny.yaml"), flags, "2", "local", False, {}
    )
    with pytest.raises(UsageError) as found:
        look(asked)
    lines = found.value.message.split("\n")[1:]
    assert [line.split(": ")[1].split(" in ")[0] for line in lines] == [
        "got 2 of this name (ben.PNG, ben.png), expected one",
        "got none",
    ]
    (pictures / "ben.PNG").unlink()
    (pictures / "carl.jpg").write_bytes((studio / "face.png").read_bytes())
    plan, bad = look(asked)
    assert bad == []
    pairs = {(each.item.name, each.item.job.image.name) for each in plan.run}
    assert pairs == {("1-anna.mp4", "anna.png"), ("2-ben.mp4", "ben.png"), ("3-carl.mp4", "carl.jpg")}
    manifest = tmp_path / "some.yaml"
    manifest.write_text("- audio: voices/anna.wav\n- audio: voices/ben.wav\n  image: pictures/carl.jpg\n")
    by_manifest = dataclasses.replace(asked, source=manifest)
    assert [each.item.job.image.name for each in look(by_manifest)[0].run] == ["anna.png", "carl.jpg"]


def folder_of(studio: Path, source: Path, output: Path, **flags: object) -> Batch:
    """Return a batch over a folder or a manifest with one picture for all."""
    values = {"weights": studio / "weights", **flags}
    preset = str(studio / "tiny.yaml")
    return batch_of(source, output, studio / "face.png", "{stem}", preset, values, "1", "local", False, {})


def test_a_recording_that_is_cut_off_stops_nothing_in_a_folder_and_all_in_a_manifest(
    studio: Path, tmp_path: Path
) -> None:
    voices = tmp_path / "voices"
    voices.mkdir()
    whole = (studio / "voice.wav").read_bytes()
    (voices / "whole.wav").write_bytes(whole)
    (voices / "cut.wav").write_bytes(whole[:9000])  # its header is right: that it ends too early shows when it is read
    plan, bad = look(folder_of(studio, voices, tmp_path / "out"))
    assert [each.item.name for each in plan.run] == ["whole.mp4"]
    assert [(each.name, "cut off file" in each.message) for each in bad] == [("cut.mp4", True)]
    manifest = tmp_path / "some.jsonl"
    manifest.write_text('{"audio": "voices/whole.wav"}\n{"audio": "voices/cut.wav"}\n')
    with pytest.raises(UsageError, match=r"cut\.wav: got a damaged or cut off file .*some\.jsonl, line 2"):
        look(folder_of(studio, manifest, tmp_path / "out"))


def test_what_all_recordings_of_a_folder_lack_is_said_once(studio: Path, tmp_path: Path) -> None:
    voices = tmp_path / "voices"
    voices.mkdir()
    for name in ("a", "b", "c"):
        (voices / f"{name}.wav").write_bytes((studio / "voice.wav").read_bytes())
    with pytest.raises(WeightsError, match="nowhere: got no such folder") as found:
        look(folder_of(studio, voices, tmp_path / "out", weights=tmp_path / "nowhere"))
    assert "avatarctl fetch" in found.value.hint and "\n" not in found.value.message
    with pytest.raises(WeightsError, match=r"got no Kim_Vocal_2\.onnx") as found:
        look(folder_of(studio, voices, tmp_path / "out", separate_vocals=True))
    assert "avatarctl fetch vocal-separator" in found.value.hint
    manifest = tmp_path / "songs.jsonl"
    manifest.write_text('{"audio": "voices/a.wav"}\n{"audio": "voices/b.wav", "separate_vocals": true}\n')
    with pytest.raises(UsageError, match=r"separator .*songs\.jsonl, line 2.*got no Kim_Vocal_2\.onnx"):
        look(folder_of(studio, manifest, tmp_path / "out"))


@pytest.mark.parametrize(
    ("template", "codec", "given", "name"),
    [
        ("{stem}", "auto", None, "talk.mp4"),
        ("{stem}", "prores", None, "talk.mov"),
        ("{stem}", "vp9", None, "talk.webm"),
        ("{index:02d}/{stem}.mkv", "auto", None, "01/talk.mkv"),
        ("{stem}", "auto", "deep/other.WEBM", "deep/other.WEBM"),
    ],
)
def test_the_template_the_codec_or_the_manifest_say_which_kind_of_video(
    template: str, codec: str, given: str | None, name: str
) -> None:
    settings = AllSettings(codec=codec)
    assert name_of(1, given, Path("talk.wav"), Path("me.png"), settings, template) == name


def test_a_recording_s_own_name_says_nothing_of_the_video() -> None:
    assert name_of(1, None, Path("talk.webm.wav"), Path("me.png"), AllSettings(), "{stem}") == "talk.webm.mp4"
    assert name_of(1, None, Path("talk.mp4.wav"), Path("me.png"), AllSettings(), "{stem}") == "talk.mp4"


def test_a_codec_that_the_named_video_can_t_hold_is_a_mistake_of_its_line(studio: Path, tmp_path: Path) -> None:
    files = {"audio": str(studio / "voice.wav"), "image": str(studio / "face.png")}
    row = Row("line 1", {**files, "output": "a.mp4", "codec": "prores"}, {"codec": "line 1"})
    _, _, mistakes = items_of([row], Base({}, {}, tmp_path))
    assert (
        len(mistakes) == 1 and mistakes[0].startswith("codec (line 1): ") and "h264, hevc or av1 in .mp4" in mistakes[0]
    )


@pytest.mark.parametrize("link", ["symbolic", "hard"])
def test_a_link_to_an_input_is_no_place_for_a_video(studio: Path, tmp_path: Path, link: str) -> None:
    recording = tmp_path / "recording.wav"
    recording.write_bytes((studio / "voice.wav").read_bytes())
    video = tmp_path / "out" / "one.mp4"
    video.parent.mkdir()
    if link == "hard":
        video.hardlink_to(recording)
    else:
        video.symlink_to(recording)
    manifest = tmp_path / "one.jsonl"
    manifest.write_text(json.dumps({"audio": "recording.wav", "image": str(studio / "face.png"), "output": "one.mp4"}))
    flags = {"weights": studio / "weights"}
    rules = {"redo": True}
    preset = str(studio / "tiny.yaml")
    asked = batch_of(manifest, video.parent, None, "{stem}", preset, flags, "auto", "local", False, rules)
    with pytest.raises(UsageError, match="would overwrite an input"):
        look(asked)


def test_a_summary_of_the_user_is_no_batchs(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"chapters": []}')
    with pytest.raises(UsageError, match=r"summary\.json: exists already, and no batch wrote it"):
        check_folder(tmp_path)
    (tmp_path / "summary.json").write_text('{"counts": {}, "items": [], "workers": 1}')
    check_folder(tmp_path)
    with pytest.raises(UsageError, match="--output: got nothing or the current folder"):
        check_folder(Path())
