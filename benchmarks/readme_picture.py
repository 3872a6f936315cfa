"""Make the README's moving picture: the demo as an animated WebP.

python benchmarks/readme_picture.py docs/demo.webp
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from PIL import Image

from avatarctl.paths import embedded_avatar
from avatarctl.puppet.measure import read_pictures
from avatarctl.render import render
from avatarctl.settings.jobs import render_job

SIDE_PX = 256
EVERY = 2  # every second picture: 12.5 a second
QUALITY = 70


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    target = parser.parse_args().target
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        voice = embedded_avatar() / "samples" / "voice.wav"
        job = render_job(None, voice, folder / "demo.mp4", "puppet", frames=folder / "pictures")
        render(job)
        pictures = [Image.fromarray(each) for each in read_pictures(folder / "pictures")[::EVERY]]
    shown = [each.resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS) for each in pictures]
    ms = round(1000 * EVERY / float(job.render.fps))
    shown[0].save(target, save_all=True, append_images=shown[1:], duration=ms, loop=0, quality=QUALITY, method=6)


if __name__ == "__main__":
    main()
