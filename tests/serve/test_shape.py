"""Tests with clients that were written for the shape: the OpenAI SDK's video calls, and schemathesis over the document."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running import PICTURE, VOICE, Running, error_of, quick


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
def test_litellm_makes_a_video(desk: Running, tmp_path: Path) -> None:
    """LITELLM_PYTHON: a Python that has LiteLLM, where this one has not; it brings many packages along."""
    python = os.environ.get("LITELLM_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import litellm"], capture_output=True).returncode:
        pytest.skip("LiteLLM isn't installed")
    words = [f"{desk.address}/v1", str(PICTURE), str(VOICE), str(tmp_path)]
    program = Path(__file__).with_name("litellm_client.py")
    done = subprocess.run([python, str(program), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    made = [(tmp_path / f"{provider}.mp4").read_bytes() for provider in ("hosted_vllm", "openai")]
    assert made[0] == made[1] and made[0][4:8] == b"ftyp"


def test_a_recording_may_be_an_object_in_a_form(desk: Running) -> None:
    url = "data:audio/wav;base64," + base64.b64encode(VOICE.read_bytes()).decode()
    ways = (
        {"audio_reference": json.dumps({"audio_url": url})},
        {"audio": url},
        {"voice": json.dumps({"audio_url": {"url": url}})},
    )
    for way in ways:
        answer = desk.client.post("/v1/videos/estimate", data={"model": "puppet", "prompt": "data: and {", **way})
        assert answer.status_code == 200 and answer.json()["estimate"]["video_s"] > 4, answer.text
    strange = {"audio_reference": json.dumps({"audio_url": "https://example.com/a.wav"})}
    told = error_of(desk.client.post("/v1/videos/estimate", data={"model": "puppet", **strange}), 400)
    assert "the server fetches nothing" in told["message"]
    error_of(desk.client.post("/v1/videos/estimate", data={"model": "puppet", "audio": "{" * 5000}), 400)


@pytest.mark.long
def test_no_request_of_schemathesis_is_a_bug(own: Callable[..., Running]) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis isn't installed")
    import requests
    from hypothesis import HealthCheck, given, settings

    server = own()  # with the one preset that needs no weights: nothing may be answered with a 5xx
    name = server.create(**quick())["id"]
    server.until(name, "completed")
    schema = schemathesis.openapi.from_dict(server.client.get("/openapi.json").json())
    seen: Counter[tuple[str, int]] = Counter()
    examples = 20 if os.environ.get("CI") else 60
    for result in schema.get_all_operations():
        operation = result.ok()

        @given(case=operation.as_strategy())
        @settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
            database=None,
        )
        def ask(case: Any) -> None:
            if "video_id" in (case.path_parameters or {}) and case.method != "DELETE" and sum(seen.values()) % 2:
                case.path_parameters["video_id"] = name  # one that is there
            try:
                words = case.as_transport_kwargs(base_url=server.address)
                answer = requests.request(**words, timeout=60, stream="/events" in case.operation.path)
            except (requests.exceptions.InvalidURL, requests.exceptions.InvalidHeader, UnicodeError, ValueError):
                return  # what no client can send
            with answer:
                seen[case.operation.label, answer.status_code] += 1
                assert answer.status_code < 500, (case, answer.text)
                if answer.status_code >= 400:
                    assert set(answer.json()["error"]) == {"type", "message", "hint", "code"}, answer.text

        ask()
    codes = {code for _, code in seen}
    assert sum(seen.values()) > 15 * examples and {200, 400, 404} <= codes, seen
    assert "Traceback" not in server.log.read_text()
