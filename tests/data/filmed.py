"""Test helper: footage with known truth: who speaks when and where, cuts, moved sound, music, bad pictures (from a folder)."""

from __future__ import annotations

import subprocess
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from drawn import Identity, Pose, draw
from filmed_sound import RATE_HZ, music, open_at, shifted, voice
from PIL import Image, ImageDraw, ImageFilter
from scenes import DATA, photograph

from avatarctl.faces.detect import detect
from avatarctl.faces.landmarks import Landmarks, landmarks_of
from avatarctl.puppet.world import identity as identity2
from avatarctl.puppet.world.portrait import Portrait

Picture = np.ndarray
Show = Callable[[float], Picture]  # seconds -> what is to be seen, (height, width, 3)


@dataclass(frozen=True)
class Truth:
    """What a recording is. ``parts``: (from, to, reason or "kept") in seconds; ``lag_s``: lips after the sound."""

    parts: tuple[tuple[float, float, str], ...]
    cuts_s: tuple[float, ...] = ()
    lag_s: float = 0.0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recording:
    """A recording to be made: pictures by time, sound, and what is true of it."""

    name: str
    show: Show
    sound: np.ndarray | None
    seconds: float
    truth: Truth
    fps: str = "25"
    arguments: tuple[str, ...] = ()
    size: tuple[int, int] = (640, 360)
    after: Callable[[Path], None] | None = field(default=None)


# -- Faces ---------------------------------------------------------------------------------------------------------------

LEVELS = 24  # of the mouth's opening that are drawn


@cache
def face(world: int, person: int, level: int, side: int) -> Picture:
    """Return a drawn face, its mouth open by a level."""
    opening = level / (LEVELS - 1)
    if world == 1:
        return draw(Identity.of(person), Pose(opening=opening), side)
    return _portrait(person, side).picture(identity2.Pose(opening=opening))


@cache
def _portrait(person: int, side: int) -> Portrait:
    return Portrait.of(identity2.Identity.of(person), side)


def speaking(world: int, person: int, seed: int, seconds: float, side: int = 200) -> Show:
    """Return a drawn face that speaks with a voice."""
    return lambda at_s: face(world, person, round(open_at(seed, seconds, at_s) * (LEVELS - 1)), side)


def silent(world: int, person: int, side: int = 200) -> Show:
    """Return a drawn face that keeps its mouth shut."""
    return lambda _: face(world, person, 0, side)


def moving(at_s: float, period_s: float = 6.0, pixels: float = 8.0) -> tuple[int, int]:
    """Return a slow movement: heads are never still."""
    phase = 2 * np.pi * at_s / period_s
    return round(pixels * np.sin(phase)), round(0.5 * pixels * np.sin(1.7 * phase))


@cache
def room(seed: int, size: tuple[int, int]) -> Picture:
    """Return a room: a soft pattern of some colour."""
    chance = np.random.default_rng(seed)
    small = chance.integers(40, 200, (6, 8, 3)).astype(np.uint8)
    return np.array(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))


def placed(*faces: tuple[Show, int, int], background: int = 0, size: tuple[int, int] = (640, 360)) -> Show:
    """Return a picture with faces at places, in a room."""

    def show(at_s: float) -> Picture:
        picture = room(background, size).copy()
        for number, (what, x, y) in enumerate(faces):
            put(picture, what(at_s), x + moving(at_s + number)[0], y + moving(at_s + number)[1])
        return picture

    return show


def put(picture: Picture, part: Picture, x: int, y: int) -> None:
    """Lay a part over a picture, as much of it as is inside."""
    height, width = part.shape[:2]
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + width, picture.shape[1]), min(y + height, picture.shape[0])
    if right > left and bottom > top:
        picture[top:bottom, left:right] = part[top - y : bottom - y, left - x : right - x]


def in_turn(*parts: tuple[float, Show]) -> Show:
    """Return one after the other: (until, what)."""

    def show(at_s: float) -> Picture:
        what = next((part for until, part in parts if at_s < until), parts[-1][1])
        return what(at_s)

    return show


