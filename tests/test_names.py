"""Names of files: in any encoding, of any length, with accents written either way, told on terminals that know ASCII alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from served import ROOT

from avatarctl import durable, jsontext
from avatarctl.batch.items import Item
from avatarctl.batch.worker import from_line, to_line
from avatarctl.data.discover import discover
from avatarctl.errors import UsageError
from avatarctl.paths import LONGEST_NAME, as_spelled, derived, fitted
from avatarctl.settings.render import RenderJob

SAMPLES = ROOT / "avatarctl" / "puppet" / "samples"
LATIN = os.fsdecode(b"caf\xe9")  # é as Latin-1 has it: no UTF-8
FAST = ("--preset", "puppet", "--steps", "1", "--progress", "none")
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))


def run(folder: Path, *argv: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command line in a process of its own."""
    home = {"AVATARCTL_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "avatarctl", *argv],
        cwd=folder,
        env={**os.environ, **home, **environment},
        capture_output=True,
        timeout=120,
    )


def short_voice(path: Path) -> Path:
    """Write half a second of the sample."""
    data = (SAMPLES / "voice.wav").read_bytes()
    frames = data[44 : 44 + 16000]
    sizes = (36 + len(frames)).to_bytes(4, "little"), len(frames).to_bytes(4, "little")
    path.write_bytes(data[:4] + sizes[0] + data[8:40] + sizes[1] + frames)
    return path


@pytest.mark.parametrize("name", [LATIN, "ünïcødé 音声 😀", "plain"])
def test_json_holds_every_name(name: str, tmp_path: Path) -> None:
    assert json.loads(jsontext.dumps({"name": name}).encode()) == {"name": name}
    durable.replace(tmp_path / "sealed.json", durable.sealed({"name": name}))
    assert durable.unsealed(tmp_path / "sealed.json") == {"name": name}
    job = RenderJob(image=Path(name), audio=Path(name), output=Path(f"{name}.mp4"), lora=((Path(name), 0.5),))
    assert RenderJob.model_validate_json(job.model_dump_json()) == job
    item = Item(1, f"{name}.mp4", job, name)
    assert from_line(to_line(item, True)) == (item, True)
    if name != LATIN:
        assert name in jsontext.dumps([name])  # readable


