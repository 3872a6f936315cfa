"""Draw the README's picture: every tenth picture of the demo above the opening of the mouth.

python benchmarks/readme_picture.py avatarctl/puppet/samples/demo.png
"""

from __future__ import annotations

import argparse
import tempfile
import wave
from pathlib import Path

import matplotlib.figure
import numpy as np

from avatarctl.evaluation.sync import sync
from avatarctl.paths import embedded_avatar
from avatarctl.puppet.measure import read_pictures
from avatarctl.puppet.mouth import mouth_from_audio, mouth_from_frames
from avatarctl.render import render
from avatarctl.settings.check import make
from avatarctl.settings.presets import load
from avatarctl.settings.render import AllSettings, RenderJob, RenderSettings

EVERY, COLUMNS = 8, 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    target = parser.parse_args().target
    settings = make(AllSettings, load("puppet").values)
    voice = embedded_avatar() / "samples" / "voice.wav"
    assert settings.image is not None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = RenderJob(
            image=settings.image,
            audio=voice,
            output=folder / "demo.mp4",
            frames=folder / "pictures",
            weights=settings.weights,
            render=settings.part(RenderSettings),
        )
        render(job)
        pictures = read_pictures(folder / "pictures")
    with wave.open(str(voice)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / np.float32(32768)
    asked, _ = mouth_from_audio(samples, len(pictures))
    shown, _ = mouth_from_frames(pictures)
    chosen = np.arange(0, len(pictures), EVERY)[:COLUMNS]
    figure = matplotlib.figure.Figure(figsize=(10, 2.6), layout="constrained")
    axes = figure.add_subplot(2, 1, 1)
    axes.imshow(np.concatenate(list(pictures[chosen]), axis=1), interpolation="lanczos")
    axes.axis("off")
    axes = figure.add_subplot(2, 1, 2)
    until = chosen[-1] + EVERY // 2
    seconds = np.arange(len(pictures)) / float(settings.fps)
    axes.plot(seconds[:until], asked[:until], label="opening that the voice asks for")
    axes.plot(
        seconds[:until], shown[:until], label=f"in the pictures (correlation {sync(shown, asked).correlation:.2f})"
    )
    axes.set(xlim=(-EVERY / 50, (until - 1) / 25), xlabel="seconds", yticks=[0, 1])
    axes.legend(fontsize=7, loc="lower right")
    figure.savefig(target, dpi=100)


if __name__ == "__main__":
    main()
