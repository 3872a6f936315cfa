"""Tests with pretended clusters: what is asked of them, which inputs are sent, and workers of other versions."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from avatarctl.batch import cluster
from avatarctl.batch.cluster import WorkerPool, _resources, sees, versions
from avatarctl.errors import DeviceError, UsageError

GIB = 2**30


def ray_of(*nodes: dict[str, float]) -> Any:
    return SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": node} for node in nodes])


def planned(count: int, device: str) -> list[Any]:
    job = SimpleNamespace(placement=SimpleNamespace(device=device))
    one = SimpleNamespace(item=SimpleNamespace(job=job), takes=SimpleNamespace(memory_bytes=4 * GIB))
    return [one] * count


HEAD = {"CPU": 8.0, "memory": 64.0 * GIB}
GPUS = {"CPU": 16.0, "GPU": 4.0, "memory": 128.0 * GIB}
ON_GPU = {"num_gpus": 1, "num_cpus": 1}


def test_gpus_that_are_there_are_used() -> None:
    assert _resources(ray_of(HEAD, GPUS), planned(100, "auto"), None) == (4, ON_GPU)
    assert _resources(ray_of(HEAD, GPUS), planned(100, "cuda"), 6) == (6, ON_GPU), "two wait for nodes to come"


def test_gpus_that_are_wanted_are_asked_for_and_never_replaced_by_cpus(capfd: pytest.CaptureFixture[str]) -> None:
    assert _resources(ray_of(HEAD), planned(100, "cuda"), None) == (8, ON_GPU)
    assert _resources(ray_of(HEAD), planned(3, "cuda"), None) == (3, ON_GPU)
    assert _resources(ray_of(HEAD), planned(100, "cuda"), 20) == (20, ON_GPU)
    assert "asking for 20 and waiting" in capfd.readouterr().err


def test_auto_without_gpus_says_what_would_ask_for_them(capfd: pytest.CaptureFixture[str]) -> None:
    size, needs = _resources(ray_of(HEAD), planned(100, "auto"), None)
    assert size == 8 and "num_gpus" not in needs
    assert "--device cuda asks for GPUs" in capfd.readouterr().err
    with pytest.raises(DeviceError, match="got no node with"):
        _resources(ray_of({"CPU": 1.0, "memory": 1.0 * GIB}), planned(1, "cpu"), None)


def test_inputs_that_a_worker_does_not_see_are_sent(tmp_path: Path) -> None:
    for name in ("face.png", "voice.wav", "look.safetensors", "de.srt"):
        (tmp_path / name).touch()

    def item(**missing: str) -> Any:
        names = {
            "image": "face.png",
            "audio": "voice.wav",
            "lora": "look.safetensors",
            "subtitles": "de.srt",
            **missing,
        }
        paths = {kind: tmp_path / name for kind, name in names.items()}
        job = SimpleNamespace(
            image=paths["image"],
            audio=paths["audio"],
            lora=((paths["lora"], 1.0),),
            subtitles=(("deu", paths["subtitles"]),),
        )
        return SimpleNamespace(job=job)

    assert sees(item())
    for kind in ("image", "audio", "lora", "subtitles"):
        assert not sees(item(**{kind: "nothing"}))


def test_workers_of_another_version_are_refused(capfd: pytest.CaptureFixture[str]) -> None:
    pool = WorkerPool.__new__(WorkerPool)
    pool._told = set()
    pool._compare({"node": "a", **versions()})
    for _ in range(2):
        pool._compare({"node": "b", **versions(), "torch": "1.0"})
    said = capfd.readouterr().err
    assert said.count("the node b has torch 1.0") == 1
    with pytest.raises(UsageError, match=r"the node c has avatarctl 0\.0\.1, expected") as caught:
        pool._compare({"node": "c", **versions(), "avatarctl": "0.0.1"})
    assert str(caught.value.hint) == f"install it there: pip install avatarctl=={cluster.__version__}"
