"""Parse values as people write them: 25, 512x512, style.safetensors:0.8."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from avatarctl.errors import UsageError
from avatarctl.paths import student_place, weights_folder

# Rates that decimals only approximate (SMPTE 1001 family).
NTSC = {"23.976": "24000/1001", "23.98": "24000/1001", "29.97": "30000/1001", "59.94": "60000/1001"}
LARGEST_VIDEO_PX = 8192  # a side that common decoders take
KNOWN_SIZES = "512x512, 480x832 and 832x480"
SIZE_STEP = 16  # eight pixels per latent, two latents per token
EXPORTS = "exports"  # folder of a run with what was trained up to each of its checkpoints


def parse_fps(value: Any) -> Fraction:
    """Return the exact frame rate of 25, "25", 23.976, "29.97", "30000/1001"; raises ``ValueError`` for anything else."""
    text = str(value).strip()
    try:
        fps = Fraction(NTSC.get(text, text))
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"got '{value}', expected frames per second such as 25, 29.97 or 30000/1001") from error
    if not 1 <= fps <= 240:
        raise ValueError(f"got {value}, expected 1 to 240 frames per second")
    return fps


TIMES = "a time such as 90, 90s, 1:30, 1:02.5 or 1:02:03.5"


def parse_seconds(value: Any) -> Any:
    """Return the seconds of 90, "90", "90s", "1:02.5" or "1:02:03.5"; raises ``ValueError`` for anything else.

    YAML reads 1:30 as the number 90 by itself.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    text = str(value).strip()
    plain = re.fullmatch(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*s?", text)
    clock = re.fullmatch(r"(?:(\d{1,6}):)?(\d{1,9}):(\d{1,2}(?:\.\d*)?)", text)
    if plain is None and clock is None:
        raise ValueError(f"got '{value}', expected {TIMES}")
    if plain is not None:
        return float(plain[1])
    assert clock is not None
    hours, minutes, seconds = int(clock[1] or 0), int(clock[2]), Fraction(clock[3].rstrip("."))
    if seconds >= 60 or (clock[1] and minutes >= 60):
        raise ValueError(f"got '{value}', expected {TIMES}, with at most 59 after a colon")
    return float(3600 * hours + 60 * minutes + seconds)


def parse_size(value: Any) -> tuple[int, int]:
    """Return (width, height) of "512x512", a pair or {width, height}; raises ``ValueError`` for anything else."""
    if isinstance(value, Mapping) and set(value) == {"width", "height"}:
        value = (value["width"], value["height"])
    pair = re.fullmatch(r"\s*(\d+)\s*[xX×]\s*(\d+)\s*", value) if isinstance(value, str) else None
    sides = [int(side) for side in pair.groups()] if pair else value
    if not isinstance(sides, list | tuple) or len(sides) != 2 or any(type(side) is not int for side in sides):
        raise ValueError(f"got '{value}', expected WIDTHxHEIGHT such as 512x512")
    width, height = sides
    if width % SIZE_STEP or height % SIZE_STEP or not (64 <= width <= 4096 and 64 <= height <= 4096):
        near = "x".join(str(min(max(round(side / SIZE_STEP) * SIZE_STEP, 64), 4096)) for side in (width, height))
        raise ValueError(
            f"got {width}x{height}, expected 64 to 4096 and divisible by {SIZE_STEP}, such as {near}; "
            f"the released weights know {KNOWN_SIZES}"
        )
    return width, height


def parse_window_batch(value: Any) -> int | Literal["auto"]:
    """Return how many windows may share a pass; raises ``ValueError`` for what is neither auto nor 1 to 64."""
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if value == "auto" or (type(number) is int and 1 <= number <= 64):
        return number
    raise ValueError(f"got '{value}', expected 1 to 64, or auto")


def parse_interval(value: Any) -> Any:
    """Return the pair of "0.2:0.9", None for "always"; other values as they are. Raises ``ValueError`` for other text."""
    if not isinstance(value, str):
        return value
    if value.lower() == "always":
        return None
    try:
        low, high = (float(part) for part in value.split(":"))
    except ValueError as error:
        raise ValueError(f"got '{value}', expected two noise levels such as 0.2:0.9, or always") from error
    return low, high


def parse_auto_or_bool(value: Any) -> bool | Literal["auto"]:
    """Return true, false or "auto"; raises ``ValueError`` for anything else."""
    words = {"auto": "auto", "true": True, "yes": True, "false": False, "no": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in words:
        found: Any = words[value.lower()]
        return found
    raise ValueError(f"got '{value}', expected true, false or auto")


def parse_lora(text: str) -> tuple[str, float]:
    """Return (file, scale) of "FILE" or "FILE:SCALE"; what follows the last colon is a scale only if it is a number.

    Raises ``ValueError`` for an empty file name or a scale that is not finite.
    """
    file, _, tail = text.rpartition(":")
    try:
        scale = float(tail)
    except ValueError:  # no scale: the colon, if any, belongs to a path such as C:/style.safetensors
        if file.endswith(".safetensors"):
            raise ValueError(f"got the strength '{tail}' in '{text}', expected a number such as {file}:0.8") from None
        file, scale = text, 1.0
    if not file or not math.isfinite(scale):
        raise ValueError(f"got '{text}', expected FILE or FILE:SCALE such as style.safetensors:0.8")
    return file, scale


HUB = "hf://"
HUB_FOLDER = "hf"  # of the weights folder: below it, what was fetched of any repository


def parse_hub(text: str) -> tuple[str, str, str]:
    """Return user, repository and file ("" for none) of hf://USER/REPO[/FILE]; raises ``UsageError`` for anything else."""
    pieces = text.removeprefix(HUB).split("/")
    if len(pieces) < 2 or not all(re.fullmatch(r"[\w][\w.-]*", piece) for piece in pieces):
        raise UsageError(
            f"got '{text}', expected hf://USER/REPO or hf://USER/REPO/FILE",
            "such as hf://someone/a-lora/style.safetensors",
        )
    return pieces[0], pieces[1], "/".join(pieces[2:])


def fetched_lora(text: str) -> Path:
    """Return where the LoRA of hf://USER/REPO[/FILE] was fetched to; raises ``UsageError`` with the command that fetches it."""
    user, repo, file = parse_hub(text)
    below = weights_folder() / HUB_FOLDER / user / repo
    found = [below / file] if file else sorted(below.glob("*.safetensors"))
    if len(found) == 1 and found[0].is_file():
        return found[0]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UsageError(
            f"--lora: got {text}, of which {names} were fetched", f"name one: --lora {text}/{found[0].name}"
        )
    raise UsageError(f"--lora: {text} is not on this machine", f"avatarctl fetch {shlex.quote(text)}")


def lora_file(path: Path) -> Path:
    """Return the LoRA that a path means: of a run folder the newest, of RUN@500 that of a step, else itself.

    ``puppet-student`` is the embedded avatar's. Of hf://USER/REPO[/FILE] it is what was fetched. Raises ``UsageError`` when
    that wasn't.
    """
    path = student_place(path)
    if (text := path.as_posix()).startswith(f"{HUB[:-2]}/"):  # a path has no empty parts
        return fetched_lora(text.replace(HUB[:-1], HUB, 1))
    run, step = split_run(path)
    if step is not None:
        return export_of(run, step)
    trained = path / "lora.safetensors"
    return trained if trained.is_file() else path


def split_run(path: Path) -> tuple[Path, int | None]:
    """Return (run folder, step) of RUN@STEP; (path, None) for whatever is there by its own name, or names no step."""
    name, at, step = path.name.rpartition("@")
    if not at or not name or not (step.isascii() and step.isdecimal()) or path.exists():
        return path, None
    return path.with_name(name), int(step)


def export_of(run: Path, step: int) -> Path:
    """Return where a run exports what it trained up to a step."""
    return run / EXPORTS / f"step-{step:08d}.safetensors"


def other_steps(path: Path) -> str:
    """Return a hint with the steps that a run has, where a path is that of one that it lacks; else ""."""
    run = path.parent.parent
    if path.parent.name != EXPORTS or not (steps := exported_steps(run)):
        return ""
    return f"{run} has step {', '.join(map(str, steps[-12:]))}: use {run}@{steps[-1]}"


def exported_steps(run: Path) -> list[int]:
    """Return the steps of a run that were exported, in order."""
    found = [
        re.fullmatch(r"step-(\d{8})\.safetensors", path.name) for path in (run / EXPORTS).glob("step-*.safetensors")
    ]
    return sorted(int(match[1]) for match in found if match)


def check_device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ValueError(f"got '{name}', expected auto, cpu, cuda or cuda:N")
    return name


def check_lora(text: str) -> str:
    parse_lora(text)
    return text


def one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def as_paths(value: Any) -> Any:
    return (value,) if isinstance(value, str | Path) else value


def as_several(value: Any) -> Any:
    return (value,) if isinstance(value, str | int) else value


def parse_kept(value: Any) -> Any:
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if value in (None, "all") or (type(number) is int and number >= 0):
        return number
    raise ValueError(f"got '{value}', expected a number, all, or null")


Fps = Annotated[
    Fraction,
    BeforeValidator(parse_fps),
    PlainSerializer(str),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string"}]}),
]
Size = Annotated[
    tuple[int, int],
    BeforeValidator(parse_size),
    PlainSerializer(lambda s: f"{s[0]}x{s[1]}"),
    WithJsonSchema({"type": "string", "pattern": r"^\d+x\d+$"}),
]


Seconds = Annotated[
    float,
    BeforeValidator(parse_seconds),
    WithJsonSchema(
        {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^\s*(\d+:)?(\d+:)?\d*\.?\d*\s*s?\s*$"}]}
    ),
]


WindowBatch = Annotated[
    int | Literal["auto"],
    BeforeValidator(parse_window_batch),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1, "maximum": 64}, {"const": "auto"}]}),
]
AutoOrBool = Annotated[
    bool | Literal["auto"],
    BeforeValidator(parse_auto_or_bool),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"const": "auto"}]}),
]
Kept = Annotated[
    int | Literal["all"] | None,
    BeforeValidator(parse_kept),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"const": "all"}, {"type": "null"}]}),
]
Paths = Annotated[tuple[Path, ...], BeforeValidator(as_paths)]
Texts = Annotated[tuple[str, ...], BeforeValidator(as_several)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], BeforeValidator(as_several)]
