"""Tests with clips that nobody prepared: no sample shows two shots, unusual rates become 25, the voice comes out of music."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import footage
import numpy as np
import pytest
import torch
from separators import write_separator

from avatarctl.puppet.pack import write_wave

Encode = Callable[..., footage.Ended]
CUT = 22


def two_shots(path: Path) -> Path:
    """Write 44 pictures with a cut in the middle, and noise to hear."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [("testsrc", "a"), ("mandelbrot", "b")]
    inputs = [word for source, _ in parts for word in ("-f", "lavfi", "-i", f"{source}=size=96x64:rate=25")]
    join = ";".join(f"[{n}:v]trim=end_frame={CUT},setpts=PTS-STARTPTS[{name}]" for n, (_, name) in enumerate(parts))
    noise = ["-f", "lavfi", "-i", f"anoisesrc=seed=1:amplitude=0.2:duration={2 * CUT / 25}"]
    graph = ["-filter_complex", f"{join};[a][b]concat=n=2[v]", "-map", "[v]", "-map", "2:a"]
    footage.ffmpeg(*inputs, *noise, *graph, "-c:v", "libx264", "-c:a", "pcm_s16le", f"file:{path}")
    return path


def test_no_sample_shows_two_shots(tmp_path: Path, encode: Encode) -> None:
    two_shots(tmp_path / "in" / "a.mkv")
    ended = encode(tmp_path / "in", tmp_path / "cache")
    assert "a.mkv: got 1 cut, no sample shows two shots" in ended.data["notes"][0]
    samples = footage.by_source(tmp_path / "cache")
    assert [start for _, start in samples] == [0, 9, CUT, CUT + 9]
    whole = footage.by_source(encode_all(encode, tmp_path, "--no-split-at-cuts"))
    assert [start for _, start in whole] == [0, 9, 18, 27]
    for name in ("latents", "speech"):
        assert torch.equal(samples["a.mkv", 9][name], whole["a.mkv", 9][name])


def encode_all(encode: Encode, folder: Path, *flags: str) -> Path:
    encode(folder / "in", folder / "all", *flags)
    return folder / "all"


def test_a_prepared_clip_is_not_searched_for_cuts(tmp_path: Path, encode: Encode) -> None:
    two_shots(tmp_path / "in" / "a.mkv")
    (tmp_path / "in" / ".prepare").mkdir()
    (tmp_path / "in" / ".prepare" / "about.json").write_text("{}")
    assert encode(tmp_path / "in", tmp_path / "cache").data["notes"] == []
    assert [start for _, start in footage.by_source(tmp_path / "cache")] == [0, 9, 18, 27]


@pytest.mark.parametrize(
    ("fps", "kept"), [("12", "25"), ("60", "25"), ("24", "24"), ("30", "30"), ("24000/1001", "24000/1001")]
)
def test_rates_from_20_to_30_are_kept_and_others_become_25_with_a_note(
    tmp_path: Path, encode: Encode, fps: str, kept: str
) -> None:
    footage.video(tmp_path / "in" / "a.mkv", frames=30, fps=fps)
    data = encode(tmp_path / "in", tmp_path / "cache").data
    samples = footage.contents(tmp_path / "cache").values()
    assert {sample["fps"] for sample in samples} == {kept}
    assert data["notes"] == [] if fps == kept else f"got {fps} pictures a second, resampled to 25" in data["notes"][0]
    asked = encode(tmp_path / "in", tmp_path / "asked", "--fps", "12").data
    assert asked["notes"] == [] and {each["fps"] for each in footage.contents(tmp_path / "asked").values()} == {"12"}


def test_samples_hear_the_voice_alone(
    tmp_path: Path, weights: Path, encode: Encode, start: Callable[..., footage.Command]
) -> None:
    time_s = np.arange(round(0.6 * 16000)) / 16000
    voice, music = 0.3 * np.sin(1500 * time_s), 0.3 * np.sin(40000 * time_s)
    for name, sound in (("song", voice + music), ("voice", voice)):
        footage.video(tmp_path / "in" / name / "a.mkv", sound=False)
        write_wave(tmp_path / "sound.wav", sound.astype(np.float32))
        plain = tmp_path / "in" / name / "a.mkv"
        joined = tmp_path / "in" / name / "b.mkv"
        footage.ffmpeg(
            "-i",
            f"file:{plain}",
            "-i",
            f"file:{tmp_path / 'sound.wav'}",
            "-c:v",
            "copy",
            "-c:a",
            "flac",
            f"file:{joined}",
        )
        plain.unlink()
    ours = tmp_path / "weights"
    shutil.copytree(weights, ours)
    write_separator(ours / "Kim_Vocal_2.onnx", keep_below=300)
    speech = {}
    for name, flags in (("song", ()), ("song-alone", ("--separate-vocals",)), ("voice", ())):
        cache = tmp_path / f"cache-{name}"
        ended = start(tmp_path / "in" / name.split("-")[0], cache, "--weights", str(ours), *flags).end()
        assert ended.status == 0, ended.log
        [sample] = footage.contents(cache).values()
        speech[name] = sample["speech"].float()
    apart = (speech["song"] - speech["voice"]).abs().max()
    assert (speech["song-alone"] - speech["voice"]).abs().max() < 0.2 * apart
    again = start(tmp_path / "in" / "song", tmp_path / "cache-song", "--weights", str(ours), "--separate-vocals")
    assert again.end().status == 7
