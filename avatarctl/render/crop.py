"""Frame a picture around a face, once per render: the crop in whole pixels, what there is to say of it, and a PNG of it.

The crop is a fact of a render, in its render.json: whoever resumes the render reads it there. No torch until a picture is
looked at.
"""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from avatarctl import durable, ownership
from avatarctl.errors import DeviceError, UsageError
from avatarctl.settings.render import RenderJob

DRAWN = (255, 40, 40)


@dataclass(frozen=True)
class SeenFace:
    """A face of a picture: its number from the left, its box (x0, y0, x1, y1) and height in pixels, and how sure it is."""

    number: int
    box: tuple[int, int, int, int]
    height_px: int
    presence: float


@dataclass(frozen=True)
class Framing:
    """A crop in whole pixels of a picture (width, height): around which face (None: no face), and what may spoil the video."""

    left: int
    top: int
    width: int
    height: int
    picture: tuple[int, int]
    face: int | None
    face_px: int | None
    """Height of the face in the video."""
    faces: tuple[SeenFace, ...]
    warnings: tuple[str, ...]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Return (left, top, right, bottom)."""
        return self.left, self.top, self.left + self.width, self.top + self.height

    def words(self) -> str:
        """Return what is done, in a line."""
        where = f"crop {self.width}x{self.height} at ({self.left}, {self.top}) of {self.picture[0]}x{self.picture[1]}"
        if self.face is None:
            return f"{where}: the middle, no face found"
        own = self.faces[self.face - 1].height_px
        high = f"face {own} px high" + (f", {self.face_px} px in the video" if own != self.face_px else "")
        return f"{where}: {high}" + (f" (number {self.face} of {len(self.faces)})" if len(self.faces) > 1 else "")

    def to_json(self) -> dict[str, Any]:
        """Return ``crop`` and ``faces``, as render.json and `--json` have them."""
        content = json.loads(json.dumps(asdict(self)))
        faces = content.pop("faces")
        return {"crop": content, "faces": faces}


def framing_in(content: Mapping[str, Any]) -> Framing | None:
    """Return the framing that render.json or ``to_json`` holds; None where the picture isn't framed around a face."""
    crop = content.get("crop")
    if crop is None:
        return None
    faces = tuple(SeenFace(**{**face, "box": tuple(face["box"])}) for face in content["faces"])
    return Framing(
        **{**crop, "picture": tuple(crop["picture"]), "warnings": tuple(crop["warnings"])},
        faces=faces,
    )


def framing_json(framing: Framing | None) -> dict[str, Any]:
    """Return ``crop`` and ``faces``; both null where the picture isn't framed around a face."""
    return {"crop": None, "faces": None} if framing is None else framing.to_json()


def frame(job: RenderJob) -> Framing | None:
    """Find the faces of a job's picture and place its crop; None where ``fit`` asks for no face.

    Raises ``UsageError`` when the picture hasn't the face that is asked for.
    """
    if job.render.fit != "face":
        return None
    return require_face(_frame(job.image, job.render.size, job.render.face), job)


