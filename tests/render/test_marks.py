"""Tests with what a video says of itself: how it was made, and that a machine made it, read byte by byte."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from containers import SEGMENT_UID, box, boxes, elements, tags, told
from workshop import Case, straight

from avatarctl import durable
from avatarctl.render.folder import MANIFEST, RenderFolder
from avatarctl.render.marks import line_of

NewCase = Callable[..., Case]
TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
LONG = "a\n\tb\0c \ud800" * 2000
UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")


def source_type(packet: bytes) -> str | None:
    """Return the DigitalSourceType of an XMP packet, read as XML."""
    tree = ElementTree.fromstring(packet)
    return tree.findtext(".//{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType")


def packet_of(path: Path) -> bytes | None:
    """Return the XMP packet of a video from the place where its container holds it."""
    if path.suffix in (".mkv", ".webm"):
        text = tags(path).get("XMP")
        return text.encode() if text else None
    found = [content[16:] for kind, content in boxes(path.read_bytes()) if kind == "uuid" and content[:16] == UUID]
    assert len(found) <= 1
    return found[0] if found else None


def named(case: Case, suffix: str) -> Case:
    case.output, case.render = case.folder / f"talk{suffix}", case.folder / f"talk{suffix}.render"
    return case


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_a_video_says_how_it_was_made_and_that_a_machine_made_it(new_case: NewCase, suffix: str) -> None:
    case = named(new_case(), suffix)
    straight(case, "--keep", "--prompt", "A person; says\n hello =ä", "--seed", "7")
    manifest = json.loads((case.render / "render.json").read_text())
    digest = manifest["weights"]["transformer"]["sha256"][:12]
    line = f"avatarctl {manifest['avatarctl']}; seed 7; preset tiny; weights {digest}; prompt: A person; says hello =ä"
    assert re.search(r"comment\s*: (.*)", told(case.output), re.IGNORECASE)[1] == line  # type: ignore[index]
    packet = packet_of(case.output)
    assert packet is not None and source_type(packet) == TYPE
    data = case.bytes()
    assert not any(str(place).encode() in data for place in (case.folder, case.studio))
    if suffix == ".mov":
        assert source_type(box(data, "moov", "udta", "XMP_")) == TYPE
    if suffix in (".mkv", ".webm"):
        assert tags(case.output)["DIGITAL_SOURCE_TYPE"] == TYPE
        assert SEGMENT_UID not in [name for name, _ in elements(data)]
    else:
        assert box(data, "moov", "mvhd")[4:12] == bytes(8), "no times"


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_both_can_be_left_out(new_case: NewCase, suffix: str) -> None:
    case = named(new_case(), suffix)
    straight(case, "--no-metadata", "--prompt", "unheard of")
    assert packet_of(case.output) is not None and "avatarctl" not in told(case.output)
    assert b"unheard of" not in case.bytes()
    straight(case, "--no-metadata", "--no-mark-synthetic", "--force")
    assert packet_of(case.output) is None and b"trainedAlgorithmicMedia" not in case.bytes()


def test_a_later_version_that_resumes_writes_what_the_first_one_would(new_case: NewCase) -> None:
    def begun_by(version: str, case: Case, without: tuple[str, ...] = ()) -> None:
        """Write a render's record as another version would have."""
        manifest = RenderFolder(case.render).manifest()
        manifest["avatarctl"] = version
        for name in without:
            del manifest["job"]["render"][name]
        durable.replace(case.render / MANIFEST, durable.sealed(manifest))

    case = new_case()
    case.stop()
    begun_by("0.0.1", case)
    assert case.command("resume", str(case.render)).status == 0
    assert "avatarctl 0.0.1; seed 0" in told(case.output)

    old = new_case("old")
    old.stop()
    begun_by("0.0.1", old, ("metadata", "mark_synthetic"))  # of the time before there were any
    assert old.command("resume", str(old.render)).status == 0
    assert packet_of(old.output) is None and "comment" not in told(old.output)


def test_the_line_is_one_line_of_text_of_some_length() -> None:
    manifest = {
        "avatarctl": "1.2.3",
        "job": {
            "preset": None,
            "lora": [["/home/me/style.safetensors", 0.8]],
            "render": {"seed": 1, "prompt": LONG},
        },
        "weights": {"transformer": {"sha256": "ab" * 32}, "lora 1": {"sha256": "cd" * 32}},
    }
    line = line_of(manifest)
    assert line.startswith("avatarctl 1.2.3; seed 1; weights abababababab; lora cdcdcdcdcdcd at 0.8; prompt: a b c ?")
    assert len(line) == 4000 and line.isprintable() and "/home" not in line
