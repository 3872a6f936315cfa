"""Tests with a real cluster of two nodes on this machine: batches in it: a node killed in the middle costs no video."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from desk import Bench
from served import free_port

from avatarctl.batch.cluster import ProgressBoard, Worker, _whole
from avatarctl.batch.history import item_state
from avatarctl.batch.payload import pack, unpack_video
from avatarctl.batch.plan import checked_of
from avatarctl.batch.run import look, run_batch
from avatarctl.batch.work import Outcome
from avatarctl.batch.worker import to_line
from avatarctl.commands.batch import batch_of
from avatarctl.errors import Interrupted, UsageError

ray = pytest.importorskip("ray")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def environment(studio: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the nodes' processes find."""
    settings = {"AVATARCTL_HOME": str(studio / "home"), "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    for name, value in {**settings, "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def cluster(environment: None) -> Iterator[Any]:
    """Two nodes of one core each; this process is connected."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    made.second = made.add_node(num_cpus=1)
    ray.init(made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()


def ask(bench: Bench, source: Path, *, on: str = "ray", **flags: Any) -> Any:
    """Return the batch over a folder of voices."""
    given = {"weights": bench.studio / "weights", **flags}
    preset = str(bench.studio / "tiny.yaml")
    return batch_of(
        source, bench.output, bench.studio / "face.png", "{stem}", preset, given, "2", on, False, {"retry": 2}
    )


def test_a_node_killed_in_the_middle_costs_no_video(bench: Bench, cluster: Any) -> None:
    source = bench.voices(1.2, 1.8, 1.2, 1.8, 1.2)
    asked = ask(bench, source, steps=6)
    own = ray.get_runtime_context().get_node_id()
    [victim] = [node for node in (cluster.head_node, cluster.second) if node.node_id != own]
    removed: list[dict[str, tuple[int, bytes]]] = []
    reports: list[tuple[int, int]] = []

    def show(done: int, total: int, **facts: Any) -> None:
        reports.append((done, total))
        # Both nodes are at work, and something is finished.
        if not removed and len(list(bench.output.glob("*.render"))) == 2 and bench.records():
            removed.append(bench.records())
            cluster.remove_node(victim, allow_graceful=False)

    summary = run_batch(asked, show)
    assert removed, "the node outlived the work"
    assert summary["counts"] == {"done": 5} and len(reports) > 5
    assert sum(row["attempts"] for row in summary["items"]) > 5, "the node's item was not tried again"
    now = bench.records()
    assert all(now[name] == known for name, known in removed[0].items()), "a finished video was made twice"
    made = {path.name: path.read_bytes() for path in bench.output.glob("*.mp4")}
    bench.output.rename(bench.folder / "cluster")
    assert bench.run(source, "--steps", "6").status == 0
    assert made == {path.name: path.read_bytes() for path in bench.output.glob("*.mp4")}


def test_a_machine_with_storage_of_its_own_gets_the_inputs_and_sends_the_video(
    bench: Bench, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AVATARCTL_HOME", str(bench.folder / "elsewhere"))
    source = bench.voices(0.68)
    [planned] = look(ask(bench, source, contact_sheet_every_s=0.2))[0].run
    item = _whole(planned.item)
    worker = Worker(str(bench.folder / "no-such-file"), "mark")
    line = to_line(item, False)
    assert worker.make(line, None, None)["outcome"]["state"] == "elsewhere"
    hidden = source.rename(bench.folder / "hidden")
    packed = pack(_at(item, hidden))
    answer = worker.make(line, packed, ray.remote(ProgressBoard).remote())
    assert Outcome(**answer["outcome"]).state == "done", answer
    hidden.rename(source)
    unpack_video(item, answer["video"])
    assert item_state(item, checked_of(item)).state == "finished"
    assert item.job.output.with_suffix(".jpg").exists()
    assert not list((bench.folder / "elsewhere" / "cache" / "batch").iterdir())


def _at(item: Any, folder: Path) -> Any:
    """Return an item whose recording lies in another folder."""
    job = item.job.model_copy(update={"audio": folder / item.job.audio.name})
    return dataclasses.replace(item, job=job)


def test_ctrl_c_saves_everything_in_the_cluster_too(bench: Bench, cluster: Any) -> None:
    source = bench.voices(1.8, 1.8, 1.8)
    asked = ask(bench, source, steps=8)

    asked_to_stop = []

    def show(done: int, total: int, **facts: Any) -> None:
        if not asked_to_stop and len(list(bench.output.glob("*.render/frontier/*"))) >= 2:
            asked_to_stop.append(done)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted) as found:
        run_batch(asked, show)
    assert found.value.exit_code == 130 and "stopped" in found.value.data["counts"]
    events = "".join(path.read_text() for path in bench.output.glob("*.render/events.jsonl"))
    assert '"interrupted"' in events
    assert bench.run(source, "--steps", "8").status == 0


def test_a_cluster_is_reached_from_a_machine_outside_of_it(bench: Bench, environment: None) -> None:
    """As the help has it: --on ray://HOST:PORT, the port of Ray's client server."""
    from ray.cluster_utils import Cluster

    port = free_port()
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "ray_client_server_port": port})
    try:
        ended = bench.run(bench.voices(0.68), "--on", f"ray://127.0.0.1:{port}")
    finally:
        made.shutdown()
    assert ended.status == 0, ended.err
    assert bench.states() == {"v00.mp4": "done"} and (bench.output / "v00.mp4").exists()


def test_without_ray_the_error_says_what_to_install(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError) as found:
        run_batch(ask(bench, bench.voices(0.68)), lambda done, total, **facts: None)
    assert found.value.hint == "pip install 'avatarctl[cluster]'"


@pytest.mark.long  # it takes Ray half a minute to give up
def test_a_cluster_that_is_not_there(bench: Bench) -> None:
    ended = bench.run(bench.voices(0.68), "--on", "ray://127.0.0.1:9")
    assert ended.status == 8 and "can't be reached" in ended.err
