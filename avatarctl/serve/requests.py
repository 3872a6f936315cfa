"""Turn what a client asks for into settings and files: names of the API and of its relatives, nothing of the disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avatarctl.errors import UsageError
from avatarctl.paths import EMBEDDED_PICTURES
from avatarctl.serve.spool import NAME
from avatarctl.settings import presets
from avatarctl.settings.check import did_you_mean, make
from avatarctl.settings.names import key_of, keys_of, to_fields
from avatarctl.settings.placement import PlacementSettings
from avatarctl.settings.render import AllSettings
from avatarctl.settings.student import as_students_ask
from avatarctl.settings.values import parse_lora

# Names by which clients of this shape ask for the same things.
IMAGES = ("image", "input_reference", "image_reference")
SOUNDS = ("audio", "audio_reference", "voice")
SETTINGS = {
    "seconds": "duration",
    "num_inference_steps": "steps",
    "guidance_scale": "text_scale",
}
NESTED = ("extra_params", "extra_body", "settings")
OWN = ("model", "preset", "user", "width", "height", "num_frames", "n")
# What the operator decides: where networks compute, and which files of this machine are read.
OPERATORS = (*PlacementSettings.model_fields, "weights", "subtitles")
HINT = (
    "GET /openapi.json lists what POST /v1/videos accepts; `avatarctl presets show square --long` tells what each does"
)
TEXTS = ("prompt", "negative_prompt", "lora")


@dataclass(frozen=True)
class Asked:
    """What a request asks for: the preset, settings by field, and where picture and voice come from."""

    preset: str
    settings: dict[str, Any]
    image: str | None
    """Name of the field of a file, or the id of an uploaded one; None: the preset's own picture."""
    audio: str
    user: str = ""
    said: dict[str, Any] = field(default_factory=dict)
    """The settings as they were asked for, for people."""


@dataclass(frozen=True)
class Offer:
    """A preset that clients may ask for: its values and their sources, read once."""

    name: str
    description: str
    values: Mapping[str, Any]
    sources: Mapping[str, str]

    def settings(self, asked: Mapping[str, Any]) -> AllSettings:
        """Return all settings; raises ``UsageError`` with every mistake."""
        places = {**self.sources, **dict.fromkeys(asked, "in the request")}
        values, places = as_students_ask({**self.values, **asked}, places)
        return make(AllSettings, values, places, example=presets.example_of(self.name))


def offers_of(names: list[str]) -> dict[str, Offer]:
    """Return presets by name, each checked."""
    found = {}
    for name in names:
        values, sources = presets.resolve(AllSettings.model_fields, name, {})
        title = presets.title_of(name) or name
        found[title] = Offer(title, presets.load(name).description, values, sources)
        found[title].settings({})
    return found


def asked_of(
    values: Mapping[str, Any], files: Mapping[str, Any], offers: Mapping[str, Offer], loras: Path | None
) -> Asked:
    """Return what a request asks for; ``files``: the fields that came as files. Raises ``UsageError`` with every mistake."""
    values = _flat(values)
    mistakes: list[str] = []
    preset = _preset(values, offers, mistakes)
    image = _file(values, files, IMAGES, mistakes)
    audio = _file(values, files, SOUNDS, mistakes)
    for name in set(files) - {*IMAGES, *SOUNDS}:
        mistakes.append(f"{name}: got a file, expected files as {IMAGES[0]} and {SOUNDS[0]} alone")
    said = _settings(values, mistakes)
    settings, _, twice = to_fields(said, {}, AllSettings.model_fields)
    mistakes += twice
    known = list(keys_of(AllSettings.model_fields))
    for name in settings:
        if name in OPERATORS:
            mistakes.append(f"{key_of(name, AllSettings.model_fields)}: is for the operator of this server to choose")
        elif name not in AllSettings.model_fields:
            near = did_you_mean(str(name), [*known, *IMAGES, *SOUNDS, *SETTINGS, *OWN])
            mistakes.append(f"{name}: unknown setting{near}")
    if audio is None:
        mistakes.append("audio: missing, expected the recording that the person speaks")
    if "lora" in settings:
        settings["lora"] = _loras(settings["lora"], loras, mistakes)
    user = values.get("user") or ""
    if not isinstance(user, str) or len(user) > 256:
        mistakes.append("user: expected a text of at most 256 characters")
    if mistakes:
        raise UsageError("; ".join(dict.fromkeys(mistakes)), HINT)
    return Asked(preset, settings, image, str(audio), str(user), said)


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with those in objects of settings beside them; what is empty was not said."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name in NESTED:
            inner = _read(name, value) if isinstance(value, str) else value
            if inner in (None, ""):
                continue
            if not isinstance(inner, dict):
                raise UsageError(f"{name}: got '{str(value)[:100]}', expected an object of settings", HINT)
            found |= inner
        else:
            found[name] = value
    return {name: value for name, value in found.items() if value is not None and value != ""}


