"""The last word of process 0 is heard by processes that were busy when it was said, also after its store is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.served import free_port

PROGRAM = """
import sys, time
from pathlib import Path
from avatarctl.errors import DeviceError, Ended
from avatarctl.render.processes import Processes

folder = Path(sys.argv[1])
with Processes(folder) as processes:
    processes.join(lambda: None)
    if processes.rank == 0:
        raise DeviceError("memory is short", "take a smaller size")
    while not (folder / "gone").exists():  # as in a pass of minutes, or waiting for a window
        time.sleep(0.05)
    error = processes.lost()
    print(type(error).__name__, error.exit_code)
"""


def test_the_last_word_is_heard_after_its_process_is_gone(tmp_path: Path) -> None:
    port = str(free_port())
    started = []
    for rank in range(2):
        place = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
        started.append(subprocess.Popen(command, env={**os.environ, **place}, stdout=subprocess.PIPE, text=True))
    assert started[0].wait(100) != 0
    (tmp_path / "gone").touch()
    assert started[1].communicate(timeout=100)[0].split() == ["Ended", "8"]
