"""Tests with clients that were written for the shape: the OpenAI SDK's video calls, and schemathesis over the document."""

from __future__ import annotations

import base64
import warnings
from pathlib import Path

import pytest
from running import PICTURE, VOICE, Running


def test_the_openai_sdk_makes_a_video(desk: Running, tmp_path: Path) -> None:
    openai = pytest.importorskip("openai", reason="the OpenAI SDK isn't installed")
    client = openai.OpenAI(base_url=f"{desk.address}/v1", api_key="none", max_retries=0)
    if not hasattr(client, "videos"):
        pytest.skip("this version of the OpenAI SDK has no videos")
    warnings.simplefilter("ignore", DeprecationWarning)
    voice = client.files.create(file=VOICE, purpose="user_data")
    more = {"audio": voice.id, "steps": 1, "seed": 3}
    with PICTURE.open("rb") as picture:
        video = client.videos.create(
            prompt="A person speaks.", model="puppet", seconds="0.4", input_reference=picture, extra_body=more
        )
    assert video.status in ("queued", "in_progress") and video.object == "video" and video.model == "puppet"
    video = client.videos.poll(video.id, poll_interval_ms=200)
    assert video.status == "completed" and video.progress == 100 and video.seconds == "0.4" and video.error is None
    client.videos.download_content(video.id).write_to_file(tmp_path / "v.mp4")
    assert (tmp_path / "v.mp4").read_bytes() == desk.content(video.id)
    assert client.videos.download_content(video.id, variant="thumbnail").read().startswith(b"\xff\xd8")
    assert client.videos.download_content(video.id, variant="spritesheet").read().startswith(b"\xff\xd8")
    assert video.id in [each.id for each in client.videos.list(limit=2)]  # over several pages
    assert "puppet" in [model.id for model in client.models.list()]
    url = "data:audio/wav;base64," + base64.b64encode(VOICE.read_bytes()).decode()
    other = client.videos.create(prompt="", model="puppet", seconds="0.4", extra_body={"audio": url, "steps": 1})
    assert client.videos.retrieve(other.id).id == other.id
    with pytest.raises(openai.BadRequestError, match="audio: missing"):
        client.videos.create(prompt="A person speaks.", model="puppet")
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve("video_000000000000000000000000")
    for each in (video.id, other.id):
        assert client.videos.delete(each).deleted is True


@pytest.mark.long
def test_no_request_of_schemathesis_is_a_bug(desk: Running) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis isn't installed")
    import requests
    from hypothesis import HealthCheck, given, settings

    schema = schemathesis.openapi.from_dict(desk.client.get("/openapi.json").json())
    seen: set[int] = set()
    count = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        if "/events" in operation.path:
            continue  # they don't end
        strategy = operation.as_strategy()

        @given(case=strategy)
        @settings(
            max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
        )
        def ask(case: object) -> None:
            nonlocal count
            try:
                answer = case.call(base_url=desk.address, timeout=60)  # type: ignore[attr-defined]
            except (requests.exceptions.InvalidURL, requests.exceptions.InvalidHeader, UnicodeError, ValueError):
                return  # what no client can send
            count += 1
            seen.add(answer.status_code)
            assert answer.status_code < 500 or answer.status_code in (501, 503, 507), (case, answer.text)

        ask()
    assert count > 500 and 200 in seen and 400 in seen and 404 in seen
    assert "Traceback" not in desk.log.read_text()
