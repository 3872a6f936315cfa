"""Tests with small clips: what their samples hold and only what is new or changed is encoded."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import footage
import numpy as np
import pytest
import torch

from avatarctl.audio.decode import waveform_16k
from avatarctl.audio.speech import speech_states
from avatarctl.data.discover import clip_at, discover
from avatarctl.data.shards import Index, read_null_text
from avatarctl.networks import checkpoints
from avatarctl.networks.conditions import image_tokens, prompt_states, reference_condition
from avatarctl.networks.images import load_image
from avatarctl.networks.vae import encode as vae_encode

Encode = Callable[..., footage.Ended]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A released layout with two clips, and a video in another place."""
    folder = tmp_path / "source"
    footage.clip_folder(folder / "square" / "speech" / "00001")
    footage.clip_folder(folder / "square" / "singing" / "00002", frames=20, seed=1)
    footage.video(folder / "videos" / "talk.mkv", 10, seed=2)
    return folder


def test_a_sample_holds_what_the_networks_make_of_its_window(
    tmp_path: Path, weights: Path, encode: Encode, source: Path
) -> None:
    encode(source, tmp_path / "cache", "--store-dtype", "float32")
    samples = footage.by_source(tmp_path / "cache")
    assert set(samples) == {
        ("square/speech/00001", 0),
        ("square/singing/00002", 0),
        ("square/singing/00002", 9),
        ("videos/talk.mkv", 0),
    }
    sample = samples["square/singing/00002", 9]
    folder = source / "square" / "singing" / "00002"

    # The same by hand, from the files.
    loaded = [load_image(folder / "images" / f"frame_{number}.png", 96, 64).pixels_CHW for number in range(9, 18)]
    vae = checkpoints.load_vae(weights / "vae.safetensors")
    latents = vae_encode(vae, torch.stack(loaded, dim=1)[None])[0]
    torch.testing.assert_close(sample["latents"], latents)
    assert latents.shape[1:] == (3, 8, 12)
    with torch.no_grad():
        torch.testing.assert_close(sample["condition"], reference_condition(vae, loaded[0], 3)[0])
        clip = checkpoints.load_image_encoder(weights / "image_encoder.safetensors")
        torch.testing.assert_close(sample["image_tokens"], image_tokens(clip, loaded[0])[0])
        hearing = checkpoints.load_speech_encoder(weights / "speech_encoder.safetensors")
        waveform = waveform_16k(folder / "audio.wav")[9 * 640 : 18 * 640]
        torch.testing.assert_close(sample["speech"], speech_states(hearing, waveform)[0])
        tokenizer = checkpoints.load_tokenizer(weights / "tokenizer")
        reading = checkpoints.load_text_encoder(weights / "text_encoder.safetensors")
        singing, empty = prompt_states(["The protagonist is singing", ""], tokenizer, reading)
    torch.testing.assert_close(sample["text"], singing)
    torch.testing.assert_close(read_null_text(tmp_path / "cache")["empty"], empty)

    # Left half face, lips everywhere; a latent on the edge has part of both.
    assert sample["face_mask"].dtype == torch.float16 and sample["face_mask"].shape == (3, 8, 12)
    assert (sample["face_mask"][..., :6] == 1).all() and (sample["face_mask"][..., 6:] == 0).all()
    assert (sample["lip_mask"] == 1).all()
    wanted = {"frames": 9, "fps": "25", "width": 96, "height": 64, "kind": "singing", "has_masks": True}
    assert {name: sample[name] for name in wanted} == wanted
    assert sample["prompt"] == "The protagonist is singing"
    assert samples["square/speech/00001", 0]["prompt"] == "The protagonist is talking"
    plain = samples["videos/talk.mkv", 0]
    assert not plain["has_masks"] and (plain["face_mask"] == 1).all() and plain["kind"] is None


def test_numbers_are_stored_as_asked(tmp_path: Path, encode: Encode, source: Path) -> None:
    encode(source / "square", tmp_path / "cache")
    for sample in footage.contents(tmp_path / "cache").values():
        for name in ("latents", "image_tokens", "text", "speech"):
            assert sample[name].dtype == torch.bfloat16


