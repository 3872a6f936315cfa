"""Simulate how much faster several processes render one video than one does, with the scheduling code of the program.

Rounds are counted: in each, every process steps the windows that it is given, and a round lasts as long as its busiest
process. Loading, passing windows on, and the video itself (decoding, encoding) are not in it.

    python benchmarks/team_simulation.py --seconds 60 --overlap 10 --steps 50
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

from avatarctl.sampling.wavefront import Progress, share_out
from avatarctl.sampling.windows import SAMPLE_RATE_HZ, plan_windows


@dataclass(frozen=True)
class Simulated:
    """What a simulated render took. ``busy``: window steps of each process; ``heard``: how often a window came to a new one."""

    processes: int
    windows: int
    window_steps: int
    rounds: int
    busy: tuple[int, ...]
    heard: int
    in_flight: int

    @property
    def speedup(self) -> float:
        """How many times faster than one process."""
        return self.window_steps / self.rounds


def simulate(seconds: int, overlap: int, processes: int, steps: int = 50, window: int = 21) -> Simulated:
    """Run through the rounds of a render of so many seconds at 25 pictures a second."""
    plan = plan_windows(seconds * SAMPLE_RATE_HZ, Fraction(25), window, overlap)
    progress, ran_by = Progress(plan, steps), dict[int, int]()
    rounds = most = 0
    busy, heard = [0] * processes, set[tuple[int, int]]()
    while not progress.finished():
        shares = share_out(progress, processes, 1, ran_by)
        for process, share in enumerate(shares):
            busy[process] += len(share)
            heard |= {(index, process) for index in share}
        for index in sorted(index for share in shares for index in share):
            progress.advance(index)
        most = max(most, len(progress.in_flight()))
        rounds += max(map(len, shares))
    return Simulated(processes, plan.count, plan.count * steps, rounds, tuple(busy), len(heard), most)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, nargs="+", default=[20, 60, 300])
    parser.add_argument("--overlap", type=int, nargs="+", default=[5, 10])
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    for seconds in arguments.seconds:
        for overlap in arguments.overlap:
            for processes in arguments.processes:
                found = simulate(seconds, overlap, processes, arguments.steps)
                rows.append({"seconds": seconds, "overlap": overlap, "speedup": found.speedup, **asdict(found)})
                print(
                    f"{seconds:4} s overlap {overlap:2}: {found.windows:4} windows, {processes} processes: "
                    f"{found.speedup:.2f}x, {found.in_flight} windows in flight at most, "
                    f"sound of {found.heard / found.windows:.1f} processes per window"
                )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
