"""Tests with an interrupted render with a flipped, cut or missing file: it is found, told, and made again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from workshop import Case, Server, kill_when, straight

from avatarctl.render.folder import RenderFolder

Harm = Callable[[Path], None]


def flip(path: Path) -> None:
    """Turn over one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    """Leave the first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


HARMS = {"flip": flip, "cut": cut, "lose": Path.unlink}
CASES = ["flip", pytest.param("cut", marks=pytest.mark.long), "lose"]
KINDS = {
    "waveform": "audio.f32",
    "track": "track.f32",
    "facts of the track": "track.json",
    "conditions": "conditions.safetensors",
    "first window": "windows/000000.safetensors",
    "last window": "windows/*[0-9].safetensors",
    "generation": "frontier/generation-*.safetensors",
    "first segment": "segments/000000.mp4",
    "last segment": "segments/*.mp4",
    "preview": "preview.mp4",
    "index": "index.jsonl",
}


class Workpiece:
    """A render that was killed halfway, put back as it was as often as wanted; and its video, uninterrupted."""

    def __init__(self, studio: Path, server: Server, folder: Path) -> None:
        self.expected = straight(Case(studio, server, folder / "straight", "long.wav"))
        self.case = Case(studio, server, folder / "case", "long.wav")
        attempt = self.case.generate(meanwhile=kill_when(self.case, "preview.mp4", 12))
        assert attempt.status == -9, attempt.log
        self._kept = folder / "kept"
        shutil.copytree(self.case.render, self._kept)

    def restore(self) -> Case:
        """Put the render back to where it was killed."""
        shutil.rmtree(self.case.render, ignore_errors=True)
        self.case.output.unlink(missing_ok=True)
        shutil.copytree(self._kept, self.case.render)
        return self.case


@pytest.fixture(scope="module")
def workpiece(studio: Path, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Workpiece:
    return Workpiece(studio, server, tmp_path_factory.mktemp("workpiece"))


def named(case: Case, pattern: str) -> str:
    """Return the last file of a kind, relative to the render folder."""
    return sorted(case.render.glob(pattern))[-1].relative_to(case.render).as_posix()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("harm", CASES)
def test_a_harmed_file_is_found_and_made_again(workpiece: Workpiece, kind: str, harm: str) -> None:
    case = workpiece.restore()
    name = named(case, KINDS[kind])
    HARMS[harm](case.render / name)
    verified = case.command("renders", "verify", str(case.render))
    assert verified.status == 4
    assert name in verified.log and "avatarctl resume" in verified.log
    attempt = case.generate("--keep")
    assert attempt.status == 0, attempt.log
    assert case.bytes() == workpiece.expected
    told = [(e["file"], e["why"]) for e in case.events() if e["event"] == "recompute"]
    # The preview is joined anew with the next segment, whatever became of it.
    assert kind == "preview" or (name, "missing" if harm == "lose" else "damaged") in told
    assert RenderFolder(case.render).verify()[1] == []


@pytest.mark.parametrize("harm", CASES)
@pytest.mark.parametrize("kind", ["holder.json", "events.jsonl", "lock"])
def test_files_that_carry_no_result_may_be_harmed(workpiece: Workpiece, kind: str, harm: str) -> None:
    case = workpiece.restore()
    path = case.render / kind
    path.write_bytes(path.read_bytes() or b"\xff")
    HARMS[harm](path)
    listed = case.command("renders", "list")
    assert listed.status == 0 and "interrupted" in listed.log, listed.log
    assert case.generate().status == 0
    assert case.bytes() == workpiece.expected


def test_without_the_windows_in_flight_sampling_begins_as_few_windows_earlier_as_it_can(
    new_case: Callable[..., Case],
) -> None:
    once = ("--steps", "1")
    expected = straight(new_case("straight", audio="long.wav"), *once)
    case = new_case(audio="long.wav")
    case.stop(*once, steps=8)
    for path in case.render.glob("frontier/generation-*.safetensors"):
        flip(path)
    attempt = case.generate(*once, "--keep")
    assert attempt.status == 0, attempt.log
    assert case.bytes() == expected
    (again,) = [event for event in case.events() if event["event"] == "again"]
    # Three windows share frames: two to the left can reach the first lost one in one step, and one for the edge.
    assert 0 < again["window"] == again["lost"][0] - 3
    assert attempt.steps()[0] == again["window"] + 1


def test_events_that_are_no_text_are_left_out(workpiece: Workpiece) -> None:
    case = workpiece.restore()
    with (case.render / "events.jsonl").open("ab") as file:
        file.write(b"\x00\xff\xfe\n17\n")
    shown = case.command("renders", "show", str(case.render))
    assert shown.status == 0 and "checkpoint" in shown.log, shown.log


@pytest.mark.parametrize("harm", ["flip", "cut"])
def test_a_harmed_manifest_is_refused_and_force_begins_anew(workpiece: Workpiece, harm: str) -> None:
    case = workpiece.restore()
    HARMS[harm](case.render / "render.json")
    for refused in (case.generate(), case.command("resume", str(case.render))):
        assert refused.status == 4
        assert "render.json is damaged" in refused.log and "--force" in refused.log
    forced = case.generate("--force")
    assert forced.status == 0, forced.log
    assert case.bytes() == workpiece.expected


def test_without_a_manifest_nothing_of_what_lies_there_is_used(workpiece: Workpiece) -> None:
    case = workpiece.restore()
    (case.render / "render.json").unlink()
    attempt = case.generate("--keep")
    assert attempt.status == 0, attempt.log
    assert case.events()[0]["event"] == "started"
    assert case.bytes() == workpiece.expected


def test_everything_harmed_at_once(workpiece: Workpiece) -> None:
    case = workpiece.restore()
    for place, path in enumerate(sorted(path for path in case.render.rglob("*.*") if path.suffix in SUFFIXES)):
        list(HARMS.values())[place % 3](path)
    attempt = case.generate()
    assert attempt.status == 0, attempt.log
    assert case.bytes() == workpiece.expected


SUFFIXES = (".f32", ".safetensors", ".mp4")


@pytest.mark.parametrize("place", [0, -1])
def test_pictures_decoded_after_a_resume_are_those_of_one_go(workpiece: Workpiece, place: int) -> None:
    case = workpiece.restore()
    name = sorted(case.render.glob("segments/*.mp4"))[place]
    before = name.read_bytes()
    name.unlink()
    assert case.generate("--keep").status == 0
    assert name.read_bytes() == before
