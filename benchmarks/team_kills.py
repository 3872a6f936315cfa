"""Render one video with several real processes (torchrun, gloo, CPU), kill some of them at random instants, and resume.

Tiny random networks. Each time a random process of the launcher is killed (or the launcher itself, with --launcher), the
others have to end by themselves; the render is then resumed with another number of processes, until it is finished: to the
bytes of one process that nobody disturbed.

    python benchmarks/team_kills.py --processes 4 --kills 12 --json team_kills.json

What is printed: how long the others took to end, which passes were computed again, and the time of a pass with one and with
several processes (which share the cores of one machine here: no speed-up, but what sharing costs).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import wave
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PRESET = """size: 64x64
steps: 6
window: 4
overlap: 2
guidance_reuse: 2
segment_latent_frames: 8
checkpoint_every: 0.5
preview: false
device: cpu
"""
TORCHRUN = ["-m", "torch.distributed.run", "--standalone"]
GENERATE = ["generate", "-i", "face.png", "-a", "voice.wav", "--weights", "weights", "--preset", "tiny.yaml"]
KILLED_AT = (0.3, 1.0)  # of the time of an undisturbed render, of which imports are the first part
EXPECTED_END_S = 40.0  # torchrun itself waits 30 s for processes that don't heed its SIGTERM


def furnish(folder: Path, seconds: float) -> None:
    """Fill a folder with tiny weights, a picture, a recording and a preset."""
    sys.path.insert(0, str(ROOT / "tests"))
    from tiny import tiny_weights

    tiny_weights(folder / "weights")
    Image.radial_gradient("L").convert("RGB").save(folder / "face.png")
    samples = np.random.default_rng(0).normal(0, 3000, round(16000 * seconds)).astype("<i2")
    with wave.open(str(folder / "voice.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(samples.tobytes())
    (folder / "tiny.yaml").write_text(PRESET, encoding="utf-8")


class Run:
    """One start of a render in several processes."""

    def __init__(self, folder: Path, output: str, processes: int) -> None:
        self.folder, self.output, self.began = folder, output, time.monotonic()
        launcher = [*TORCHRUN, f"--nproc-per-node={processes}"] if processes > 1 else []
        command = [
            sys.executable,
            *launcher,
            "-m",
            "avatarctl",
            *GENERATE,
            "-o",
            output,
            "--keep",
            "--progress",
            "json",
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        environment["AVATARCTL_HOME"] = str(folder / "home")
        self.log = (folder / "log").open("w+", encoding="utf-8")
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=self.log, stderr=subprocess.STDOUT, text=True
        )

    def members(self) -> list[psutil.Process]:
        """Return the processes that render, without the launcher and ffmpeg."""
        try:
            found = psutil.Process(self.process.pid).children(recursive=True)
            return [process for process in found if "avatarctl" in process.cmdline()]
        except psutil.Error:
            return []

    def wait(self) -> tuple[int, str]:
        """Return the exit code and what was said."""
        status = self.process.wait(timeout=300)
        self.log.seek(0)
        return status, self.log.read()


def steps_of(log: str) -> list[int]:
    """Return the window steps after each report."""
    lines = [line for line in log.splitlines() if line.startswith('{"event": "progress"') and line.endswith("}")]
    return [json.loads(line)["window_steps"] for line in lines]


def pass_s(log: str) -> float:
    """Return the last report's seconds per pass."""
    lines = [line for line in log.splitlines() if line.startswith('{"event": "progress"') and line.endswith("}")]
    return float(json.loads(lines[-1])["step_s"]) if lines else 0.0


def kill_one(run: Run, chance: random.Random, whole_s: float, launcher_too: bool) -> dict[str, Any] | None:
    """Kill one process at a random instant; return how long the others took to end (None: it was finished before)."""
    members: list[psutil.Process] = []
    at = time.monotonic() + whole_s * chance.uniform(*KILLED_AT)
    while time.monotonic() < at:
        if run.process.poll() is not None:
            return None
        members = run.members() or members
        time.sleep(0.02)
    whom = chance.randrange(-1 if launcher_too else 0, max(len(members), 1))
    victim = psutil.Process(run.process.pid) if whom < 0 or not members else members[whom]
    try:
        victim.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return None
    began = time.monotonic()
    _, alive = psutil.wait_procs(members, timeout=EXPECTED_END_S)
    run.process.wait(timeout=EXPECTED_END_S)
    assert not alive, f"{alive} still run {EXPECTED_END_S} s after process {whom} was killed"
    return {"process": whom, "ended_s": round(time.monotonic() - began, 2)}


def measure(folder: Path, processes: int, kills: int, seed: int, launcher_too: bool) -> dict[str, Any]:
    """Render with kills until there were so many, and compare each video with that of one process."""
    chance = random.Random(seed)
    status, log = Run(folder, "straight.mp4", 1).wait()
    assert status == 0, log[-3000:]
    expected = (folder / "straight.mp4").read_bytes()
    found: dict[str, Any] = {"processes": processes, "kills": [], "renders": 0, "one": pass_s(log)}
    began = time.monotonic()
    status, log = Run(folder, "several.mp4", processes).wait()
    whole_s = time.monotonic() - began
    assert status == 0 and (folder / "several.mp4").read_bytes() == expected, log[-3000:]
    found["several"] = pass_s(log)
    while len(found["kills"]) < kills:
        output = f"{found['renders']}.mp4"
        while not (folder / output).exists():
            size = chance.choice([processes, processes, 2])
            run = Run(folder, output, size)
            done = len(found["kills"]) >= kills or chance.random() < 0.25  # and sometimes nobody is killed
            kill = None if done else kill_one(run, chance, whole_s, launcher_too)
            status, log = run.wait()
            steps = steps_of(log)
            assert kill is not None or status == 0, log[-3000:]
            if kill is not None:
                said = "avatarctl resume" in log or kill["process"] < 0
                found["kills"].append({**kill, "of": size, "steps": steps[-1:], "said": said})
                print(found["kills"][-1], flush=True)
        assert (folder / output).read_bytes() == expected, f"{output} differs"
        found["renders"] += 1
        print(f"{output}: the bytes of one process, after {len(found['kills'])} kills in all", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=6.0, help="of video")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--launcher", action="store_true", help="kill torchrun itself, too")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        furnish(Path(name), arguments.seconds)
        found = measure(Path(name), arguments.processes, arguments.kills, arguments.seed, arguments.launcher)
    ends = [kill["ended_s"] for kill in found["kills"]]
    print(
        f"{len(ends)} kills in {found['renders']} renders: none lost, all to the byte; the others ended after "
        f"{sum(ends) / len(ends):.1f} s on average, {max(ends):.1f} s at most; a pass takes {found['one']:.4f} s in one "
        f"process, {found['several']:.4f} s in {arguments.processes} on these cores"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
