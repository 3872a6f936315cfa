"""Tests with one render in several processes: the bits of one, and an end for all of them with the right exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from served import Attempt, Server, free_port
from workshop import PRESET, ROOT, Case, straight

from avatarctl.render.folder import RenderFolder
from avatarctl.render.index import read_index

NewCase = Callable[..., Case]
# Each with what a window in flight holds of its guidance; windows that reach into one or two others.
PRESETS = {
    "half": "window: 4\noverlap: 2\nsteps: 6\nguidance_reuse: 2\nsolver: ab2\n",
    "more": "window: 4\noverlap: 3\nsteps: 5\nguidance_reuse: 2\n",
    "batch": "window: 4\noverlap: 2\nsteps: 6\nwindow_batch: 2\n",
    "steps": "window: 4\noverlap: 2\norder: steps\n",
}
STOPPED, LOST = 128 + signal.SIGTERM, 8


@pytest.fixture(scope="module")
def team_studio(studio: Path) -> Path:
    for name, text in PRESETS.items():
        kept = [line for line in PRESET.splitlines() if line.split(":")[0] not in ("window", "overlap", "steps")]
        (studio / f"{name}.yaml").write_text("\n".join(kept) + "\n" + text)
    return studio


def preset(case: Case, name: str) -> tuple[str, str]:
    return "--preset", str(case.studio / f"{name}.yaml")


@pytest.fixture(scope="module")
def expected(team_studio: Path, server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple]:
    """The video of each preset and its final latents, from one process without interruption."""
    found = {}
    for name in ("half", "more"):
        case = Case(team_studio, server, tmp_path_factory.mktemp("straight") / "case", "long.wav")
        found[name] = (straight(case, *preset(case, name), "--keep"), latents(case))
    return found


def latents(case: Case) -> dict[str, str]:
    files = read_index(case.render).files
    return {name: entry.sha256 for name, entry in files.items() if name.startswith("windows/")}


def statuses(attempts: list[Attempt]) -> list[int]:
    return [attempt.status for attempt in attempts]


def logs(attempts: list[Attempt]) -> str:
    return "\n".join(f"-- {rank}\n{attempt.told[-2000:]}" for rank, attempt in enumerate(attempts))


def run(
    case: Case, processes: int, *more: str, meanwhile: Callable[[list[int]], None] = lambda _: None
) -> list[Attempt]:
    """Run ``generate`` in so many processes; one needs no launcher."""
    if processes > 1:
        return case.together(processes, *more, meanwhile=meanwhile)
    return [case.generate(*more, meanwhile=lambda pid: meanwhile([pid]))]


def when_saved(case: Case, steps: int, act: Callable[[list[int]], None]) -> Callable[[list[int]], None]:
    """Return what acts on the processes of a team once the folder holds so many window steps."""

    def wait(pids: list[int]) -> None:
        deadline = time.monotonic() + 60
        while case.checkpoint() < steps and time.monotonic() < deadline:
            time.sleep(0.005)
        act(pids)

    return wait


# -- Bits ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "processes"), [("half", 2), ("more", 3)])
def test_several_processes_give_the_bits_of_one(
    new_case: NewCase, expected: dict[str, tuple], name: str, processes: int
) -> None:
    case = new_case(audio="long.wav")
    attempts = case.together(processes, *preset(case, name), "--keep")
    assert statuses(attempts) == [0] * processes, logs(attempts)
    assert (case.bytes(), latents(case)) == expected[name]
    assert [attempt.log for attempt in attempts[1:]] == [""] * (processes - 1)  # process 0 alone tells what is going on


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 3), (3, 2)])
def test_a_render_is_continued_by_any_number_of_processes(
    new_case: NewCase, expected: dict[str, tuple], first: int, then: int
) -> None:
    case = new_case(audio="long.wav")
    more = (*preset(case, "half"), "--keep")
    stop = when_saved(case, 9, lambda pids: [os.kill(pid, signal.SIGTERM) for pid in pids])
    attempts = run(case, first, *more, meanwhile=stop)
    assert statuses(attempts) == [STOPPED] * first, logs(attempts)
    saved = case.checkpoint()
    assert f"stopped; {saved} of " in attempts[0].told and f"avatarctl resume {case.render}" in attempts[0].told
    assert "error" not in "".join(attempt.log for attempt in attempts[1:])
    attempts = run(case, then, *more)
    assert statuses(attempts) == [0] * then, logs(attempts)
    assert saved < attempts[0].steps()[0] <= saved + then
    assert (case.bytes(), latents(case)) == expected["half"]


def test_windows_share_passes_in_several_processes_too(new_case: NewCase) -> None:
    case = new_case(audio="long.wav")
    more = (*preset(case, "batch"), "--keep")
    attempts = case.together(2, *more)
    assert statuses(attempts) == [0, 0], logs(attempts)
    # Two windows each in a round: four steps between two reports, where so many are ready.
    steps = attempts[0].steps()
    assert max(after - before for before, after in pairwise(steps)) > 2
    assert RenderFolder(case.render).manifest()["decided"]["processes"] == 2
    # Which windows share a pass depends on the number of processes: another one is refused, or accepted and noted.
    alone = case.generate(*more)
    assert alone.status == 0, alone.told  # nothing was left to do
    next(iter((case.render / "windows").iterdir())).unlink()
    alone = case.generate(*more)
    assert alone.status == 7 and "processes: was 2, is 1" in alone.told, alone.told
    accepted = case.generate(*more, "--accept-changes")
    assert accepted.status == 0, accepted.told


# -- Ends ----------------------------------------------------------------------------------------------------------------


def test_a_signal_to_one_process_stops_all(new_case: NewCase, expected: dict[str, tuple]) -> None:
    case = new_case(audio="long.wav")
    more = (*preset(case, "half"), "--keep")
    attempts = case.together(3, *more, meanwhile=when_saved(case, 5, lambda pids: os.kill(pids[2], signal.SIGTERM)))
    assert statuses(attempts) == [STOPPED] * 3, logs(attempts)
    assert f"stopped; {case.checkpoint()} of " in attempts[0].told
    assert case.generate(*more).status == 0
    assert case.bytes() == expected["half"][0]


@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_process_ends_the_others_with_the_command_that_resumes(
    new_case: NewCase, expected: dict[str, tuple], lost: int
) -> None:
    case, killed_at = new_case(audio="long.wav"), []

    def kill(pids: list[int]) -> None:
        os.kill(pids[lost], signal.SIGKILL)
        killed_at.append(time.monotonic())

    more = (*preset(case, "half"), "--keep")
    attempts = case.together(3, *more, meanwhile=when_saved(case, 5, kill))
    assert time.monotonic() - killed_at[0] < 20
    assert [status for rank, status in enumerate(statuses(attempts)) if rank != lost] == [LOST] * 2, logs(attempts)
    assert attempts[lost].status == -signal.SIGKILL
    told = [attempt.told for rank, attempt in enumerate(attempts) if rank != lost]
    assert f"avatarctl resume {case.render}" in "".join(told)
    if lost:  # process 0 saves what all have, and is the only one that tells
        assert f"{case.checkpoint()} of " in told[0] and "error" not in told[1]
    attempts = case.together(2, *more)
    assert statuses(attempts) == [0, 0], logs(attempts)
    assert case.bytes() == expected["half"][0]


def test_what_process_0_refuses_ends_all_at_once_with_its_exit_code(new_case: NewCase, team_studio: Path) -> None:
    case = new_case()
    keep = ("--keep",)
    assert case.generate(*keep).status == 0
    made = case.bytes()

    def ends(*more: str) -> tuple[list[int], str]:
        began = time.monotonic()
        attempts = case.together(2, *keep, *more)
        assert time.monotonic() - began < 15
        assert "error: " not in attempts[1].told, logs(attempts)
        return statuses(attempts), attempts[0].told

    found, told = ends()
    assert found == [0, 0] and "nothing is left to do" in told
    found, told = ends("--steps", "3")
    assert found == [7, 7] and "steps: was 2, is 3" in told
    found, told = ends(*preset(case, "steps"))
    assert found == [2, 2] and "order: got steps with 2 processes" in told
    with RenderFolder(case.render).held():
        found, told = ends("--steps", "3")
    assert found == [6, 6] and "held by process" in told
    manifest = case.render / "render.json"
    manifest.write_bytes(manifest.read_bytes()[:-20])
    found, told = ends()
    assert found == [4, 4] and "damaged" in told
    assert case.bytes() == made


def test_an_error_of_any_process_ends_all(new_case: NewCase, team_studio: Path) -> None:
    case = new_case()
    attempts = case.together(2, "--lora", str(other_lora(case.folder)))
    assert set(statuses(attempts)) <= {4, 5} and len(set(statuses(attempts))) == 1, logs(attempts)
    assert "error: " in attempts[0].told


@pytest.mark.parametrize(("fails", "status", "told"), [(True, 5, ""), (False, 4, "--work-dir")])
def test_a_folder_that_is_gone_is_not_one_that_was_never_shared(
    tmp_path: Path, fails: bool, status: int, told: str
) -> None:
    """Process 1 looks when process 0's start has failed and its folder is cleared away, but before it tells so."""
    script = f"""
import sys, time
from pathlib import Path
from types import SimpleNamespace
from avatarctl.errors import AvatarError, Ended, WeightsError
from avatarctl.render import processes
from avatarctl.render.engine import run_follower
from avatarctl.render.folder import RenderFolder
processes.LEADER_TELLS_WITHIN_S = 3 if {fails} else 0.2
path = Path("talk.render")
try:
    with processes.Processes(path) as own:
        if own.rank:
            run_follower(SimpleNamespace(job=None), RenderFolder(path), own)
        time.sleep(1)
        if {fails}:
            raise WeightsError("of another network", "")
        own.hear("never")
except Ended as ended:
    sys.exit(ended.exit_code)
except AvatarError as error:
    print(error, error.hint)
    sys.exit(error.exit_code)
"""
    done = script_of_two(tmp_path, script)
    assert [code for code, _ in done] == [status, status], done
    assert (told in done[1][1]) if told else not done[1][1], done