def test_encoding_again_does_nothing(tmp_path: Path, weights: Path, encode: Encode, source: Path) -> None:
    first = encode(source, tmp_path / "cache").data
    assert (first["clips"], first["encoded"], first["samples"]) == (3, 3, 4)
    before = {path: path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    again = encode(source, tmp_path / "cache").data
    assert (again["encoded"], again["known"], again["new_samples"], again["samples"]) == (0, 3, 0, 4)
    after = {path: path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert {path: data for path, data in after.items() if path.suffix != ".lock"} == {
        path: data for path, data in before.items() if path.suffix != ".lock"
    }


def test_nothing_to_do_loads_no_network(
    tmp_path: Path, weights: Path, encode: Encode, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from avatarctl.data.encode import encode as encode_here
    from avatarctl.progress import showing
    from avatarctl.settings.encode import EncodeJob, EncodeSettings

    encode(source, tmp_path / "cache")
    loads: list[str] = []
    original = checkpoints.load_network
    monkeypatch.setattr(checkpoints, "load_network", lambda *args: loads.append("one") or original(*args))
    settings = EncodeSettings(sizes=((64, 64), (96, 64)), window=3, starts="fixed")
    job = EncodeJob(source=source, cache=tmp_path / "cache", settings=settings, weights=weights, device="cpu")
    with showing("none") as silent:
        assert encode_here(job, silent).known == 3
        assert loads == []
        footage.video(source / "new.mkv", seed=9)
        assert encode_here(job, silent).encoded == 1
    assert loads == ["one"] * 4


NONE = {"clips": 0, "known": 0, "to_encode": 0, "passed_over": []}


def test_a_dry_run_counts_and_writes_nothing(tmp_path: Path, encode: Encode, source: Path) -> None:
    assert encode(source, tmp_path / "cache", "--dry-run").data == {**NONE, "clips": 3, "to_encode": 3}
    assert not (tmp_path / "cache").exists()
    encode(source / "square" / "speech", tmp_path / "cache")
    shutil.copytree(source / "square" / "speech", tmp_path / "more")
    footage.video(tmp_path / "more" / "new.mkv", seed=5)
    assert encode(tmp_path / "more", tmp_path / "cache", "--dry-run").data == {
        **NONE,
        "clips": 2,
        "known": 1,
        "to_encode": 1,
    }
    assert len(Index(tmp_path / "cache").clips) == 1


def test_only_what_changed_is_encoded(tmp_path: Path, encode: Encode, source: Path) -> None:
    cache = tmp_path / "cache"
    encode(source, cache)
    before = footage.by_source(cache)
    footage.video(source / "videos" / "talk.mkv", 18, seed=3)  # another one, and two windows
    footage.video(source / "videos" / "new.mkv", 9, seed=4)
    (source / "square" / "speech" / "00001.txt").write_text("A person is talking\n")
    again = encode(source, cache).data
    assert (again["encoded"], again["known"], again["samples"]) == (3, 1, 6)
    after = footage.by_source(cache)
    assert set(after) - set(before) == {("videos/talk.mkv", 9), ("videos/new.mkv", 0)}
    assert after["square/speech/00001", 0]["prompt"] == "A person is talking"
    assert not torch.equal(before["videos/talk.mkv", 0]["speech"], after["videos/talk.mkv", 0]["speech"])
    assert encode(source, cache).data["encoded"] == 0


def test_touched_and_moved_clips_are_known(tmp_path: Path, encode: Encode, source: Path) -> None:
    encode(source, tmp_path / "cache")
    (source / "videos" / "talk.mkv").touch()
    again = encode(source.rename(tmp_path / "elsewhere"), tmp_path / "cache").data
    assert (again["encoded"], again["known"], again["samples"]) == (0, 3, 4)


def test_another_clip_of_the_same_name_is_refused(tmp_path: Path, encode: Encode) -> None:
    for number in range(2):
        footage.video(tmp_path / f"shelf{number}" / "talk.mkv", seed=number)
    encode(tmp_path / "shelf0", tmp_path / "cache")
    before = footage.contents(tmp_path / "cache").keys()
    [[name, reason]] = encode(tmp_path / "shelf1", tmp_path / "cache").data["failed"]
    assert name == "talk.mkv" and "another clip of this name" in reason
    assert footage.contents(tmp_path / "cache").keys() == before


def test_a_list_names_clip_folders(tmp_path: Path, encode: Encode, source: Path) -> None:
    (source / "video_square_path.txt").write_text(f"square/speech/00001\n\n{source}/square/singing/00002\nnowhere/3\n")
    data = encode(source / "video_square_path.txt", tmp_path / "cache").data
    assert data["encoded"] == 2 and [name for name, _ in data["failed"]] == ["nowhere/3"]
    # The same clips found by walking have the same names.
    assert encode(source / "square", tmp_path / "other").data["encoded"] == 2
    again = encode(source, tmp_path / "cache").data
    assert (again["known"], again["encoded"]) == (2, 1)


def test_links_that_lead_back_are_not_followed(tmp_path: Path) -> None:
    footage.video(tmp_path / "in" / "deep" / "a.mkv")
    (tmp_path / "in" / "deep" / "up").symlink_to(tmp_path / "in")
    (tmp_path / "in" / ".hidden").mkdir()
    (tmp_path / "in" / ".hidden" / "b.mkv").touch()
    assert [clip.name for clip in discover(tmp_path / "in")] == ["deep/a.mkv"]


def test_keys_are_plain_and_differ(tmp_path: Path) -> None:
    names = ["a b.mp4", "a_b.mp4", "ä/b.mp4", "x" * 100 + "1.mp4", "x" * 100 + "2.mp4"]
    keys = [clip_at(tmp_path / name, name).key for name in names]
    assert len(set(keys)) == len(names)
    for key in keys:
        assert re.fullmatch(r"[A-Za-z0-9_]+-[0-9a-f]{10}", key) and len(key) < 80


def test_windows_overlap_by_the_stride(tmp_path: Path, encode: Encode) -> None:
    footage.video(tmp_path / "in" / "a.mkv", 20)
    encode(tmp_path / "in", tmp_path / "cache", "--stride", "4")
    assert sorted(start for _, start in footage.by_source(tmp_path / "cache")) == [0, 4, 8]
    encode(tmp_path / "in", tmp_path / "sparse", "--stride", "11")
    assert sorted(start for _, start in footage.by_source(tmp_path / "sparse")) == [0, 11]
    dense = footage.by_source(tmp_path / "cache")
    assert not torch.equal(dense["a.mkv", 0]["latents"], dense["a.mkv", 4]["latents"])


def test_short_clips_are_filled_up_or_left_out(tmp_path: Path, encode: Encode) -> None:
    footage.clip_folder(tmp_path / "in" / "00001", frames=6)
    assert encode(tmp_path / "in", tmp_path / "padded").data["encoded"] == 1
    [sample] = footage.contents(tmp_path / "padded").values()
    assert sample["frames"] == 6 and sample["latents"].shape[1] == 3
    footage.video(tmp_path / "in" / "long.mkv", 9, seed=1)
    data = encode(tmp_path / "in", tmp_path / "skipped", "--short", "skip").data
    assert data["skipped"] == [["00001", "shorter than a window of 9 pictures"]] and data["samples"] == 1
    again = encode(tmp_path / "in", tmp_path / "skipped", "--short", "skip").data
    assert again["skipped"] == data["skipped"] and again["known"] == 1


def test_pictures_without_sound_are_no_part_of_a_sample(tmp_path: Path, encode: Encode) -> None:
    footage.clip_folder(tmp_path / "in" / "00001", frames=20)
    footage.recording(tmp_path / "in" / "00001" / "audio.wav", 0.5)  # ends in the 13th picture
    encode(tmp_path / "in", tmp_path / "cache")
    assert list(footage.by_source(tmp_path / "cache")) == [("00001", 0)]


def test_each_clip_goes_to_its_aspect_and_keeps_its_rate(tmp_path: Path, encode: Encode) -> None:
    footage.video(tmp_path / "in" / "wide.mkv", size="192x120", fps="30000/1001")
    footage.video(tmp_path / "in" / "tall.mkv", size="100x120", fps="20")
    encode(tmp_path / "in", tmp_path / "cache")
    samples = footage.by_source(tmp_path / "cache")
    wide, tall = samples["wide.mkv", 0], samples["tall.mkv", 0]
    assert (wide["width"], wide["height"], wide["fps"]) == (96, 64, "30000/1001")
    assert (tall["width"], tall["height"], tall["fps"]) == (64, 64, "20")
    assert wide["speech"].shape[0] == 14 and tall["speech"].shape[0] == 22  # 0.3 s and 0.45 s at 50 a second


def test_one_rate_for_all(tmp_path: Path, encode: Encode) -> None:
    footage.clip_folder(tmp_path / "in" / "00001", frames=25)
    footage.video(tmp_path / "in" / "a.mkv", 50, fps="50")
    footage.pictures(tmp_path / "in" / "masks" / "a.face", 50, colour=255)
    footage.pictures(tmp_path / "in" / "masks" / "a.lip", 50, colour=0)
    encode(tmp_path / "in", tmp_path / "cache", "--fps", "20")
    samples = footage.by_source(tmp_path / "cache")
    assert set(samples) == {("00001", 0), ("00001", 9), ("a.mkv", 0), ("a.mkv", 9)}
    assert {each["fps"] for each in samples.values()} == {"20"}
    assert samples["a.mkv", 0]["has_masks"] and (samples["a.mkv", 9]["lip_mask"] == 0).all()


@pytest.mark.parametrize("own", ["50", "25", "30000/1001", "16"])
def test_numbered_pictures_are_chosen_as_ffmpeg_does(tmp_path: Path, own: str) -> None:
    from avatarctl.data.clips import source_picture

    number, _, below = own.partition("/")
    source = ["-f", "lavfi", "-i", f"color=black:size=16x16:rate={own}:duration={40 * int(below or 1) / int(number)}"]
    # Every picture's grey is its number.
    filters = "format=gray,geq=lum='N',fps=fps=24:start_time=0"
    command = [footage.imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *source, "-vf", filters]
    out = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", "gray", "-"], capture_output=True, check=True).stdout
    shown = np.frombuffer(out, np.uint8).reshape(-1, 256)[:, 0].tolist()
    wanted = [source_picture(place, Fraction(24), Fraction(own)) for place in range(len(shown))]
    assert shown == wanted and len(shown) > 15


def test_mask_videos_and_masks_of_another_size(tmp_path: Path, encode: Encode) -> None:
    footage.video(tmp_path / "in" / "a.mkv")
    white = f"color=white:size=48x32:rate=25:duration={9 / 25}"
    (tmp_path / "in" / "masks").mkdir()
    footage.ffmpeg("-f", "lavfi", "-i", white, "-pix_fmt", "yuv420p", str(tmp_path / "in" / "masks" / "a.face.mp4"))
    footage.pictures(tmp_path / "in" / "masks" / "a.lip", size=(48, 32), colour=255)
    encode(tmp_path / "in", tmp_path / "cache")
    [sample] = footage.contents(tmp_path / "cache").values()
    assert sample["masks"] == ["face", "lip"]
    assert (sample["lip_mask"] == 1).all() and (sample["face_mask"] > 0.99).all()
    [clip] = Index(tmp_path / "cache").clips.values()
    assert len(clip.facts["notes"]) == 2 and "48x32, resized to the pictures' 96x64" in clip.facts["notes"][0]


def test_masks_are_cropped_as_the_picture_is(tmp_path: Path, encode: Encode) -> None:
    """A sample of a wider clip shows its middle half; so do its masks, also those of another size."""
    folder = footage.clip_folder(tmp_path / "in" / "00001")
    for path in (folder / "lip_masks").iterdir():  # white in the middle third of a picture three times as wide as high
        mask = np.zeros((10, 30), np.uint8)
        mask[:, 10:20] = 255
        footage.Image.fromarray(mask).save(path)
    footage.pictures(folder / "images", size=(192, 64))
    footage.pictures(folder / "face_masks", size=(192, 64), colour=255)
    encode(tmp_path / "in", tmp_path / "cache")
    [sample] = footage.contents(tmp_path / "cache").values()
    # White from pixel 64 to 128 of 192, the crop is 48 to 144: latent columns 2 to 9 of 12.
    assert sample["lip_mask"].shape[-1] == 12
    assert (sample["lip_mask"][..., 2:10] == 1).all()
    assert sample["lip_mask"].sum() == sample["lip_mask"][..., 2:10].sum()


def test_rotated_videos_are_upright(tmp_path: Path) -> None:
    from avatarctl.data.clips import film_of, stream

    footage.video(tmp_path / "flat.mkv", size="96x64")
    footage.ffmpeg("-i", str(tmp_path / "flat.mkv"), "-map", "0:v", "-c", "copy", str(tmp_path / "flat.mp4"))
    footage.ffmpeg(
        "-display_rotation", "90", "-i", str(tmp_path / "flat.mp4"), "-c", "copy", str(tmp_path / "turned.mp4")
    )
    film = film_of(tmp_path / "turned.mp4")
    assert (film.width, film.height) == (64, 96)
    turned = next(stream(film, (64, 96), Fraction(25))).astype(int)
    flat = next(stream(film_of(tmp_path / "flat.mp4"), (96, 64), Fraction(25))).astype(int)
    differences = [abs(turned - np.rot90(flat, turns)).mean() for turns in (1, 3)]
    assert min(differences) < 2 < 20 < max(differences)
    wide = tmp_path / "wide.mp4"
    footage.ffmpeg("-i", str(tmp_path / "flat.mp4"), "-vf", "setsar=2/1", "-c:v", "libx264", str(wide))
    film = film_of(wide)
    assert (film.width, film.height, film.fps) == (192, 64, 25)