def mixed(at_s: float, length_s: float, before: Show, after: Show) -> Show:
    """Return a dissolve."""

    def show(now_s: float) -> Picture:
        share = np.clip((now_s - at_s) / length_s + 0.5, 0, 1)
        if share in (0, 1):
            return (after if share else before)(now_s)
        return ((1 - share) * before(now_s) + share * after(now_s)).astype(np.uint8)

    return show


# -- Photographs ---------------------------------------------------------------------------------------------------------

HEAD = (slice(0, 280), slice(80, 380))  # of the astronaut: head and shoulders, 300x280


@cache
def photo(person: int = 0) -> tuple[Picture, Landmarks]:
    """Return a photographed person with the points of the face.

    0 is the astronaut; others have their faces of LFW's 25 pixels, enlarged, in the astronaut's place.
    """
    picture = photograph()[HEAD].copy()
    points = landmarks_of(picture, detect(picture)[0])
    if person == 0:
        return picture, points
    low, high = points.points_N2.min(axis=0), points.points_N2.max(axis=0)
    side, (x, y) = round(1.5 * float(max(high - low))), (low + high) / 2
    grey = np.load(DATA / "lfw_subset.npy")[9 * person] * 255
    face = Image.fromarray(grey.clip(0, 255).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    shape = Image.new("L", (side, side))
    ImageDraw.Draw(shape).ellipse([0.08 * side, 0, 0.92 * side, side], fill=255)
    shown = Image.fromarray(picture)
    corner = round(float(x) - side / 2), round(float(y) - side / 2)
    shown.paste(face.convert("RGB"), corner, shape.filter(ImageFilter.GaussianBlur(4)))
    changed = np.asarray(shown)
    return changed, landmarks_of(changed, detect(changed)[0])


@cache
def photo_face(person: int, level: int, blur: float = 0.0, size: float = 1.0) -> Picture:
    """Return a photographed face whose mouth is pulled open by a level, blurred and made smaller."""
    picture, points = photo(person)
    corners = points.points_N2[[78, 308]]
    width = float(np.linalg.norm(corners[0] - corners[1]))
    x, y = corners.mean(axis=0)
    shown = _opened(picture, float(x), float(y), width, 0.55 * width * level / (LEVELS - 1))
    if blur:
        shown = np.array(Image.fromarray(shown).filter(ImageFilter.GaussianBlur(blur)))
    if size != 1.0:
        shape = round(shown.shape[1] * size), round(shown.shape[0] * size)
        shown = np.array(Image.fromarray(shown).resize(shape, Image.Resampling.LANCZOS))
    return shown


def _opened(picture: Picture, x: float, y: float, width: float, gap: float) -> Picture:
    """Return a picture whose lower lip and chin are moved down, with the dark of a mouth between."""
    rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]].astype(float)
    down = gap * np.clip(1 - ((columns - x) / (0.56 * width)) ** 2, 0, 1)
    below = np.clip(1 - (rows - y) / (2.2 * width), 0, 1) * (rows >= y)
    source = np.clip(np.round(rows - down * below), 0, picture.shape[0] - 1).astype(int)
    shown = picture[source, columns.astype(int)]
    inside = (rows >= y) & (rows < y + down) & (down > 1)
    shown[inside] = (40, 12, 18)
    return shown


def photo_speaking(person: int, seed: int, seconds: float, blur: float = 0.0, size: float = 1.0) -> Show:
    """Return a photographed face that speaks with a voice."""
    return lambda at_s: photo_face(person, round(open_at(seed, seconds, at_s) * (LEVELS - 1)), blur, size)


def photo_silent(person: int = 0) -> Show:
    """Return a photographed face that keeps its mouth shut."""
    return lambda _: photo_face(person, 0)


def pans(name: str) -> Show:
    """Return a photograph without a face, over which a camera moves."""
    whole = Image.fromarray(photograph(name)).resize((900, 600), Image.Resampling.BICUBIC)
    picture = np.asarray(whole)

    def show(at_s: float) -> Picture:
        x, y = 130 + moving(at_s, 9, 120)[0], 120 + moving(at_s, 9, 120)[1]
        return picture[y : y + 360, x : x + 640]

    return show


