"""The command line of `evaluate`: table, JSON, report, gate, exit codes, on one short video and on what is none."""

from __future__ import annotations

import html.parser
import json
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from films import openings, photographed, voice, write_film

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one video of 4.5 s, and things that are none."""
    desk = tmp_path_factory.mktemp("desk")
    sound, fps = voice(4.5), Fraction(12)
    write_film(desk / "talk.mp4", photographed(openings(sound, 54, fps)), sound, fps)
    next_picture = next(photographed([0.0]))
    from PIL import Image

    Image.fromarray(next_picture).save(desk / "me.png")
    (desk / "text.mp4").write_text("no video\n" * 50)
    (desk / "empty.mp4").touch()
    (desk / "folder").mkdir()
    return desk


def avatarctl(desk: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "avatarctl", "evaluate", *argv]
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "AVATARCTL_HOME": str(desk / "home"),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(command, cwd=desk, env=environment, capture_output=True, text=True, check=False)


class Links(html.parser.HTMLParser):
    """Collects what a page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "data", "xlink:href")]


def test_table_json_report_and_gate_of_one_video(desk: Path) -> None:
    bounds = ["--gate", "lips.lag_s=0.08", "--gate", "face.share=0.9", "--gate", "identity.mean=0.6"]
    done = avatarctl(desk, "talk.mp4", "--reference", "me.png", "--report", "report", "--json", *bounds)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (row,) = found["data"]["videos"]
    assert found["status"] == "done" and row["path"] == "talk.mp4" and row["pictures"] == 54 and row["missed"] == []
    asked = {
        "face": {"share", "height_px", "persons"},
        "lips": {"correlation", "lag_s", "shifted_mean", "shifted_q95", "still_in_speech", "moving_in_silence"},
        "identity": {"mean", "worst", "first_minute", "last_minute", "slope_per_minute"},
        "picture": {
            *("sharpness", "sharpness_slope_per_minute", "colour_slope_per_minute"),
            *("flicker", "border_ratio"),
        },
        "sound": {"offset_s", "length_difference_s"},
    }
    for group, names in asked.items():
        assert names <= set(row[group]), group
    page = (desk / "report" / "report.html").read_text()
    links = Links()
    links.feed(page)
    assert links.found and all(link.startswith("data:image/jpeg;base64,") for link in links.found)
    assert not re.search(r"(?:src|href|url\(|import)\W{0,3}https?:", page) and "<script" not in page
    assert page.count("<svg") >= 4 and page.count("<img") == 12 and "talk.mp4" in page
    kept = json.loads((desk / "report" / "report.json").read_text())
    assert kept["videos"] == found["data"]["videos"]

    # Its own report is replaced, a file of somebody else's isn't.
    missed = avatarctl(desk, "talk.mp4", "talk.mp4", "--report", "report", "--gate", "lips.correlation=0.999")
    assert missed.returncode == 9
    assert missed.stderr.count("lips.correlation: 0.") == 2 and "expected at least 0.999" in missed.stderr
    lines = missed.stdout.split("\n")
    assert lines[0].startswith("VIDEO") and lines[1].startswith("talk.mp4") and lines[2].startswith("talk.mp4")
    assert max(map(len, lines)) <= 80
    assert len(json.loads((desk / "report" / "report.json").read_text())["videos"]) == 2
    (desk / "mine").mkdir()
    (desk / "mine" / "report.html").write_text("mine")
    refused = avatarctl(desk, "talk.mp4", "--report", "mine")
    assert refused.returncode == 2 and "exists already" in refused.stderr
    assert (desk / "mine" / "report.html").read_text() == "mine"


@pytest.mark.parametrize(
    ("argv", "code", "words", "hint"),
    [
        ("nowhere.mp4", 4, "nowhere.mp4: got no such file, expected a video", "check the path"),
        ("folder", 4, "folder: got a folder, expected a video", "avatarctl evaluate folder/*.mp4"),
        ("me.png", 4, "me.png: got a picture, expected a video", "--reference me.png"),
        ("text.mp4", 4, "isn't a readable video", ""),
        ("empty.mp4", 4, "got an empty file", ""),
        ("talk.mp4 --reference nowhere.png", 4, "nowhere.png: got no such file, expected a picture", "check the path"),
        ("talk.mp4 --reference folder", 4, "folder: got a folder, expected a picture", "--reference"),
        ("talk.mp4 --reference text.mp4", 4, "text.mp4", ""),
        ("talk.mp4 --audio nowhere.wav", 4, "nowhere.wav: got no such file, expected a recording", ""),
        ("talk.mp4 --audio me.png", 4, "me.png", ""),
        ("talk.mp4 -a a.wav -a b.wav", 2, "--audio: got 2 of them for 1 video", "name --audio once"),
        ("talk.mp4 --gate lips.lag=1", 2, "did you mean lips.lag_s", "--gate lips.lag_s=0.08"),
        ("talk.mp4 --gate lips.lag_s", 2, "expected lips.lag_s=NUMBER", ""),
        ("talk.mp4 --report me.png", 2, "me.png: got a file, expected a folder", "--report"),
        ("talk.mp4 --syncnet folder", 5, "folder/syncnet_v2.model: got no such file, expected SyncNet's", "download"),
        ("talk.mp4 --device cuda:9", 8, "cuda:9", ""),
        ("", 2, "", ""),
    ],
)
def test_what_is_wrong_is_said_before_any_work(desk: Path, argv: str, code: int, words: str, hint: str) -> None:
    before = sorted(path.name for path in desk.iterdir())
    done = avatarctl(desk, *argv.split())
    assert done.returncode == code, done.stderr
    assert words in done.stderr and hint in done.stderr and "Traceback" not in done.stderr
    assert sorted(path.name for path in desk.iterdir() if path.name != "home") == [
        name for name in before if name != "home"
    ]


def test_a_damaged_video_among_others_is_told_and_the_others_are_measured(desk: Path) -> None:
    whole = (desk / "talk.mp4").read_bytes()
    (desk / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    done = avatarctl(desk, "cut.mkv", "talk.mp4", "--json")
    assert done.returncode in (3, 4) and "cut.mkv" in done.stdout + done.stderr
