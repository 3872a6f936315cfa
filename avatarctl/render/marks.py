"""Say in a video how it was made, and that a machine made it: a line of text and an XMP packet, from render.json alone.

Both come from the render's own record, not from the running program: a later version that resumes a render writes the same
bytes. There are no paths, times or names of machines in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avatarctl.settings.formats import VideoFormat

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
    f"<Iptc4xmpExt:DigitalSourceType>{SOURCE_TYPE}</Iptc4xmpExt:DigitalSourceType>"
    '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
)
# Where MP4 holds XMP: a box of this type at the top level (XMP specification, part 3).
XMP_BOX = bytes.fromhex("BE7ACFCB97A942E89C71999491E3AFAC")
HASH_LETTERS, MOST_LETTERS = 12, 4000


def line_of(manifest: Mapping[str, Any]) -> str:
    """Return how a video was made in one line: program version, seed, preset, weights, changes accepted, prompt."""
    job, weights = manifest["job"], manifest["weights"]
    loras = [
        f"lora {weights[f'lora {i + 1}']['sha256'][:HASH_LETTERS]} at {s:g}" for i, (_, s) in enumerate(job["lora"])
    ]
    parts = [
        f"avatarctl {manifest['avatarctl']}",
        f"seed {job['render']['seed']}",
        *([f"preset {job['preset']}"] if job.get("preset") else []),
        f"weights {weights['transformer']['sha256'][:HASH_LETTERS]}",
        *loras,
        *([f"changed on the way: {', '.join(manifest['accepted'])}"] if manifest.get("accepted") else []),
        f"prompt: {' '.join(job['render']['prompt'].split())}",
    ]
    line = "; ".join(parts).encode("utf-8", "replace").decode().replace("\0", " ")
    return line if len(line) <= MOST_LETTERS else line[: MOST_LETTERS - 1] + "…"


def tags_of(manifest: Mapping[str, Any], video: VideoFormat) -> dict[str, str]:
    """Return the tags that ffmpeg writes. Renders that began before there were any have none, whoever resumes them.

    Matroska and WebM have no place of their own for XMP (WebM forbids attachments): the type stands in a tag that every
    player's info page shows, and the packet in another, where programs that look for packets find it. QuickTime holds the
    packet in its user data.
    """
    render = manifest["job"]["render"]
    tags = {"comment": line_of(manifest)} if render.get("metadata", False) else {}
    if render.get("mark_synthetic", False):
        if video.suffix == ".mov":
            tags["xmp"] = XMP
        if video.suffix in (".mkv", ".webm"):
            tags |= {"DIGITAL_SOURCE_TYPE": SOURCE_TYPE, "XMP": XMP}
    return tags


def append_xmp(manifest: Mapping[str, Any], video: VideoFormat, path: Path) -> None:
    """Put the XMP packet at the end of an MP4 or MOV file, in the box that holds it there."""
    if video.suffix not in (".mp4", ".mov") or not manifest["job"]["render"].get("mark_synthetic", False):
        return
    content = b"uuid" + XMP_BOX + XMP.encode()
    with path.open("ab") as file:
        file.write((4 + len(content)).to_bytes(4, "big") + content)