# -- Scenes --------------------------------------------------------------------------------------------------------------


def scenes(seed: int, seconds: float = 8.0) -> list[Recording]:
    """Return a recording of every kind; other seeds have other voices, people, rooms and times.

    World and people are drawn, but for the names with "photo": networks can't tell drawn people apart.
    """
    world, person, other = 1 + seed % 2, 10 * seed, 3 - (1 + seed % 2)
    heard, babble = voice(seed, seconds), voice(seed + 500, seconds)
    talk, shut = speaking(world, person, seed, seconds), silent(world, person + 1)
    too, elsewhere = speaking(world, person + 1, seed, seconds), speaking(other, person + 3, seed + 500, seconds)
    alone = placed((talk, 200, 80), background=seed)
    second = placed((speaking(world, person + 2, seed, seconds), 380, 60), background=seed + 50)
    cut_s, away_s, swap_s = 3.6 + 0.04 * (7 * seed % 21), 4.4, 0.6 * seconds
    hiss = np.random.default_rng(seed).normal(0, 0.003, len(heard)).astype(np.float32)

    def photo_of(show: Show) -> Show:
        return placed((show, 150, 60), background=seed + 3)

    def leaves(at_s: float) -> Picture:
        picture = room(seed + 9, (640, 360)).copy()
        put(picture, talk(at_s), 200 + round(900 * max(at_s - away_s, 0.0)), 80)
        return picture

    soft = photo_speaking(0, seed, seconds, 5.0, 1.4)  # large: points of a soft face lie too close together
    another = photo_speaking(2 + seed % 8, seed, seconds)
    swapped = mixed(swap_s, 0.3, photo_speaking(0, seed, seconds), another)
    far, empty = speaking(world, person, seed, seconds, 100), placed(background=seed)

    def all_of(*reasons: str) -> tuple[tuple[float, float, str], ...]:
        return tuple((0.0, seconds, reason) for reason in reasons)

    two, alike, kept = all_of("kept", "not_speaking"), all_of("several_faces", "several_faces"), all_of("kept")
    both = ((0.0, cut_s, "kept"), (cut_s, seconds, "kept"))
    made = [
        ("one", alone, heard, kept),
        ("two-one-silent", placed((talk, 60, 80), (shut, 380, 90), background=seed + 1), heard, two),
        ("two-other-voice", placed((talk, 60, 80), (elsewhere, 380, 90), background=seed + 1), heard, two),
        ("two-same-voice", placed((talk, 60, 80), (too, 380, 90), background=seed + 1), heard, alike),
        ("cut", in_turn((cut_s, alone), (99, second)), heard, both),
        ("dissolve", mixed(cut_s, 0.8, alone, second), heard, both),
        ("music-under", alone, 0.7 * heard + 0.15 * music(seconds, seed), kept),
        ("music-alone", alone, 0.3 * music(seconds, seed), all_of("silent")),
        ("another-voice", alone, babble, all_of("not_speaking")),
        ("shut", placed((shut, 200, 80), background=seed), heard, all_of("not_speaking")),
        ("silence", alone, 0 * heard, all_of("silent")),
        ("hiss", alone, hiss, all_of("silent")),
        ("mute", alone, None, all_of("silent")),
        ("no-face", pans(("coffee.png", "chelsea.png", "rocket.jpg")[seed % 3]), heard, all_of("no_face")),
        ("leaves", leaves, heard, ((0.0, away_s, "kept"),)),
        ("brief", in_turn((2.0, alone), (99, empty)), heard, ((0.0, 2.0, "short"),)),
        ("far", placed((far, 250, 120), background=seed), heard, all_of("small_face")),
        ("photo", photo_of(photo_speaking(0, seed, seconds)), heard, kept),
        ("photo-shut", photo_of(photo_silent()), heard, all_of("not_speaking")),
        ("photo-blurred", placed((soft, 130, 0), background=seed + 3), heard, all_of("blurred")),
        ("photo-another", photo_of(swapped), heard, ((swap_s + 0.3, seconds, "other_person"),)),
    ]
    warns = {"music-under": ("music or noise under the voice",)}
    cuts = {"cut": (cut_s,), "dissolve": (cut_s,), "brief": (2.0,)}
    found = [
        Recording(name, show, sound, seconds, Truth(parts, cuts.get(name, ()), 0.0, warns.get(name, ())))
        for name, show, sound, parts in made
    ]
    for lag_s in (-0.4, -0.2, -0.1, 0.1, 0.2, 0.4):
        truth = Truth(all_of("out_of_sync") if abs(lag_s) > 0.2 else kept, lag_s=lag_s)
        found.append(Recording(f"lag{lag_s:+.1f}", alone, shifted(heard, lag_s), seconds, truth))
    for fps in ("12", "24", "30000/1001", "60"):
        found.append(Recording(f"rate-{fps.split('/')[0]}", alone, heard, seconds, Truth(kept), fps=fps))
    return found