def other_lora(folder: Path) -> Path:
    """Write a LoRA of another network."""
    import torch
    from safetensors.torch import save_file

    path = folder / "other.safetensors"
    tensors = {
        "blocks.0.self_attn.q.lora_A.weight": torch.ones(2, 7),
        "blocks.0.self_attn.q.lora_B.weight": torch.ones(7, 2),
    }
    save_file(tensors, path)
    return path


def test_half_of_a_launcher_s_words_is_refused(case: Case) -> None:
    attempt = case.generate(WORLD_SIZE="2")
    assert (
        attempt.status == 2 and "RANK, MASTER_ADDR, MASTER_PORT" in attempt.told and "unset WORLD_SIZE" in attempt.told
    )
    attempt = case.generate(WORLD_SIZE="many")
    assert attempt.status == 2 and "WORLD_SIZE: got 'many'" in attempt.told
    assert case.generate(RANK="1").status == 0  # one process, whatever number a cluster gives it


def test_a_batch_is_no_work_of_several(case: Case) -> None:
    ended = case.server.run_together(case.folder, ["batch", str(case.studio), "-o", "videos"], 2)
    assert [attempt.status for attempt in ended] == [2, 2]
    assert "got 2 processes of a launcher" in ended[0].told and "without torchrun" in ended[0].told


