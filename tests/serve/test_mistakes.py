"""Tests with requests that can't be right: each has a code, the one shape, a message that names the thing; nothing is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from running import PICTURE, VOICE, Running, error_of, quick


def ask(desk: Running, fields: dict[str, Any], picture: Any = PICTURE, voice: Any = VOICE) -> Any:
    files = {}
    for name, source in (("image", picture), ("audio", voice)):
        if source is not None:
            files[name] = (f"{name}.bin", source.read_bytes() if isinstance(source, Path) else source)
    return desk.client.post("/v1/videos", data=fields, files=files)


MISTAKES = [
    ({"stepz": "3"}, 400, "stepz: unknown setting, did you mean steps?"),
    ({"steps": "many"}, 400, "steps (in the request): got 'many'"),
    ({"steps": "0"}, 400, "steps (in the request)"),
    ({"size": "65x65"}, 400, "size (in the request): got 65x65"),
    ({"seconds": "-1"}, 400, "duration (in the request)"),
    ({"guidance": "louder"}, 400, "guidance (in the request): got 'louder'"),
    ({"guidance": "[1"}, 400, "guidance: got '[1', expected JSON"),
    ({"guidance_interval": "[0.9, 0.1]"}, 400, "guidance_interval"),
    ({"seed": "1e999"}, 400, "seed"),
    ({"seed": str(2**63)}, 400, "seed"),
    ({"model": "pupet"}, 400, "did you mean puppet?"),
    ({"model": "puppet", "preset": "square"}, 400, "expected one of them"),
    ({"weights": "/etc"}, 400, "weights: is for the operator of this server to choose"),
    ({"device": "cuda"}, 400, "device: is for the operator"),
    ({"subtitles": "de:/etc/passwd"}, 400, "subtitles: is for the operator"),
    ({"lora": "/etc/passwd"}, 400, "lora: got '/etc/passwd', expected none"),
    ({"image": "/etc/passwd"}, 400, "image: got it twice"),
    ({"n": "2"}, 400, "n: expected 1"),
    ({"audio_reference": '{"audio_url": "https://example.com/a.wav"}'}, 400, "expected one of them"),
    ({"extra_params": "[1]"}, 400, "extra_params: got '[1]', expected an object"),
    ({"extra_params": '{"steps": 2}', "num_inference_steps": "3", "steps": "2"}, 400, "expected one of them"),
    ({"start": "99"}, 400, "start"),
    ({"model": "square"}, 503, "model: got square, expected one whose weights are there"),
]


@pytest.mark.parametrize(("fields", "code", "words"), MISTAKES, ids=lambda value: str(value)[:40])
def test_a_setting_that_cannot_be(desk: Running, fields: dict[str, str], code: int, words: str) -> None:
    before = desk.all()
    told = error_of(ask(desk, {**({} if "model" in fields else {"model": "puppet"}), **fields}), code)
    assert words in told["message"], told
    assert told["hint"]
    assert str(desk.folder) not in str(told)
    assert desk.all() == before


def test_all_mistakes_are_said_together(desk: Running) -> None:
    told = error_of(ask(desk, {"model": "pupet", "stepz": "3", "device": "cpu"}, voice=None), 400)
    assert all(word in told["message"] for word in ("pupet", "stepz", "device", "audio: missing"))


@pytest.mark.parametrize(
    ("picture", "voice", "words"),
    [
        (VOICE, VOICE, "not a picture"),
        (PICTURE, PICTURE, "expected a recording"),
        (b"", VOICE, "empty file"),
        (PICTURE, b"", "empty file"),
        (PICTURE.read_bytes()[:900], VOICE, "cut off"),
        (PICTURE, b"#EXTM3U\nhttp://127.0.0.1:1/x.ts\n", "can't be decoded"),
        (PICTURE, b"ffconcat version 1.0\nfile /etc/passwd\n", "can't be decoded"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>", VOICE, "SVG"),
        (PICTURE, None, "audio: missing"),
    ],
)
def test_a_file_that_cannot_be_used(desk: Running, picture: Any, voice: Any, words: str) -> None:
    told = error_of(ask(desk, quick(), picture, voice), 400)
    assert words in told["message"] and str(desk.folder) not in str(told), told
    spool = desk.folder / ".avatarctl-serve" / "spool"
    assert not [path for path in spool.iterdir() if path.suffix == ".part"]


def test_a_picture_is_needed_where_the_preset_has_none(desk: Running) -> None:
    assert "image: missing" in error_of(ask(desk, {"model": "square"}, picture=None), 400)["message"]


def test_bodies_that_cannot_be_read(desk: Running) -> None:
    post = desk.client.post
    error_of(post("/v1/videos", content=b"{", headers={"Content-Type": "application/json"}), 400)
    error_of(post("/v1/videos", content=b"[]", headers={"Content-Type": "application/json"}), 400)
    error_of(post("/v1/videos", content=b'"' + b"[" * 200000, headers={"Content-Type": "application/json"}), 400)
    error_of(post("/v1/videos", content=b"\xff\xfe", headers={"Content-Type": "application/json"}), 400)
    error_of(post("/v1/videos", content=b"x", headers={"Content-Type": "text/csv"}), 415)
    error_of(post("/v1/videos", content=b"x", headers={"Content-Type": "multipart/form-data"}), 400)
    half = b'--b\r\nContent-Disposition: form-data; name="audio"; filename="a"\r\n\r\nhalf'
    error_of(post("/v1/videos", content=half, headers={"Content-Type": "multipart/form-data; boundary=b"}), 400)
    error_of(post("/v1/videos", json={"audio": "data:audio/wav;base64,***"}), 400)
    error_of(post("/v1/videos", json={"audio": "https://example.com/a.wav"}), 400)
    error_of(post("/v1/videos", json={"audio": "file_" + "0" * 24}), 400)
    error_of(post("/v1/videos", json={"audio": ["x"]}), 400)
    error_of(post("/v1/files", files={"other": b"x"}), 400)


@pytest.mark.parametrize("name", ["video_" + "0" * 24, "video_..", "%2e%2e", "video_%2e%2e", "x" * 300])
def test_no_such_video(desk: Running, name: str) -> None:
    for path in ("", "/content", "/events", "/live.m3u8", "/live/media.m3u8", "/live/init.mp4", "/live/0.m4s"):
        assert desk.client.get(f"/v1/videos/{name}{path}").status_code == 404
    assert desk.client.delete(f"/v1/videos/{name}").status_code in (404, 405)


def paused(desk: Running) -> str:
    """Return a video that is paused before its render begins: it stands behind one that keeps the worker busy."""
    busy = desk.create(**quick(seconds="4", steps="40"))["id"]
    name = desk.create(**quick())["id"]
    desk.post(f"/v1/videos/{name}/pause")
    desk.client.delete(f"/v1/videos/{busy}")
    assert desk.get(name)["detail"]["state"] == "paused" and not (desk.folder / name / "video.mp4.render").exists()
    return name


def test_not_in_this_state(desk: Running) -> None:
    name = paused(desk)
    error_of(desk.client.get(f"/v1/videos/{name}/content"), 409)
    error_of(desk.client.get(f"/v1/videos/{name}/content", params={"variant": "spritesheet"}), 409)
    error_of(desk.client.get(f"/v1/videos/{name}/live.m3u8"), 425)
    error_of(desk.client.get(f"/v1/videos/{name}/content", params={"variant": "poster"}), 400)
    for wish in ({}, {"to": "middle"}, {"to": "first", "before": name}, {"before": 3}, {"nonsense": 1}):
        error_of(desk.client.post(f"/v1/videos/{name}/move", json=wish), 400)
    error_of(desk.client.post(f"/v1/videos/{name}/move", json={"before": name}), 400)
    error_of(desk.client.post(f"/v1/videos/{name}/move", json={"before": "video_" + "1" * 24}), 404)
    desk.client.delete(f"/v1/videos/{name}")


def test_other_verbs_and_places(desk: Running) -> None:
    assert error_of(desk.client.put("/v1/videos"), 405)["hint"]
    error_of(desk.client.get("/nowhere"), 404)
    error_of(desk.client.get("/page/../jobs.py"), 404)
    error_of(desk.client.get("/v1/videos", params={"limit": "0"}), 400)
    error_of(desk.client.get("/v1/videos", params={"limit": "many"}), 400)
    error_of(desk.client.get("/v1/videos", params={"order": "odd"}), 400)
    error_of(desk.client.get("/v1/videos", params={"after": "video_nobody"}), 400)
    error_of(desk.client.get("/v1/models/nobody"), 404)
    error_of(desk.client.get("/v1/files/file_..%2fx"), 404)


def test_a_job_that_fails_says_why_and_can_be_tried_again(desk: Running) -> None:
    name = paused(desk)
    voice = next((desk.folder / name).glob("audio*"))
    content = voice.read_bytes()
    voice.unlink()
    desk.post(f"/v1/videos/{name}/resume")
    failed = desk.until(name, "failed")
    assert "no such file" in failed["error"]["message"] and failed["error"]["type"] == "invalid_input_error"
    voice.write_bytes(content)
    desk.post(f"/v1/videos/{name}/resume")
    desk.until(name, "completed")
