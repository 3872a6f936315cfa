"""Write a contact sheet of a video: one JPEG with a picture every few seconds, each with its time."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from PIL import Image, ImageDraw

from avatarctl.render.ffmpeg import check, start
from avatarctl.sampling.windows import Plan

THUMBNAIL_PX = 160


def contact_sheet(video: Path, target: Path, every_s: float, plan: Plan) -> None:
    """Write a JPEG with one picture per ``every_s`` seconds of a video, each with its time."""
    step = max(round(every_s * plan.fps), 1)
    places = range(0, plan.video_frames, step)
    pictures = [_label(picture, place / plan.fps) for place, picture in zip(places, _every(video, step), strict=False)]
    columns = min(math.ceil(math.sqrt(len(pictures))), 8)
    width, height = pictures[0].size
    rows = math.ceil(len(pictures) / columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for place, picture in enumerate(pictures):
        sheet.paste(picture, (place % columns * width, place // columns * height))
    sheet.save(target, format="JPEG", quality=90)


def _every(video: Path, step: int) -> Iterator[Image.Image]:
    scale = f"scale='if(gt(iw,ih),{THUMBNAIL_PX},-2)':'if(gt(iw,ih),-2,{THUMBNAIL_PX})'"
    arguments = ["-i", f"file:{video}", "-vf", f"select=not(mod(n\\,{step})),{scale}", "-fps_mode", "passthrough"]
    process = start([*arguments, "-f", "image2pipe", "-c:v", "png", "-pix_fmt", "rgb24", "-"])
    rows, log = process.communicate()
    check(process.returncode, log)
    begin = b"\x89PNG\r\n\x1a\n"
    for data in rows.split(begin)[1:]:
        with Image.open(io.BytesIO(begin + data)) as picture:
            yield picture.convert("RGB")


def _label(picture: Image.Image, seconds: Fraction) -> Image.Image:
    draw = ImageDraw.Draw(picture)
    minutes, rest = divmod(float(seconds), 60)
    text = f"{int(minutes)}:{rest:04.1f}"
    draw.rectangle(draw.textbbox((4, 2), text), fill="black")
    draw.text((4, 2), text, fill="white")
    return picture