def frame_apart(jobs: Sequence[RenderJob]) -> list[Framing | None]:
    """Frame the pictures of jobs in a process of its own, each once: this one stays free of torch.

    A face that a picture hasn't is left to :func:`require_face`. Raises ``DeviceError`` when that process fails.
    """
    asked = {_key(job): None for job in jobs if job.render.fit == "face"}
    found: dict[str, Framing | None] = {}
    if asked:
        root = str(Path(__file__).parents[2])
        code = f"import sys; sys.path.insert(0, {root!r}); from avatarctl.render.crop import answer; answer()"
        done = subprocess.run(
            [sys.executable, "-P", "-c", code],
            check=False,
            input="\n".join(asked),
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
        if done.returncode:
            said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            raise DeviceError(
                f"the process that looks for faces ended with {done.returncode}: {said[-1] if said else 'it said nothing'}",
                "`avatarctl doctor` tells whether torch works; --fit cover needs no faces",
            )
        found = dict(zip(asked, (framing_in(json.loads(line)) for line in done.stdout.splitlines()), strict=True))
    return [found[_key(job)] if job.render.fit == "face" else None for job in jobs]


def answer() -> None:
    """Frame the pictures that stdin names, one per line; write a line for each."""
    for line in sys.stdin:
        image, size, face = json.loads(line)
        content = _frame(Path(image), tuple(size), face).to_json()
        sys.stdout.write(json.dumps(content) + "\n")


def _key(job: RenderJob) -> str:
    return json.dumps([str(job.image), job.render.size, job.render.face])


def require_face(framing: Framing, job: RenderJob) -> Framing:
    """Return a framing around the face that the job asks for; raises ``UsageError`` when the picture hasn't got it."""
    asked, count = job.render.face, len(framing.faces)
    if asked is None or asked <= count:
        return framing
    if not count:
        raise UsageError(
            f"--face: got {asked}, but no face was found in {job.image}",
            "leave out --face to use the middle of the picture, or name another picture",
        )
    several = f"{count} faces, expected 1 to {count}, counted from the left" if count > 1 else "one face, expected 1"
    raise UsageError(
        f"--face: got {asked}, and {job.image} has {several}",
        "leave out --face for the largest; --show-crop crop.png then shows the numbers",
    )


def _frame(image: Path, size: tuple[int, int], asked: int | None) -> Framing:
    from avatarctl.faces.find import find_in
    from avatarctl.faces.framing import crop_around, problems
    from avatarctl.networks.images import look_at

    picture = look_at(image).image
    largest_first = find_in(picture)
    places = [face.box[0] + face.box[2] for face in largest_first]
    from_the_left = sorted(range(len(places)), key=places.__getitem__)
    faces = [largest_first[index] for index in from_the_left]
    chosen = None
    if faces:
        chosen = asked - 1 if asked is not None and asked <= len(faces) else from_the_left.index(0)
    crop = crop_around(picture.size, None if chosen is None else faces[chosen], size)
    said = [f"{image}: {each}" for each in problems(picture.size, faces, chosen or 0, crop, size)]
    if len(faces) > 1 and asked is None and chosen is not None:
        said.insert(
            0,
            f"{image}: {len(faces)} faces were found, and the largest is framed, number {chosen + 1} from the left; "
            f"--face N frames another, --show-crop FILE.png shows the numbers",
        )
    return Framing(
        crop.left,
        crop.top,
        crop.width,
        crop.height,
        picture.size,
        None if chosen is None else chosen + 1,
        None if chosen is None else round(faces[chosen].height * size[1] / crop.height),
        tuple(
            SeenFace(number, _whole(face.box), round(face.height), round(face.presence, 3))
            for number, face in enumerate(faces, 1)
        ),
        tuple(said),
    )


def _whole(box: Any) -> tuple[int, int, int, int]:
    left, top, right, bottom = (round(float(side)) for side in box)
    return left, top, right, bottom


# -- Showing it -------------------------------------------------------------------------------------------------------


def check_show_crop(job: RenderJob, target: Path, force: bool) -> None:
    """Refuse a place for the PNG that holds an input, or something that --force wasn't given for."""
    flag = "--show-crop"
    ownership.check_name(target, flag, "the name of a PNG file", f"{flag} crop.png")
    if target.suffix.lower() != ".png":
        other = shlex.quote(str(target.with_suffix(".png")))
        raise UsageError(f"{flag}: got {target}, expected a name that ends in .png", f"such as {flag} {other}")
    inputs = [("the picture", job.image), ("the recording", job.audio), *(("a LoRA", path) for path, _ in job.lora)]
    ownership.check_target(target, flag, [*inputs, *(("the subtitles", path) for _, path in job.subtitles)], force)
    ownership.check_can_make(durable.through(target).parent, flag)
    ownership.check_apart(job.folder, "--work-dir", target, flag)


def show_crop(job: RenderJob, framing: Framing | None, target: Path) -> None:
    """Write the picture as the networks get it; with numbers on the faces while there are several to choose from."""
    from avatarctl.networks.images import framed, look_at

    picture = look_at(job.image).image
    shown = framed(picture, job.render.size, job.render.fit, None if framing is None else framing.box)
    if framing is not None and len(framing.faces) > 1 and job.render.face is None:
        _draw_numbers(shown, framing)
    content = io.BytesIO()
    shown.save(content, "PNG")
    with durable.guarded(target, "free some space and run the same command again", "choose another --show-crop"):
        durable.replace(durable.through(target), content.getvalue())


def _draw_numbers(shown: Any, framing: Framing) -> None:
    from PIL import ImageDraw, ImageFont

    draw, scale = ImageDraw.Draw(shown), shown.width / framing.width
    high = max(shown.height // 16, 10)
    font = ImageFont.load_default(high)
    for face in framing.faces:
        corners = zip(face.box, (framing.left, framing.top) * 2, strict=True)
        left, top, right, bottom = (round((side - corner) * scale) for side, corner in corners)
        draw.rectangle((left, top, right, bottom), outline=DRAWN, width=max(shown.height // 256, 1))
        # A face that the crop leaves out has its number at the edge towards it.
        place = (min(max(left + 3, 0), shown.width - high), min(max(top, 0), shown.height - high))
        draw.rectangle(draw.textbbox(place, str(face.number), font), fill=DRAWN, outline=DRAWN, width=2)
        draw.text(place, str(face.number), (255, 255, 255), font)
