"""Tests with prompts and pictures: what the encoders are fed with and unusable pictures are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import randomise, tiny_vae
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from avatarctl.errors import InputFileError, UsageError
from avatarctl.networks.conditions import image_tokens, prompt_states, reference_condition
from avatarctl.networks.dims import ImageDims, TextDims
from avatarctl.networks.images import load_image, pixels_of
from avatarctl.networks.kinds import build_image_encoder, build_text_encoder
from avatarctl.networks.vae import decode, encode

WORDS = {"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "person": 4, "sings": 5, "loudly": 6}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.WordLevel(WORDS, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="module")
def text_encoder() -> torch.nn.Module:
    model = build_text_encoder(TextDims(vocab=8, dim=16, dim_attn=16, dim_ffn=32, heads=2, layers=2)).eval()
    randomise(model, 0)
    return model


def test_prompts_give_their_real_tokens(tokenizer: PreTrainedTokenizerFast, text_encoder: torch.nn.Module) -> None:
    long, short, empty = prompt_states(["a person sings", "a", ""], tokenizer, text_encoder, text_len=10)
    assert [tuple(states.shape) for states in (long, short, empty)] == [(4, 16), (2, 16), (1, 16)]
    # Padding is masked: what stands beside a token does not change with the length it is padded to.
    again = prompt_states(["a person sings"], tokenizer, text_encoder, text_len=40)[0]
    assert torch.allclose(again, long, atol=1e-5)


def test_cut_prompt_says_what_is_lost(tokenizer: PreTrainedTokenizerFast, text_encoder: torch.nn.Module) -> None:
    with pytest.warns(UserWarning, match=r"got 5 tokens, expected at most 4; not read: 'loudly'"):
        states = prompt_states(["a person sings loudly"], tokenizer, text_encoder, text_len=4)
    assert states[0].shape[0] == 4


def test_image_tokens_ignore_only_the_last_layer() -> None:
    dims = ImageDims(dim=16, heads=2, layers=2, out_dim=8, image_size=28, patch=14, mlp_ratio=2)
    model = build_image_encoder(dims).eval()
    randomise(model, 0)
    picture = torch.rand(3, 40, 56) * 2 - 1
    tokens = image_tokens(model, picture)
    assert tokens.shape == (1, 5, 16)
    # Interpolated without antialiasing: a square of the encoder's size passes through unchanged.
    square = torch.nn.functional.interpolate(picture[None], size=(28, 28), mode="bicubic", align_corners=False)[0]
    assert torch.allclose(image_tokens(model, square), tokens, atol=1e-5)
    randomise(model.encoder.layers[1], 9)
    assert torch.equal(image_tokens(model, picture), tokens)
    randomise(model.encoder.layers[0], 9)
    assert not torch.allclose(image_tokens(model, picture), tokens)
    with pytest.raises(UsageError, match=r"expected \(3, H, W\)"):
        image_tokens(model, picture[None])


def test_reference_condition_is_the_picture_and_grey() -> None:
    vae = tiny_vae()
    picture = torch.rand(3, 16, 24) * 2 - 1
    condition = reference_condition(vae, picture, 3)
    assert condition.shape == (1, 20, 3, 2, 3)
    assert condition[:, :4, 0].eq(1).all() and condition[:, :4, 1:].eq(0).all()
    alone = encode(vae, picture[None, :, None])
    assert torch.allclose(condition[:, 4:, :1], alone, atol=1e-5)
    assert torch.equal(condition, reference_condition(vae, picture, 5)[:, :, :3])
    assert decode(vae, condition[:, 4:]).shape == (1, 3, 9, 16, 24)
    with pytest.raises(UsageError, match="0 latent frames"):
        reference_condition(vae, picture, 0)


# -- Pictures -------------------------------------------------------------------------------------------------------


def halves(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Left half red, right half blue."""
    picture = Image.new("RGB", (width, height), (255, 0, 0))
    picture.paste((0, 0, 255), (width // 2, 0, width, height))
    return picture.convert(mode)


def colour(pixels: torch.Tensor, row: int, column: int) -> list[int]:
    return [round(v) for v in ((pixels[:, row, column] + 1) * 127.5).tolist()]


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp", "tiff", "gif"])
def test_formats(tmp_path: Path, ending: str) -> None:
    halves(64, 64).save(tmp_path / f"p.{ending}", **({"quality": 100} if ending == "jpg" else {}))
    pixels, notes = load_image(tmp_path / f"p.{ending}", 64, 64)
    assert pixels.shape == (3, 64, 64) and pixels.dtype == torch.float32 and notes == ()
    assert np.allclose(colour(pixels, 32, 8), (255, 0, 0), atol=6)
    assert np.allclose(colour(pixels, 32, 56), (0, 0, 255), atol=6)


def test_orientation_is_honoured(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright: the left half of the file is the top
    halves(96, 64).save(tmp_path / "p.jpg", exif=exif, quality=100)
    pixels = load_image(tmp_path / "p.jpg", 64, 96).pixels_CHW
    assert np.allclose(colour(pixels, 8, 32), (255, 0, 0), atol=6)
    assert np.allclose(colour(pixels, 88, 32), (0, 0, 255), atol=6)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_on_white(tmp_path: Path, mode: str) -> None:
    picture = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (0, 0, 32, 64))
    picture.convert(mode).save(tmp_path / "p.png")
    pixels = load_image(tmp_path / "p.png", 64, 64).pixels_CHW
    assert colour(pixels, 32, 8) == [0, 0, 0]
    assert colour(pixels, 32, 56) == [255, 255, 255]


def test_sixteen_bit_greys_keep_their_range(tmp_path: Path) -> None:
    Image.fromarray(np.full((64, 64), 257 * 100, np.uint16)).save(tmp_path / "p.png")
    assert colour(load_image(tmp_path / "p.png", 64, 64).pixels_CHW, 5, 5) == [100, 100, 100]


def test_cover_crops_and_pad_keeps(tmp_path: Path) -> None:
    halves(256, 64).save(tmp_path / "p.png")
    cover, pad = (load_image(tmp_path / "p.png", 64, 64, fit).pixels_CHW for fit in ("cover", "pad"))
    assert colour(cover, 0, 10) == [255, 0, 0] and colour(cover, 63, 50) == [0, 0, 255]
    assert colour(pad, 0, 10) == [128, 128, 128]
    assert colour(pad, 32, 10) == [255, 0, 0]


def test_resize_is_pillows_bicubic(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 96, 3), np.uint8))
    noise.save(tmp_path / "p.png")
    expected = pixels_of(noise.resize((48, 40), Image.Resampling.BICUBIC))
    assert torch.equal(load_image(tmp_path / "p.png", 48, 40).pixels_CHW, expected)


