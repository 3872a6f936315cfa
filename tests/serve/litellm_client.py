"""Make a video by LiteLLM's video calls, by both of its providers of this shape; test_shape.py runs it.

usage: litellm_client.py http://127.0.0.1:7860/v1 PICTURE VOICE FOLDER
"""

from __future__ import annotations

import base64
import os
import sys
import time
from pathlib import Path

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # asks nobody else

import httpx
import litellm


def main(base: str, picture: Path, voice: Path, folder: Path) -> None:
    """Make a video with each provider."""
    url = "data:audio/wav;base64," + base64.b64encode(voice.read_bytes()).decode()
    with voice.open("rb") as file:
        kept = httpx.post(f"{base}/files", files={"file": file}).raise_for_status().json()["id"]
    ways = {
        "hosted_vllm": {"audio_reference": {"audio_url": url}, "num_inference_steps": 1, "seed": 3},
        "openai": {"extra_body": {"audio": kept, "steps": 1, "seed": 3}},
    }
    place = {"api_base": base, "api_key": "none"}
    for provider, more in ways.items():
        with picture.open("rb") as file:
            video = litellm.video_generation(
                prompt="A person speaks.",
                model=f"{provider}/puppet",
                seconds="0.4",
                input_reference=file,
                **place,
                **more,
            )
        deadline = time.monotonic() + 120
        while video.status in ("queued", "in_progress") and time.monotonic() < deadline:
            time.sleep(0.2)
            video = litellm.video_status(video_id=video.id, **place)
        assert video.status == "completed" and video.progress == 100, video
        (folder / f"{provider}.mp4").write_bytes(litellm.video_content(video_id=video.id, **place))
        listed = litellm.video_list(custom_llm_provider=provider, **place)
        assert listed["object"] == "list" and listed["data"], listed


if __name__ == "__main__":
    main(sys.argv[1], *(Path(word) for word in sys.argv[2:]))