def rotated(seed: int, seconds: float = 5.0) -> Recording:
    """Return a recording whose pictures lie on their side, and that says so."""

    def lying(at_s: float) -> Picture:
        return np.rot90(placed((talk, 80, 200), background=seed, size=(360, 640))(at_s))

    talk = speaking(2, seed, seed, seconds)
    truth = Truth(((0, seconds, "kept"),))
    return Recording("rotated", lying, voice(seed, seconds), seconds, truth, after=_marked_as_turned)


def in_4k(seed: int, seconds: float = 4.0) -> Recording:
    """Return a recording of 3840x2160 pixels."""
    show = placed((speaking(2, seed, seed, seconds), 200, 80), background=seed)
    truth, larger = Truth(((0, seconds, "kept"),)), ("-vf", "scale=3840:2160")
    return Recording("uhd", show, voice(seed, seconds), seconds, truth, arguments=larger)


def _marked_as_turned(path: Path) -> None:
    """Say in a file that its pictures are to be turned by a quarter when they are shown."""
    plain = path.with_suffix(".plain.mp4")
    path.rename(plain)
    turn = ["-display_rotation", "-90", "-i", f"file:{plain}", "-c", "copy", f"file:{path}"]
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *turn], check=True)
    plain.unlink()


# -- Files ---------------------------------------------------------------------------------------------------------------


def write(recording: Recording, folder: Path) -> Path:
    """Write a recording as an MP4 (or what its arguments say), and return its path."""
    target = folder / recording.name
    if target.suffix not in (".mp4", ".mkv"):
        target = target.with_name(f"{target.name}.mp4")
    target.parent.mkdir(parents=True, exist_ok=True)
    width, height = recording.size
    number, _, below = recording.fps.partition("/")
    rate = int(number) / int(below or 1)
    pictures = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", recording.fps, "-i", "pipe:0"]
    sound: list[str] = []
    heard = target.with_name(f".{target.name}.wav")
    if recording.sound is not None:
        with wave.open(str(heard), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE_HZ)
            file.writeframes((np.clip(recording.sound, -1, 1) * 32767).astype("<i2").tobytes())
        sound = ["-i", f"file:{heard}", "-c:a", "aac", "-b:a", "96k"]
    coded = ["-c:v", "libx264", "-preset", "ultrafast", "-crf", "20", "-pix_fmt", "yuv420p", *recording.arguments]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *pictures, *sound, *coded, f"file:{target}"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    assert process.stdin is not None
    for picture in shown(recording, rate):
        process.stdin.write(np.ascontiguousarray(picture).data)
    process.stdin.close()
    assert process.wait() == 0
    heard.unlink(missing_ok=True)
    if recording.after is not None:
        recording.after(target)
    return target


def shown(recording: Recording, rate: float) -> Iterator[Picture]:
    """Return the pictures of a recording."""
    width, height = recording.size
    for number in range(round(recording.seconds * rate)):
        picture = recording.show((number + 0.5) / rate)
        if picture.shape[:2] != (height, width):
            picture = np.array(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))
        yield picture