def test_small_picture_warns(tmp_path: Path) -> None:
    halves(60, 64).save(tmp_path / "p.png")
    (note,) = load_image(tmp_path / "p.png", 128, 128).warnings
    assert "60x64, under half of 128x128" in note and str(tmp_path / "p.png") in note
    assert not load_image(tmp_path / "p.png", 120, 128).warnings


def test_unusable_pictures_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    halves(256, 256).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "n.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "n.jpg").read_bytes()[:900])
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "area.ppm").write_bytes(b"P6 0 5 255\n")
    halves(64, 64).save(tmp_path / "n.avif")
    bad = bytearray((tmp_path / "n.avif").read_bytes())
    bad[bad.index(b"iloc") : bad.index(b"iloc") + 4] = b"free"
    (tmp_path / "bad.avif").write_bytes(bad)
    cases = {
        "area.ppm": "not a picture",
        "bad.avif": "damaged or cut off",
        "missing.png": "no such file",
        "empty.png": "an empty file",
        "text.png": "not a picture",
        "cut.png": "damaged or cut off",
        "cut.jpg": "damaged or cut off",
        ".": "a folder",
    }
    for name, words in cases.items():
        with pytest.raises(InputFileError, match=words) as caught:
            load_image(tmp_path / name, 64, 64)
        assert str(tmp_path / name) in caught.value.message and caught.value.hint
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InputFileError, match="more than 3000 pixels"):
        load_image(tmp_path / "whole.png", 64, 64)
