"""Renders whose output would touch something of the user's: nothing is overwritten or removed but what --force may replace."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from workshop import Case, straight

from avatarctl import ownership
from avatarctl.errors import UsageError
from avatarctl.render import ours

NewCase = Callable[..., Case]
KINDS = ("itself", "symbolic link", "hard link", "link to a link")


def led_to(target: Path, kind: str, name: str) -> Path:
    """Return a path of another name that leads to ``target``."""
    other = target.with_name(name)
    if kind == "itself":
        return target
    if kind == "hard link":
        os.link(target, other)
    else:
        other.symlink_to(target)
    if kind == "link to a link":
        other, first = target.with_name(f"2-{name}"), other
        other.symlink_to(first)
    return other


def everything(folder: Path) -> dict[str, bytes | str]:
    """Return the content of every file below a folder, and of links where they lead to."""
    return {
        str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.name not in ("attempt.log", "holder.json")
        and not path.name.startswith(".")
        and (path.is_symlink() or path.is_file())
    }


@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", ["recording", "picture", "LoRA", "weights"])
def test_an_output_is_never_an_input(case: Case, which: str, kind: str, force: tuple[str, ...]) -> None:
    studio, more = case.studio, []
    own = case.folder / "input.mp4"
    source = {"recording": "voice.wav", "picture": "face.png", "weights": "weights/vae.safetensors"}
    shutil.copy(studio / source.get(which, "weights/vae.safetensors"), own)
    if which == "recording":
        more = ["-a", str(own)]
    elif which == "picture":
        more = ["-i", str(own)]
    elif which == "LoRA":
        more = ["--lora", str(own)]
    else:
        shutil.copytree(studio / "weights", case.folder / "weights")
        (case.folder / "weights" / "vae.safetensors").unlink()
        (case.folder / "weights" / "vae.safetensors").symlink_to(own)
        more = ["--weights", str(case.folder / "weights")]
    case.output = led_to(own, kind, "out.mp4")
    before = everything(case.folder)
    refused = case.generate(*more, *force, "-o", str(case.output))
    assert refused.status == 2, refused.log
    assert ("never replaced" in refused.log and "out.mp4" in refused.log) or kind == "itself"
    assert everything(case.folder) == before and not list(case.folder.glob("*.render"))


def test_the_suggested_name_works(case: Case) -> None:
    own = shutil.copy(case.studio / "voice.wav", case.folder / "talk.mp4")
    refused = case.generate("-a", str(own), "--force")
    assert refused.status == 2
    suggested = refused.log.split("--output ")[-1].split('"')[0].strip()  # the end of a hint, in a line of JSON
    assert suggested.endswith("talk-avatar.mp4")
    assert case.generate("-a", str(own), "-o", suggested).status == 0
    assert Path(suggested).stat().st_size > 1000


@pytest.mark.parametrize("kind", KINDS)
def test_a_contact_sheet_is_never_the_picture_and_replaces_nothing_unasked(case: Case, kind: str) -> None:
    own = shutil.copy(case.studio / "face.png", case.folder / ("talk.jpg" if kind == "itself" else "me.jpg"))
    led_to(Path(own), kind, "talk.jpg")
    if kind == "link to a link":
        (case.folder / "2-talk.jpg").replace(case.folder / "talk.jpg")
        (case.folder / "talk.jpg").unlink()
        (case.folder / "talk.jpg").symlink_to(own)
    before = everything(case.folder)
    for force in ((), ("--force",)):
        refused = case.generate("-i", str(own), "--contact-sheet", "0.2", *force)
        assert refused.status == 2 and "the picture" in refused.log and "--output" in refused.log, refused.log
        assert everything(case.folder) == before
    other = case.folder / "talk-2.jpg"
    other.write_bytes(b"mine")
    unasked = case.generate("--contact-sheet", "0.2", "-o", "talk-2.mp4")
    assert unasked.status == 2 and "talk-2.jpg: exists already" in unasked.log and "--force" in unasked.log
    assert other.read_bytes() == b"mine" and not (case.folder / "talk-2.mp4").exists()
    assert case.generate("--contact-sheet", "0.2", "-o", "talk-2.mp4", "--force").status == 0
    assert other.read_bytes()[:2] == b"\xff\xd8"


def test_an_output_that_is_a_link_is_written_through(case: Case) -> None:
    store = case.folder / "store"
    store.mkdir()
    (store / "old.mp4").write_bytes(b"old")
    case.output.symlink_to(store / "old.mp4")
    assert case.generate().status == 2
    assert case.generate("--force").status == 0
    assert case.output.is_symlink() and (store / "old.mp4").stat().st_size > 1000
    assert [path.name for path in store.iterdir()] == ["old.mp4"]
    case.output.unlink()
    case.output.symlink_to(case.folder / "not" / "there.mp4")  # a link to nothing is free; its folder is made
    assert case.generate().status == 0
    assert (case.folder / "not" / "there.mp4").stat().st_size > 1000 and case.output.is_symlink()


def test_folders_of_outputs_are_made(case: Case) -> None:
    attempt = case.generate("-o", "new/deep/talk.mp4", "--frames", "pictures/of/it")
    assert attempt.status == 0, attempt.log
    assert [path.name for path in (case.folder / "new" / "deep").iterdir()] == ["talk.mp4"]
    assert len(list((case.folder / "pictures" / "of" / "it").iterdir())) == 17


def test_pictures_of_the_user_are_not_overwritten_by_frames(case: Case) -> None:
    frames = case.folder / "frames"
    frames.mkdir()
    (frames / "holiday.png").write_bytes(b"holiday")
    mine = frames / "frame_0000003.png"
    mine.write_bytes(b"mine")
    refused = case.generate("--frames", "frames")
    assert refused.status == 2 and "frame_0000003.png: exists already" in refused.log, refused.log
    assert mine.read_bytes() == b"mine" and not case.render.exists()
    shutil.copy(case.studio / "face.png", mine)
    never = case.generate("--frames", "frames", "--force", "-i", str(mine))
    assert never.status == 2 and "the picture" in never.log
    forced = case.generate("--frames", "frames", "--force")
    assert forced.status == 0, forced.log
    assert (frames / "holiday.png").read_bytes() == b"holiday"
    assert len(list(frames.glob("frame_*.png"))) == 17


def test_frames_of_a_killed_render_are_its_own_and_one_put_beside_them_is_not(new_case: NewCase) -> None:
    case = new_case(audio="long.wav")
    frames = case.folder / "frames"
    case.stop("--frames", "frames", "--keep", steps=14)
    assert list(frames.iterdir())
    (frames / "frame_0000999.png").write_bytes(b"mine")
    refused = case.generate("--frames", "frames")
    assert refused.status == 2 and "frame_0000999.png" in refused.log, refused.log
    (frames / "frame_0000999.png").unlink()
    resumed = case.command("resume", str(case.render))
    assert resumed.status == 0, resumed.log
    assert sorted(path.name for path in frames.iterdir()) == [f"frame_{n:07d}.png" for n in range(45)]


def test_a_video_put_there_while_a_render_was_interrupted_stays(case: Case) -> None:
    case.stop()
    case.output.write_bytes(b"mine")
    for refused in (case.generate(), case.command("resume", str(case.render))):
        assert refused.status == 2 and "exists already" in refused.log
    assert case.output.read_bytes() == b"mine"
    case.output.unlink()
    assert case.command("resume", str(case.render)).status == 0


def test_what_force_was_given_for_is_replaced_by_a_resumed_render_and_nothing_else(case: Case) -> None:
    case.output.write_bytes(b"old")
    case.stop("--force")
    assert case.command("resume", str(case.render)).status == 0
    assert case.output.stat().st_size > 1000
    case.stop("--force")
    case.output.write_bytes(b"another one")
    assert case.command("resume", str(case.render)).status == 2
    assert case.output.read_bytes() == b"another one"


LOOKALIKES = ("segments/interview.mp4", "windows/notes.txt", "preview.mp4", "movie.mp4.part", "render.json", "lock")


@pytest.mark.parametrize("name", LOOKALIKES)
def test_a_folder_of_the_user_with_names_like_ours_is_left_alone(case: Case, name: str) -> None:
    precious = case.folder / "mine" / name
    precious.parent.mkdir(parents=True)
    precious.write_text('{"scene": "precious"}')
    for argv in (
        case.argv("--work-dir", "mine"),
        case.argv("--work-dir", "mine", "--force"),
        ["renders", "remove", "mine"],
        ["renders", "remove", "mine", "--force"],
    ):
        refused = case.command(*argv)
        assert refused.status in (2, 4), refused.log
        assert argv[0] == "renders" or name.split("/")[0] in refused.log
    assert everything(case.folder) == {f"mine/{name}": b'{"scene": "precious"}'}


@pytest.mark.parametrize("name", ["segments/interview.mp4", "movie.mp4.part", "windows/link", "notes/diary.txt"])
def test_files_put_into_a_render_stay_when_it_ends_and_keep_it_from_being_removed(case: Case, name: str) -> None:
    case.stop()
    precious = case.render / name
    precious.parent.mkdir(exist_ok=True)
    if name.endswith("link"):
        precious.symlink_to(case.studio / "face.png")
    else:
        precious.write_text("precious")
    before = everything(case.render)
    for argv in (["renders", "remove", str(case.render), "--force"], case.argv("--force")):
        refused = case.command(*argv)
        assert (refused.status == 2 and name.split("/")[-1] in refused.log) or "notes/" in refused.log, refused.log
        assert everything(case.render) == before
    resumed = case.command("resume", str(case.render))
    assert resumed.status == 0 and "stays" in resumed.log, resumed.log
    assert list(everything(case.render)) == [name]


@pytest.mark.parametrize("flag", ["-o", "--frames"])
def test_nothing_is_written_into_the_render_folder(case: Case, flag: str) -> None:
    place = "work/talk.mp4" if flag == "-o" else "work/pictures"
    refused = case.generate("--work-dir", "work", flag, place)
    assert refused.status == 2 and "lies in it" in refused.log, refused.log
    refused = case.generate("--work-dir", "talk.mp4")
    assert refused.status == 2
    assert not (case.folder / "work").exists()


def test_an_input_in_the_render_folder_is_refused(case: Case) -> None:
    case.stop()
    (case.render / "segments").mkdir(exist_ok=True)
    segment = shutil.copy(case.studio / "voice.wav", case.render / "segments" / "000077.mp4")
    before = everything(case.folder)
    refused = case.generate("-a", str(segment), "--force")
    assert refused.status == 2 and "lies in it" in refused.log, refused.log
    assert everything(case.folder) == before


def test_own_names_are_told_from_others() -> None:
    own = (
        "render.json",
        "segments/",
        "segments/000000.mp4",
        "windows/.000003.safetensors.77.part",
        ".video.mp4.5.part",
    )
    for name in (*own, "frontier/generation-00000001.json", "frontier/000001-0002.safetensors", "audio.f32"):
        assert ours.is_own(name), name
    for name in ("notes.txt", "segments/take1.mp4", "movie.mp4.part", ".movie.mp4.5.part", "videos/", "a/render.json"):
        assert not ours.is_own(name), name


def test_a_case_insensitive_disk_is_asked_and_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "talk.mp4").write_bytes(b"sound")
    upper = tmp_path / "TALK.mp4"
    inputs = [("the recording", tmp_path / "talk.mp4")]
    ownership.check_target(upper, "--output", inputs, force=False)  # another file here
    os.link(tmp_path / "talk.mp4", upper)  # what such a disk says: both names are one file
    with pytest.raises(UsageError, match="never replaced"):
        ownership.check_target(upper, "--output", inputs, force=True)


def test_a_finished_render_knows_its_own_video(case: Case) -> None:
    straight(case, "--keep", "--contact-sheet", "0.2")
    assert case.generate("--keep", "--contact-sheet", "0.2").status == 0
    (case.folder / "talk.jpg").write_bytes(b"drawn over")
    refused = case.generate("--keep", "--contact-sheet", "0.2")
    assert refused.status == 2 and "talk.jpg: exists already" in refused.log
    assert json.loads((case.render / "delivering.json").read_text())["files"].keys() == {
        str(case.output),
        str(case.folder / "talk.jpg"),
    }