def _read(name: str, value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name}: got '{value[:100]}', expected JSON ({error})", HINT) from error


def _preset(values: dict[str, Any], offers: Mapping[str, Offer], mistakes: list[str]) -> str:
    given = {name: values[name] for name in ("preset", "model") if name in values}
    asked = str(next(iter(given.values()), next(iter(offers))))
    asked = asked.removeprefix("avatarctl/")
    if len({str(each) for each in given.values()}) > 1:
        mistakes.append(f"model and preset: got '{given['model']}' and '{given['preset']}', expected one of them")
    if asked not in offers:
        near = did_you_mean(asked, list(offers))
        mistakes.append(f"model: got '{asked[:100]}', expected {' or '.join(offers)}{near}")
        return next(iter(offers))
    return asked


def _file(values: dict[str, Any], files: Mapping[str, Any], names: tuple[str, ...], mistakes: list[str]) -> str | None:
    """Return the field of a file, or the id of an uploaded one."""
    found = [name for name in names if name in files or name in values]
    if len(found) > 1:
        mistakes.append(f"{found[0]}: got {found[1]} as well, expected one of them")
    if not found:
        return None
    if found[0] in files:
        return found[0]
    value = values[found[0]]
    if isinstance(value, str) and NAME.fullmatch(value):
        return value
    if isinstance(value, str) and value in EMBEDDED_PICTURES and names is IMAGES:
        return value
    said = f"'{value[:60]}'" if isinstance(value, str) else type(value).__name__
    mistakes.append(
        f"{found[0]}: got {said}, expected a file, the id of one (POST /v1/files), or a data URL; the server fetches nothing"
    )
    return None


def _settings(values: Mapping[str, Any], mistakes: list[str]) -> dict[str, Any]:
    """Return the settings by their names for people, with those of other servers of this shape translated."""
    said: dict[str, Any] = {}

    def put(name: str, value: Any, source: str) -> None:
        if name in said:
            mistakes.append(f"{source}: got {name} as well, expected one of them")
        said[name] = value

    for name, value in values.items():
        if name in (*IMAGES, *SOUNDS, *OWN):
            continue
        plain = value
        if isinstance(value, str) and name not in TEXTS and value[:1] in ("[", "{"):
            plain = _read(name, value)
        elif value == "null" and name not in TEXTS:
            plain = None
        put(SETTINGS.get(name, name), plain, name)
    if "width" in values or "height" in values:
        put("size", f"{values.get('width', '?')}x{values.get('height', '?')}", "width, height")
    if "num_frames" in values:
        try:
            put("duration", round(int(values["num_frames"]) / float(values.get("fps", 25)), 6), "num_frames")
        except (ValueError, TypeError, ZeroDivisionError, OverflowError):
            mistakes.append("num_frames: expected a whole number")
    if str(values.get("n", 1)) != "1":
        mistakes.append("n: expected 1: ask for each video by a request of its own, with another seed")
    return said


def _loras(given: Any, folder: Path | None, mistakes: list[str]) -> Any:
    """Return LoRA files of the operator's folder by their names; a client never names a path."""
    asked = [given] if isinstance(given, str) else given
    if not isinstance(asked, list) or not all(isinstance(each, str) for each in asked):
        mistakes.append("lora: expected NAME or NAME:SCALE, or a list of such")
        return ()
    known = {} if folder is None else {path.stem: path for path in sorted(folder.glob("*.safetensors"))}
    found = []
    for each in asked:
        try:
            name, scale = parse_lora(each)
        except ValueError as error:
            mistakes.append(f"lora: {error}")
            continue
        path = known.get(Path(name).stem) if Path(name).name == name else None
        if path is None:
            there = " or ".join(known) or "none: the server was started without --loras FOLDER"
            mistakes.append(f"lora: got '{name[:100]}', expected {there}")
        else:
            found.append(f"{path}:{scale}")
    return tuple(found)