@pytest.mark.long
def test_process_0_may_take_longer_than_any_time_limit(tmp_path: Path) -> None:
    """The store's limit is six seconds here, and process 0 takes eight before and after the others are ready."""
    script = """
import sys, time
from pathlib import Path
from avatarctl.render import processes
processes.MEET_WITHIN_S, processes.TRIES = 6, 1
with processes.Processes(Path("talk.render")) as own:
    if own.rank == 0:
        time.sleep(8)
        own.tell("begun", what=1)
        time.sleep(8)
    else:
        assert own.hear("begun") == {"what": 1}
    team = own.join(lambda: None)
    assert team.agree(own.rank) == 1
    if own.rank == 0:
        time.sleep(8)
    assert team.agree(0) == 0
print("together")
"""
    for code, out in script_of_two(tmp_path, script):
        assert code == 0 and "together" in out, out[-3000:]


def script_of_two(folder: Path, script: str) -> list[tuple[int, str]]:
    """Run a script in two processes of one render; return how each ended and what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    started = [
        subprocess.Popen([sys.executable, "-c", script], cwd=folder, env={**environment, "RANK": str(rank)}, **pipes)
        for rank in range(2)
    ]
    outs = [process.communicate(timeout=60)[0] for process in started]
    return [(process.returncode, out) for process, out in zip(started, outs, strict=True)]


@pytest.mark.long
def test_ctrl_c_under_torchrun_stops_all_and_says_what_is_saved(new_case: NewCase, expected: dict[str, tuple]) -> None:
    case = new_case(audio="long.wav")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "avatarctl"]
    argv = case.argv(*preset(case, "half"), "--keep")

    def start() -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen([*launcher, *argv], cwd=case.folder, env=case.server.environment, **pipes)

    run = start()
    when_saved(case, 5, lambda _: run.send_signal(signal.SIGINT))([])
    out, _ = run.communicate(timeout=60)
    assert f"stopped; {case.checkpoint()} of " in out and f"avatarctl resume {case.render}" in out, out[-3000:]
    with RenderFolder(case.render).held():
        pass  # nobody is left in it
    run = start()
    out, _ = run.communicate(timeout=120)
    assert run.returncode == 0, out[-3000:]
    assert "was not destroyed" not in out and "destroy_process_group" not in out
    assert case.bytes() == expected["half"][0]
    with suppress(ProcessLookupError):
        os.killpg(run.pid, 0)
