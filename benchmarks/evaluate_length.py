"""Measure speed and peak memory of `evaluate` or `data prepare` on videos of two lengths: memory should not grow with length.

A drawn person speaks (the world that the embedded avatar knows), a minute of pictures again and again:

    python benchmarks/evaluate_length.py --minutes 1 60 --json evaluate_length.json
    python benchmarks/evaluate_length.py --minutes 60 --fps 8 --video hour.mp4   # in parts: the video is kept
    python benchmarks/evaluate_length.py --minutes 1 10 --prepare                # `data prepare`, clips and masks included
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from avatarctl.audio.decode import waveform_16k
from avatarctl.audio.source import ffmpeg
from avatarctl.paths import embedded_avatar
from avatarctl.puppet.mouth import mouth_from_audio
from avatarctl.puppet.world.identity import Identity, Pose
from avatarctl.puppet.world.portrait import Portrait

ROOT = Path(__file__).resolve().parents[1]
RATE, SIDE = 16_000, 256
# Peaks of resident memory (all, and its own without mapped files: the sound lies in one, whose pages the kernel may drop), and
# the processor's time of the process and of the ffmpeg that it starts.
CHILD = """
import resource, sys, threading, time
own_kb = [0]
def watch():
    while True:
        with open("/proc/self/status") as file:
            own_kb[0] = max(own_kb[0], *(int(line.split()[1]) for line in file if line.startswith("RssAnon")))
        time.sleep(0.5)
threading.Thread(target=watch, daemon=True).start()
sys.argv = ["avatarctl", *sys.argv[1:]]
from avatarctl.cli import app
try:
    app()
except SystemExit as end:
    assert end.code in (0, None), end.code
own, ffmpeg = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
cpu_s = own.ru_utime + own.ru_stime + ffmpeg.ru_utime + ffmpeg.ru_stime
sys.stderr.write(f"\\nPEAK {own.ru_maxrss} {own_kb[0]} {cpu_s}")
"""


def write_video(path: Path, minutes: float, fps: Fraction) -> None:
    """Write a video of a drawn person who speaks, with sound; the pictures of its first minute come again and again."""
    once = waveform_16k(embedded_avatar() / "samples" / "voice.wav")
    piece_s = min(minutes, 1.0) * 60
    voice = np.tile(once, int(piece_s * RATE / len(once)) + 1)[: round(piece_s * RATE)]
    part = path.with_name("minute.mkv")
    sound = path.with_name("minute.f32")
    voice.astype("<f4").tofile(sound)
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{SIDE}x{SIDE}", "-r", str(fps), "-i", "pipe:0"]
    raw += ["-f", "f32le", "-ar", str(RATE), "-ac", "1", "-i", str(sound)]
    encode = ["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-c:a", "pcm_s16le", str(part)]
    command = [ffmpeg(), "-v", "error", "-nostdin", "-y", *raw, *encode]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        for picture in _pictures(voice, round(piece_s * fps), fps):
            process.stdin.write(picture.tobytes())
    loop = ["-stream_loop", "-1", "-i", str(part), "-t", str(minutes * 60), "-c:v", "copy", "-c:a", "aac", str(path)]
    subprocess.run([ffmpeg(), "-v", "error", "-nostdin", "-y", *loop], check=True)
    part.unlink()
    sound.unlink()


def _pictures(voice: NDArray[np.float32], count: int, fps: Fraction) -> Iterator[NDArray[np.uint8]]:
    portrait = Portrait.of(Identity.of(0), SIDE)
    opening, width = mouth_from_audio(voice, count, fps)
    for number in range(count):
        turn = 0.01 * np.sin(number / float(fps))
        yield portrait.picture(Pose(opening=float(opening[number]), width=float(width[number]), x=turn, yaw=turn))


def measured(video: Path, folder: Path, prepare: bool) -> dict[str, float]:
    """Evaluate or prepare a video in a process of its own; return its peaks of memory in MB, its time and what came out.

    On a machine that others use, the processor's time tells the speed, not the clock.
    """
    words = (
        ["data", "prepare", str(video), "--output", str(folder / video.stem)] if prepare else ["evaluate", str(video)]
    )
    command = [sys.executable, "-c", CHILD, *words, "--json", "--quiet", "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "AVATARCTL_HOME": str(folder / "home")}
    begin = time.perf_counter()
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(run.stderr[-2000:])
    wall_s = time.perf_counter() - begin
    data = json.loads(run.stdout)["data"]
    peak_kb, own_kb, cpu_s = run.stderr.rpartition("PEAK ")[2].split()
    found = {
        "peak_mb": round(int(peak_kb) / 1024, 1),
        "peak_own_mb": round(int(own_kb) / 1024, 1),
        "wall_s": round(wall_s, 1),
        "cpu_s": round(float(cpu_s), 1),
    }
    if prepare:
        return {"minutes": round(data["seconds"] / 60, 2), "kept": data["kept"], **found}
    row = data["videos"][0]
    found |= {"minutes": round(row["duration_s"] / 60, 2), "pictures": row["pictures"]}
    found |= {"pictures_per_cpu_s": round(row["pictures"] / float(cpu_s), 1)}
    return {**found, "correlation": row["lips"]["correlation"], "lag_s": row["lips"]["lag_s"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0, 60.0])
    parser.add_argument("--fps", type=Fraction, default=Fraction(25))
    parser.add_argument("--prepare", action="store_true", help="Measure `data prepare` instead of `evaluate`.")
    parser.add_argument("--video", type=Path, help="Keep the video of the last length here; one that is there is used.")
    parser.add_argument("--json", type=Path, help="Also write the numbers into this file.")
    asked = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for minutes in asked.minutes:
            video = (
                asked.video if asked.video and minutes == asked.minutes[-1] else Path(temporary) / f"{minutes:g}.mp4"
            )
            if not video.exists() or video.parent == Path(temporary):
                write_video(video, minutes, asked.fps)
            rows.append(measured(video, Path(temporary), asked.prepare))
            print(rows[-1], flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
