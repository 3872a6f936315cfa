"""Tests of every verb of the API, as a client uses them: what is made is what `generate` makes."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest
from running import PICTURE, VOICE, Running, error_of, events, quick, wait_for

from avatarctl.serve.measuring import can_measure


def decoded(path: Path, sound: bool = True) -> bytes:
    """Return the checksums of all decoded pictures and, if wanted, of the sound, each with its time."""
    tracks = ["-map", "0:v", *(["-map", "0:a"] if sound else [])]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), *tracks, "-f", "framemd5", "-"]
    rows = subprocess.run(command, capture_output=True, check=True).stdout.splitlines()
    return b"\n".join(row.split(b",", 1)[0] + row.rsplit(b",", 1)[1] for row in rows if not row.startswith(b"#"))


@pytest.fixture(scope="module")
def made(desk: Running) -> dict[str, Any]:
    """A finished video."""
    return desk.until(desk.create(**quick(seconds="0.8", steps="2", user="ada"))["id"], "completed")


def test_a_video_is_that_of_generate(
    desk: Running, made: dict[str, Any], straight: Callable[..., bytes], tmp_path: Path
) -> None:
    wanted = straight(tmp_path / "v.mp4", "-a", str(VOICE), "--duration", "0.8", "--steps", "2", "--size", "64x64")
    assert desk.content(made["id"]) == wanted


def test_the_object_says_what_was_asked_and_what_came_out(made: dict[str, Any]) -> None:
    assert made["object"] == "video" and made["model"] == "puppet" and made["progress"] == 100
    assert made["seconds"] == "0.8" and made["size"] == "64x64" and made["error"] is None
    detail = made["detail"]
    assert detail["user"] == "ada" and detail["settings"] == {"duration": "0.8", "steps": "2", "size": "64x64"}
    assert detail["names"] == {"image": "picture.png", "audio": "voice.wav"}
    assert detail["notes"] == [] and detail["video_size"] == "256x256" and detail["wall_s"] > 0
    assert made["created_at"] <= made["completed_at"]


def test_content_has_ranges_and_pictures(desk: Running, made: dict[str, Any]) -> None:
    path = f"/v1/videos/{made['id']}/content"
    whole = desk.client.get(path)
    assert whole.headers["content-type"] == "video/mp4"
    part = desk.client.get(path, headers={"Range": "bytes=100-199"})
    assert part.status_code == 206 and part.content == whole.content[100:200]
    assert part.headers["content-range"] == f"bytes 100-199/{len(whole.content)}"
    last = desk.client.get(path, headers={"Range": "bytes=-10"})
    assert last.content == whole.content[-10:]
    for asked, code in (("bytes=999999999-", 416), ("pictures=1-2", 400)):
        assert asked in error_of(desk.client.get(path, headers={"Range": asked}), code)["message"]
    assert desk.client.head(path).headers["content-length"] == str(len(whole.content))
    for variant in ("thumbnail", "spritesheet"):
        picture = desk.client.get(path, params={"variant": variant})
        assert picture.headers["content-type"] == "image/jpeg" and picture.content.startswith(b"\xff\xd8\xff")
    assert (
        'attachment; filename="video_' in desk.client.get(path, params={"download": "1"}).headers["content-disposition"]
    )


def test_json_with_ids_and_data_urls(desk: Running) -> None:
    with VOICE.open("rb") as file:
        kept = desk.client.post("/v1/files", files={"file": file}, data={"purpose": "user_data"}).json()
    assert (
        kept["kind"] == "audio" and kept["duration_s"] == pytest.approx(5, abs=0.5) and kept["filename"] == "voice.wav"
    )
    picture = "data:image/png;base64," + base64.b64encode(PICTURE.read_bytes()).decode()
    wish = {**quick(), "input_reference": {"image_url": picture}, "audio": kept["id"], "extra_params": {"seed": 7}}
    answer = desk.client.post("/v1/videos", json=wish)
    assert answer.status_code == 200, answer.text
    assert answer.json()["seed"] == 7
    desk.until(answer.json()["id"], "completed")
    assert desk.client.delete(f"/v1/files/{kept['id']}").json()["deleted"] is True
    error_of(desk.client.get(f"/v1/files/{kept['id']}"), 404)


def test_names_of_other_servers_mean_the_same(desk: Running) -> None:
    wish = {"model": "puppet", "num_inference_steps": "3", "guidance_scale": "1.5", "num_frames": "10", "width": "64"}
    with VOICE.open("rb") as file:
        answer = desk.client.post("/v1/videos/estimate", data={**wish, "height": "64"}, files={"audio": file})
    assert answer.status_code == 200, answer.text
    assert answer.json()["estimate"]["window_steps"] == 3 and answer.json()["estimate"]["pictures"] == 10


def test_lists_in_pages(desk: Running, made: dict[str, Any]) -> None:
    desk.create(**quick())
    whole = desk.client.get("/v1/videos", params={"limit": 1000, "order": "asc"}).json()
    names = [each["id"] for each in whole["data"]]
    assert made["id"] in names and whole["has_more"] is False
    first = desk.client.get("/v1/videos", params={"limit": 1, "order": "asc"}).json()
    assert first["data"][0]["id"] == names[0] and first["has_more"] is True and first["last_id"] == names[0]
    rest = desk.client.get("/v1/videos", params={"limit": 1000, "order": "asc", "after": names[0]}).json()
    assert [each["id"] for each in rest["data"]] == names[1:]
    assert desk.client.get("/v1/videos", params={"limit": 1}).json()["data"][0]["id"] == names[-1]


def test_the_same_key_is_the_same_video(desk: Running) -> None:
    def ask(key: str, **fields: str) -> Any:
        with VOICE.open("rb") as file:
            return desk.client.post(
                "/v1/videos", data=quick(**fields), files={"audio": file}, headers={"Idempotency-Key": key}
            )

    first, again = ask("k1"), ask("k1")
    assert first.json()["id"] == again.json()["id"] and again.headers["idempotent-replayed"] == "true"
    assert error_of(ask("k1", seed="5"), 422)["type"] == "idempotency_error"
    assert ask("k2").json()["id"] != first.json()["id"]
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(ask("k3"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({each.json()["id"] for each in answers if each.status_code == 200}) == 1
    assert {each.status_code for each in answers} <= {200, 409}


def test_paused_moved_resumed_cancelled_deleted(own: Callable[..., Running]) -> None:
    desk = own()
    busy = desk.create(**quick(seconds="2", steps="12"))["id"]
    desk.until(busy, "in_progress")
    one, two, three = (desk.create(**quick(seed=str(n)))["id"] for n in range(3))
    assert desk.post(f"/v1/videos/{three}/move", to="first")["detail"]["position"] == 1
    assert desk.post(f"/v1/videos/{one}/move", after=two)["detail"]["position"] == 3
    assert desk.post(f"/v1/videos/{one}/move", before=two)["detail"]["position"] == 2
    assert desk.post(f"/v1/videos/{two}/pause")["detail"]["state"] == "paused"
    assert desk.post(f"/v1/videos/{two}/pause")["status"] == "queued"
    cancelled = desk.post(f"/v1/videos/{one}/cancel")
    assert cancelled["status"] == "failed" and cancelled["error"]["code"] == "cancelled"
    error_of(desk.client.post(f"/v1/videos/{one}/pause"), 409)
    error_of(desk.client.post(f"/v1/videos/{busy}/move", json={"to": "last"}), 409)
    assert desk.post(f"/v1/videos/{busy}/pause")["detail"]["state"] == "pausing"
    desk.until(three, "completed")  # the worker that was freed takes it
    assert desk.get(busy)["detail"]["state"] == "paused"
    error_of(desk.client.post(f"/v1/videos/{three}/cancel"), 409)
    desk.post(f"/v1/videos/{busy}/resume")
    desk.post(f"/v1/videos/{one}/resume")
    for name in (busy, one):
        desk.until(name, "completed")
    told = [json.loads(line)["event"] for line in (desk.folder / busy / "events.jsonl").read_text().splitlines()]
    verbs = [each for each in told if each != "render"]
    assert verbs == ["queued", "started", "paused", "stopped", "resumed", "started", "completed"]
    assert desk.client.delete(f"/v1/videos/{two}").json() == {"id": two, "object": "video.deleted", "deleted": True}
    error_of(desk.client.get(f"/v1/videos/{two}"), 404)
    wait_for(lambda: not (desk.folder / two).exists())


def test_one_at_work_is_deleted_once_it_has_stopped(desk: Running) -> None:
    name = desk.create(**quick(seconds="4", steps="8"))["id"]
    desk.until(name, "in_progress")
    wait_for((desk.folder / name / "video.mp4.render").exists)
    desk.client.delete(f"/v1/videos/{name}")
    error_of(desk.client.get(f"/v1/videos/{name}/content"), 404)
    wait_for(lambda: not (desk.folder / name).exists())


def test_events_come_again_from_where_a_client_was(desk: Running) -> None:
    name = desk.create(**quick())["id"]
    with desk.client.stream("GET", f"/v1/videos/{name}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        whole = events(stream.read().decode())
    numbered = [(number, kind) for number, kind, _ in whole if number]
    assert [int(number) for number, _ in numbered] == list(range(1, len(numbered) + 1))
    assert numbered[0][1] == "queued" and numbered[-1][1] == "completed"
    assert {"started", "finished"} <= {content["render"]["event"] for _, kind, content in whole if kind == "render"}
    assert [content["status"] for _, kind, content in whole if kind == "progress"][-1] == "completed"
    middle = numbered[2][0]
    for strange in ("\xb2", "-1", "x"):  # no number: all events, as for a client that comes first
        with desk.client.stream(
            "GET", f"/v1/videos/{name}/events", headers={"Last-Event-ID": strange.encode("latin-1")}
        ) as stream:
            assert stream.status_code == 200 and events(stream.read().decode())[0][1] == "queued"
    with desk.client.stream("GET", f"/v1/videos/{name}/events", headers={"Last-Event-ID": middle}) as stream:
        rest = events(stream.read().decode())
    assert [number for number, _, _ in rest if number] == [number for number, _ in numbered[3:]]


def test_all_events_begin_with_what_there_is(desk: Running, made: dict[str, Any]) -> None:
    with desk.client.stream("GET", "/v1/events") as stream:
        text = ""
        for part in stream.iter_text():
            text += part
            if "event: ready" in text:
                break
    found = events(text)
    assert made["id"] in {content["id"] for _, kind, content in found if kind == "video"}


def test_presets_health_and_numbers(desk: Running) -> None:
    models = {each["id"]: each for each in desk.client.get("/v1/models").json()["data"]}
    assert next(iter(models)) == "puppet" and models["puppet"]["ready"] and models["puppet"]["own_picture"]
    assert not models["square"]["ready"] and "avatarctl fetch" in models["square"]["lacks"]
    assert desk.client.get("/v1/models/puppet").json()["id"] == "puppet"
    assert desk.client.get("/health").json()["status"] == "ok"
    numbers = desk.client.get("/metrics").text
    assert 'avatarctl_jobs{state="done"}' in numbers and "avatarctl_http_requests_total" in numbers
    assert desk.client.get("/openapi.json").json()["info"]["title"] == "avatarctl"


def test_the_live_view_plays_while_it_is_rendered_and_after(desk: Running, tmp_path: Path) -> None:
    from avatarctl.render.video import inspect

    name = desk.create(**quick(seconds="4", steps="4", segment_latent_frames="5", checkpoint_every="0"))["id"]
    base = f"/v1/videos/{name}/live"
    parts: list[bytes] = []

    def take(number: int) -> None:
        answer = desk.client.get(f"{base}/{number}.m4s")
        assert answer.status_code == 200, answer.text
        parts.append(answer.content)

    first = wait_for(lambda: (a := desk.client.get(f"{base}/media.m3u8")).status_code == 200 and a.text)
    assert "#EXT-X-PLAYLIST-TYPE:EVENT" in first
    init = desk.client.get(f"{base}/init.mp4").content
    while True:
        text = desk.client.get(f"{base}/media.m3u8").text
        while len(parts) < text.count(".m4s"):
            take(len(parts))
        if "#EXT-X-ENDLIST" in text:
            break
        time.sleep(0.1)
    assert 'CODECS="avc1.' in desk.client.get(f"/v1/videos/{name}/live.m3u8").text
    desk.until(name, "completed")
    (tmp_path / "live.mp4").write_bytes(init + b"".join(parts))
    (tmp_path / "video.mp4").write_bytes(desk.content(name))
    live, video = inspect(tmp_path / "live.mp4"), inspect(tmp_path / "video.mp4")
    assert live.pictures == video.pictures == 100 and live.audio_codec == "aac"
    assert live.audio_s == pytest.approx(video.audio_s, abs=0.1)
    again = [desk.client.get(f"{base}/{number}.m4s").content for number in range(len(parts))]
    (tmp_path / "again.mp4").write_bytes(init + b"".join(again))
    # What was cut from segments is what is cut from the video, and is the video.
    assert decoded(tmp_path / "again.mp4") == decoded(tmp_path / "live.mp4")
    assert decoded(tmp_path / "live.mp4", sound=False) == decoded(tmp_path / "video.mp4", sound=False)
    error_of(desk.client.get(f"{base}/{len(parts)}.m4s"), 404)


def test_a_finished_video_is_measured(desk: Running, made: dict[str, Any]) -> None:
    answer = desk.client.post(f"/v1/videos/{made['id']}/evaluate")
    if not can_measure():
        error_of(answer, 501)
        return
    assert answer.json()["detail"]["measuring"] is True
    row = wait_for(lambda: desk.get(made["id"])["detail"]["evaluation"], 300)
    assert row and all(isinstance(value, str | int | float | bool) for value in row.values())
    assert "error" not in row, row