@pytest.mark.parametrize("letter", ["x", "é", "音", LATIN[-1]])
def test_derived_names_fit_and_differ(letter: str) -> None:
    longest = letter * (251 // len(os.fsencode(letter)))
    outputs = [Path("videos") / f"{start}{longest[1:]}.mp4" for start in "ab"]
    made = [derived(output, ".", after) for output in outputs for after in (".render", ".json", ".123456.part")]
    assert len(set(made)) == 6
    assert all(len(os.fsencode(path.name)) <= LONGEST_NAME for path in made)
    assert all(path.parent == Path("videos") for path in made)
    assert all(path.name.endswith((".render", ".json", ".part")) for path in made)
    assert fitted("talk.mp4", after=".render") == "talk.mp4.render"


def test_accents_are_found_in_either_spelling(tmp_path: Path) -> None:
    (tmp_path / f"caf{DECOMPOSED}").mkdir()
    there = tmp_path / f"caf{DECOMPOSED}" / f"caf{COMPOSED}.wav"
    there.touch()
    asked = tmp_path / f"caf{COMPOSED}" / f"caf{DECOMPOSED}.wav"
    assert as_spelled(asked) == there
    second = there.with_name(f"caf{DECOMPOSED}.wav")
    second.touch()
    assert as_spelled(second) == second and as_spelled(there) == there  # both are there: each is itself
    missing = tmp_path / f"th{COMPOSED}.wav"
    assert as_spelled(missing) == missing


def test_videos_whose_names_differ_in_spelling_alone_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "voices"
    source.mkdir()
    for letter in (COMPOSED, DECOMPOSED):
        short_voice(source / f"caf{letter}.wav")
    out = run(tmp_path, "batch", "voices", "-o", "videos", *FAST)
    said = out.stderr.decode()
    assert out.returncode == 2 and "accents are written" in said and "--name" in said
    out = run(tmp_path, "batch", "voices", "-o", "videos", *FAST, "--name", "{index}-{stem}", "--dry-run")
    assert out.returncode == 0


def test_one_video_of_a_picture_a_voice_and_an_output_in_another_encoding(tmp_path: Path) -> None:
    image = shutil.copy(SAMPLES / "picture.png", tmp_path / f"{LATIN}.png")
    short_voice(tmp_path / f"{LATIN}.wav")
    out = run(tmp_path, "generate", "-i", image, "-a", f"{LATIN}.wav", "-o", f"{LATIN}.mp4", "--keep", "--quiet", *FAST)
    assert out.returncode == 0, out.stderr
    assert out.stdout == b"caf\xe9.mp4\n"  # a script gets the very bytes
    assert (tmp_path / f"{LATIN}.mp4").stat().st_size > 1000
    shown = run(tmp_path, "renders", "verify", f"{LATIN}.mp4.render", "--json")
    assert shown.returncode == 0 and json.loads(shown.stdout)
    again = run(tmp_path, "resume", f"{LATIN}.mp4", "--json")
    assert again.returncode == 0 and json.loads(again.stdout)["data"]["output"].endswith(f"{LATIN}.mp4")


@pytest.mark.long
def test_a_batch_of_names_in_other_encodings_and_of_every_length(tmp_path: Path) -> None:
    source = tmp_path / "voices"
    source.mkdir()
    names = [LATIN, "x" * 251, "音" * 83 + "ab"]
    for name in names:
        short_voice(source / f"{name}.wav")
    flags = ("batch", "voices", "-o", "videos", *FAST, "--json")
    first, second = run(tmp_path, *flags), run(tmp_path, *flags)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    assert {path.stem for path in (tmp_path / "videos").glob("*.mp4")} == set(names)
    assert {row["state"] for row in json.loads(second.stdout)["data"]["items"]} == {"finished before"}


def test_clips_in_another_encoding_have_keys_and_stamps(tmp_path: Path) -> None:
    (tmp_path / f"{LATIN}.mp4").write_bytes(b"film")
    (tmp_path / f"{LATIN}.txt").write_text("a caption")
    [clip] = discover(tmp_path)
    assert clip.key.isascii() and clip.stamp() and clip.content() and clip.caption is not None


@pytest.mark.parametrize("flags", [("-a", "x" * 300 + ".wav"), ("-o", "x" * 300 + ".mp4"), ("-i", "x" * 300 + ".png")])
def test_a_name_that_no_folder_holds_is_an_error_with_its_length(flags: tuple[str, str], tmp_path: Path) -> None:
    short_voice(tmp_path / "v.wav")
    rest = {"-a": "v.wav", "-o": "o.mp4", "-i": str(SAMPLES / "picture.png")} | {flags[0]: flags[1]}
    out = run(tmp_path, "generate", *FAST, *(word for pair in rest.items() for word in pair))
    assert out.returncode == 4 and b"304 bytes" in out.stderr and b"bug" not in out.stderr


ASCII = {"PYTHONIOENCODING": "ascii"}
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    "argv",
    [
        ("--help",),
        ("generate", "--help"),
        ("presets", "list"),
        ("presets", "show", "square"),
        ("generate", "-a", f"caf{COMPOSED} 音.wav", "-i", "nobody…×.png", "--preset", "puppet"),
        ("generate", "-a", f"{LATIN}.wav", "--json"),
        ("batch", "nowhere→", "-o", "out"),
    ],
    ids=lambda argv: " ".join(argv[:2]).encode("ascii", "replace").decode(),
)
def test_a_terminal_that_knows_ascii_alone(argv: tuple[str, ...], tmp_path: Path) -> None:
    out = run(tmp_path, *argv, **ASCII)
    assert (
        b"Traceback" not in out.stderr and b"bug of ours" not in out.stderr and b"UnicodeEncodeError" not in out.stderr
    )
    assert all(byte < 128 or byte == 0xE9 for byte in out.stdout + out.stderr)  # é of LATIN is a byte, not a character


def test_a_locale_without_letters_shows_names_as_they_are(tmp_path: Path) -> None:
    out = run(tmp_path, "generate", "-a", f"caf{COMPOSED}.wav", "--preset", "puppet", **C_LOCALE)
    assert out.returncode == 4 and f"caf{COMPOSED}.wav: got no such file".encode() in out.stderr


def test_json_in_ascii_is_json(tmp_path: Path) -> None:
    out = run(tmp_path, "generate", "-a", f"caf{COMPOSED} 😀.wav", "--preset", "puppet", "--json", **ASCII)
    assert f"caf{COMPOSED} 😀.wav" in json.loads(out.stdout.decode("ascii"))["errors"][0]["message"]


def test_settings_in_python_have_the_names_of_files_and_of_fields(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from avatarctl.settings.jobs import render_job

    files = (tmp_path / "me.png", tmp_path / "talk.wav", tmp_path / "talk.mp4")
    made = render_job(*files, settings={"duration": 3, "start_s": 1.0})
    assert (made.render.duration_s, made.render.start_s) == (3, 1) and capsys.readouterr().err == ""
    with pytest.raises(UsageError, match="'duration_s' stands there twice, as duration too"):
        render_job(*files, settings={"duration": 3, "duration_s": 3})
