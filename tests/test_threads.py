"""Show that waiting threads sleep, that cores are counted as this process may use them, and that resuming keeps their number."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from avatarctl import threads

ROOT = Path(__file__).parents[1]
TELL = "import avatarctl, os, torch; print(os.environ.get('OMP_WAIT_POLICY'), torch.get_num_threads())"


def told(code: str, **environment: str) -> list[str]:
    """Return the words that a fresh Python prints, without the OpenMP variables of this one."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "_AVATARCTL"))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**own, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_waiting_threads_sleep_and_as_many_compute_as_there_are_cores() -> None:
    assert told(TELL) == ["passive", str(threads.usable_cores())]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"OMP_NUM_THREADS": "1"}, ["passive", "1"]),
        ({"OMP_WAIT_POLICY": "active", "OMP_NUM_THREADS": "1"}, ["active", "1"]),
        ({"GOMP_SPINCOUNT": "10", "OMP_NUM_THREADS": "1"}, ["None", "1"]),
        # Processes of a launcher share the cores.
        ({"LOCAL_WORLD_SIZE": "4096"}, ["passive", "1"]),
        # What this package set in the parent is no choice of the user's: it is made again.
        ({"OMP_NUM_THREADS": "77", threads.MARK: "77"}, ["passive", str(threads.usable_cores())]),
    ],
)
def test_what_the_user_set_stays(environment: dict[str, str], expected: list[str]) -> None:
    assert told(TELL, **environment) == expected


@pytest.mark.parametrize(
    "module", ["avatarctl.cli", "avatarctl.batch.worker", "avatarctl.render", "avatarctl.training"]
)
def test_every_way_in_chooses_before_torch(module: str) -> None:
    code = f"import {module}, os, sys; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    assert told(code) == ["passive", "False"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_affinity_counts() -> None:
    assert told(f"import os; os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}}); {TELL}") == ["passive", "1"]


def test_physical_cores_are_counted(tmp_path: Path) -> None:
    for cpu, siblings in ((0, "0,2"), (1, "1,3"), (2, "0,2"), (3, "1,3")):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings + "\n")
    assert threads.physical_cores({0, 1, 2, 3}, tmp_path) == 2
    assert threads.physical_cores({0, 2}, tmp_path) == 1
    assert threads.physical_cores({0, 1, 7}, tmp_path) == 3  # of one the system tells nothing


def test_quotas_of_all_levels_count(tmp_path: Path) -> None:
    groups, mount = tmp_path / "cgroup", tmp_path / "mount"
    (mount / "outer" / "inner").mkdir(parents=True)
    groups.write_text("0::/outer/inner\n")
    assert threads.cpu_quota(groups, mount) is None
    (mount / "outer" / "inner" / "cpu.max").write_text("max 100000\n")
    assert threads.cpu_quota(groups, mount) is None
    (mount / "outer" / "cpu.max").write_text("250000 100000\n")
    assert threads.cpu_quota(groups, mount) == 2.5


def test_quotas_of_the_first_version_count(tmp_path: Path) -> None:
    groups, mount = tmp_path / "cgroup", tmp_path / "mount"
    (mount / "cpu,cpuacct").mkdir(parents=True)
    groups.write_text("5:memory:/m\n4:cpu,cpuacct:/docker/abc\n")
    for name, value in (("cpu.cfs_quota_us", "150000"), ("cpu.cfs_period_us", "100000")):
        (mount / "cpu,cpuacct" / name).write_text(value + "\n")
    assert threads.cpu_quota(groups, mount) == 1.5  # the container's own group is the root of what it sees
    (mount / "cpu,cpuacct" / "cpu.cfs_quota_us").write_text("-1\n")
    assert threads.cpu_quota(groups, mount) is None


@pytest.mark.long
def test_a_render_is_resumed_with_the_threads_it_began_with(tmp_path: Path) -> None:
    """One thread and several round differently; interrupted with one and resumed with two, the video is that of one."""

    def run(*words: str, count: str) -> int:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "AVATARCTL_HOME": str(tmp_path), "OMP_NUM_THREADS": count}
        command = [sys.executable, "-m", "avatarctl", *words, "--quiet"]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True).returncode

    short = ("--steps", "2", "--duration", "1")
    picture = ROOT / "avatarctl/puppet/samples/picture.png"
    make = ("generate", "--preset", "puppet", "-i", str(picture), "-a", str(picture.with_name("voice.wav")), *short)
    assert run(*make, "-o", "one.mp4", "--keep", count="1") == 0
    assert run(*make, "-o", "two.mp4", "--keep", count="1") == 0
    for made in ("windows", "segments", "frontier", "conditions.safetensors"):  # as if it had been killed at the start
        subprocess.run(["rm", "-r", str(tmp_path / "two.mp4.render" / made)], check=False)
    (tmp_path / "two.mp4.render" / "delivered.json").unlink()
    (tmp_path / "two.mp4").unlink()
    assert run("resume", "two.mp4.render", count="2") == 0
    assert (tmp_path / "two.mp4").read_bytes() == (tmp_path / "one.mp4").read_bytes()
    if threads.usable_cores() > 1:
        assert run(*make, "-o", "other.mp4", count="2") == 0
        assert (tmp_path / "other.mp4").read_bytes() != (tmp_path / "one.mp4").read_bytes(), "the test tells nothing"
