"""Render items with workers in a Ray cluster whose nodes share the storage of the items' folders.

Each worker is an actor that loads weights once. A node that doesn't see the inputs of an item, since its storage is its own
or they lie on the driver's disk, gets them with the item, and the video comes back; weights have to lie at the same path on
every node. A worker of another version is refused. A node that dies costs its items one attempt, and what was saved on shared
storage is continued elsewhere.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import re
import secrets
import signal
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from avatarctl import __version__, console, durable
from avatarctl.batch.attempts import TICK_S, Attempt, Rules, next_attempt, say_stopping
from avatarctl.batch.history import STATE
from avatarctl.batch.items import Item
from avatarctl.batch.payload import pack, unpack_video, unpacked
from avatarctl.batch.plan import Planned
from avatarctl.batch.tally import Tally
from avatarctl.batch.work import Outcome
from avatarctl.batch.worker import REPORT_EVERY_S, from_line, to_line
from avatarctl.errors import DeviceError, UsageError
from avatarctl.interrupts import stopping

LOSSES = 3  # so many times all workers are lost in a row, and no new ones are asked for
ASKED_GPUS = 8  # where nobody says with --jobs how many, and none is there yet
LIBRARIES = ("torch", "diffusers", "transformers")
HERE = "here"  # the file by which a worker sees that it has the driver's storage


def connect(on: str) -> Any:
    """Return Ray, connected; raises ``UsageError`` without it, ``DeviceError`` when the cluster can't be reached."""
    try:
        import ray
    except ImportError as error:
        raise UsageError("--on ray: got no Ray in this Python", "pip install 'avatarctl[cluster]'") from error
    if not ray.is_initialized():
        try:
            # Results come by outcomes; what workers write stays in Ray's own logs.
            ray.init(
                None if on == "ray" else on, log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = str(error).strip().split("\n")[0]
            raise DeviceError(
                f"--on {on}: the cluster can't be reached ({reason})", "see `ray status` there"
            ) from error
    return ray


def make_in_cluster(
    planned: Sequence[Planned], on: str, jobs: int | None, output: Path, rules: Rules, tally: Tally
) -> tuple[int, int]:
    """Make all items, the first ones first; return the signal that stopped the work, or 0, and the number of workers."""
    ray = connect(on)
    mark = secrets.token_hex(8)
    durable.replace(output / STATE / HERE, mark.encode())
    pool = WorkerPool(ray, planned, jobs, str((output / STATE / HERE).resolve()), mark)
    waiting = deque(Attempt(_whole(each.item)) for each in planned)
    told = False
    with stopping(say_stopping) as stop:
        try:
            while True:
                closing = bool(stop.signal or (rules.fail_fast and tally.failed()))
                if closing and not told:
                    told = True
                    pool.stop()
                while waiting and pool.free and not closing:
                    attempt = waiting.popleft()
                    tally.attempt(attempt.item)
                    pool.give(attempt, rules.redo)
                while waiting and pool.gone:
                    lost = Outcome(
                        "failed", message="no worker is left in the cluster", exit_code=DeviceError.exit_code
                    )
                    tally.ended(waiting.popleft().item, lost)
                if not pool.running and (closing or not waiting):
                    return stop.signal, pool.size
                for attempt, outcome in pool.outcomes(tally):
                    if outcome.state == "elsewhere":
                        waiting.appendleft(replace(attempt, packed=True))
                    elif closing and outcome.state in ("stopped", "lost"):
                        tally.ended(attempt.item, Outcome("stopped", message="is continued when this is run again"))
                    else:
                        if outcome.state in ("stopped", "lost"):
                            outcome = replace(outcome, state="failed", exit_code=1)
                        retried = outcome.state == "failed" and not closing and next_attempt(attempt, outcome, rules)
                        if retried:
                            waiting.appendleft(retried)
                        else:
                            tally.ended(attempt.item, outcome)
        finally:
            pool.dismiss()


def _whole(item: Item) -> Item:
    """Return an item whose files are named from the root: workers run in folders of their own."""
    job = item.job
    files: dict[str, Any] = {name: getattr(job, name).resolve() for name in ("image", "audio", "output")}
    files["weights"] = job.weights.resolve() if job.weights else None
    files["lora"] = tuple((path.resolve(), scale) for path, scale in job.lora)
    files["subtitles"] = tuple((language, path.resolve()) for language, path in job.subtitles)
    return replace(item, job=job.model_copy(update=files))


class WorkerPool:
    """The workers of a batch in the cluster: free ones, running ones, and those that Ray finds no place for yet."""

    def __init__(self, ray: Any, planned: Sequence[Planned], jobs: int | None, here: str, mark: str) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ray, self._here, self._mark = ray, here, mark
        self.size, self._needs = _resources(ray, planned, jobs)
        # The board must outlive every worker's node: it lies where the driver is.
        own_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        self._board = ray.remote(ProgressBoard).options(num_cpus=0, scheduling_strategy=own_node).remote()
        self.free: list[Any] = []
        self.running: dict[Any, tuple[Any, Attempt]] = {}  # reference of the outcome -> worker, attempt
        self._coming: dict[Any, Any] = {}  # reference of the first answer -> worker
        self._lost = 0  # workers in a row
        self._told: set[str] = set()  # versions that differ
        for _ in range(self.size):
            self._hire()

    def _hire(self) -> None:
        worker = self._ray.remote(Worker).options(max_restarts=0, **self._needs).remote(self._here, self._mark)
        self._coming[worker.ready.remote()] = worker

    @property
    def gone(self) -> bool:
        """Return whether no worker is left and none will come."""
        return not (self.free or self.running or self._coming)

    def give(self, attempt: Attempt, redo: bool) -> None:
        """Return a free worker an item."""
        worker = self.free.pop(0)
        packed = pack(attempt.item) if attempt.packed else None
        self.running[worker.make.remote(to_line(attempt.item, redo), packed, self._board)] = (worker, attempt)

    def outcomes(self, tally: Tally) -> list[tuple[Attempt, Outcome]]:
        """Wait a moment; return the attempts that ended and how: what a dead node took with it is "lost"."""
        ray, ended = self._ray, []
        done, _ = ray.wait([*self.running, *self._coming], num_returns=1, timeout=TICK_S)
        for reference in done:
            worker, attempt = self.running.pop(reference, (None, None))
            worker = worker or self._coming.pop(reference)
            try:
                content = ray.get(reference)
            except ray.exceptions.RayError as error:
                reason = _reason(error)
                console.note(f"a worker in the cluster is lost: {reason}")
                ray.kill(worker)  # one that only seems lost must not go on beside the next
                self._lost += 1
                if self._lost <= LOSSES * self.size:
                    self._hire()
                if attempt is not None:
                    ended.append((attempt, Outcome("lost", message=f"its worker in the cluster is lost ({reason})")))
                continue
            self._lost = 0
            self.free.append(worker)
            if attempt is None:
                self._compare(content)
            else:
                video = content.pop("video", None)
                outcome = Outcome(**content["outcome"])
                if video is not None and outcome.state == "done":
                    unpack_video(attempt.item, video)
                ended.append((attempt, outcome))
        self._tell(tally)
        return ended

    def _compare(self, there: dict[str, str]) -> None:
        """Refuse a worker of another version of this program, and tell of other libraries: they make other pictures."""
        here = versions()
        if there["avatarctl"] != here["avatarctl"]:
            raise UsageError(
                f"--on ray: the node {there['node']} has avatarctl {there['avatarctl']}, expected {here['avatarctl']} as here",
                f"install it there: pip install avatarctl=={here['avatarctl']}",
            )
        for name in LIBRARIES:
            told = f"{name} {there[name]}"
            if there[name] != here[name] and told not in self._told:
                self._told.add(told)
                console.note(
                    f"the node {there['node']} has {told}, here is {here[name]}: its pictures may differ slightly"
                )

    def _tell(self, tally: Tally) -> None:
        by_name = {attempt.item.name: attempt.item for _, attempt in self.running.values()}
        try:
            rows = self._ray.get(self._board.read.remote(), timeout=5)
        except (self._ray.exceptions.RayError, TimeoutError):
            return  # no progress to show; outcomes come another way
        for name, (done, total) in rows.items():
            if name in by_name:
                tally.report(by_name[name], done, total)

    def stop(self) -> None:
        """Let every worker save what it has and stop; without a board they are stopped at once, and lose a little."""
        try:
            self._ray.get(self._board.stop.remote())
        except self._ray.exceptions.RayError:
            for worker, _ in self.running.values():
                self._ray.kill(worker)

    def dismiss(self) -> None:
        """Return all places back."""
        for worker in [
            *self.free,
            *self._coming.values(),
            *(worker for worker, _ in self.running.values()),
            self._board,
        ]:
            self._ray.kill(worker)


def _reason(error: BaseException) -> str:
    """Return what went wrong in a line: of an error in a worker its last one, of a lost worker the first."""
    lines = [re.sub(r"\x1b\[\d*m", "", line).strip() for line in str(error).split("\n") if line.strip()]
    return (lines[-1] if "Traceback" in str(error) else lines[0]) if lines else type(error).__name__


def _resources(ray: Any, planned: Sequence[Planned], jobs: int | None) -> tuple[int, dict[str, Any]]:
    """Return how many workers, and what each asks Ray for: a GPU where there are any, else a share of cores and the memory.

    With --device cuda GPUs are asked for also where there are none now: an autoscaler starts them, and until then the work
    waits. It never goes to the CPU.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    cores = int(sum(node.get("CPU", 0) for node in nodes))
    needs: dict[str, Any]
    devices = [each.item.job.placement.device for each in planned]
    if gpus and any(device != "cpu" for device in devices):
        return min(jobs or gpus, len(planned)), {"num_gpus": 1, "num_cpus": 1}
    if any(device.startswith("cuda") for device in devices):
        size = min(jobs or ASKED_GPUS, len(planned))
        console.note(
            f"--on ray: the cluster has no GPU now; asking for {size} and waiting until its autoscaler starts them"
        )
        return size, {"num_gpus": 1, "num_cpus": 1}
    if any(device == "auto" for device in devices):
        console.note(
            "--on ray: the cluster has no GPU now, so its CPUs are used; --device cuda asks for GPUs and waits for them"
        )
    largest_node = int(max((node.get("CPU", 0) for node in nodes), default=0))
    size = min(jobs or cores, len(planned))
    needs = {"num_cpus": min(max(cores // max(size, 1), 1), max(largest_node, 1))}
    needs["memory"] = max(each.takes.memory_bytes for each in planned)
    if not any(node.get("CPU", 0) >= needs["num_cpus"] and node.get("memory", 0) >= needs["memory"] for node in nodes):
        gib = needs["memory"] / 2**30
        raise DeviceError(
            f"--on ray: got no node with {needs['num_cpus']} cores and {gib:.1f} GiB, expected one", "see `ray status`"
        )
    return size, needs


# -- In the cluster -------------------------------------------------------------------------------------------------


class ProgressBoard:
    """What the workers tell the driver while they work, and whether they shall stop."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[int, int]] = {}
        self._stop = False

    def put(self, name: str, done: int, total: int) -> bool:
        """Take in progress; tell whether to stop."""
        self._rows[name] = (done, total)
        return self._stop

    def read(self) -> dict[str, tuple[int, int]]:
        """Return the progress of every item."""
        return self._rows

    def stop(self) -> None:
        """Tell everyone to stop from here on."""
        self._stop = True


def versions() -> dict[str, str]:
    """Return the versions of this program and of what makes its pictures."""
    return {"avatarctl": __version__, **{name: importlib.metadata.version(name) for name in LIBRARIES}}


def sees(item: Item) -> bool:
    """Return whether every input of an item is on this machine under its name."""
    job = item.job
    files = (job.image, job.audio, *(path for path, _ in job.lora), *(path for _, path in job.subtitles))
    return all(path.is_file() for path in files)


class Worker:
    """One process in the cluster that makes videos, one after the other, with weights loaded once."""

    def __init__(self, here: str, mark: str) -> None:
        from avatarctl.render.networks import LoadedNetworks

        self._loaded, self._here, self._mark = LoadedNetworks(), Path(here), mark

    def ready(self) -> dict[str, str]:
        """Tell that this worker has a place: its node, and the versions there."""
        return {"node": platform.node(), **versions()}

    def make(self, line: str, packed: dict[str, bytes] | None, board: Any) -> dict[str, Any]:
        """Make an item's video; return the outcome, with the video where storage isn't shared."""
        from avatarctl.batch.work import make_video

        item, redo = from_line(line)
        # Storage of the output is shared, and the inputs are on it too.
        shared = self._here.is_file() and self._here.read_text() == self._mark and sees(item)
        if not shared and packed is None:
            return {"outcome": asdict(Outcome("elsewhere"))}
        show = ProgressBoardReports(board, item.name)
        with console.warnings_as_notes():
            if shared:
                return {"outcome": asdict(make_video(item, redo, self._loaded, show))}
            assert packed is not None
            with unpacked(item, packed) as (own, video):
                outcome = make_video(own, redo, self._loaded, show)
                return {"outcome": asdict(outcome), "video": video() if outcome.state == "done" else None}


class ProgressBoardReports:
    """Progress of one item, put on the board twice a second; a word to stop comes back."""

    def __init__(self, board: Any, name: str) -> None:
        self._board, self._name, self._last = board, name, 0.0

    def __call__(self, done: int, total: int, **_: Any) -> None:
        """Put on the board that ``done`` of ``total`` window steps are done; stop this render if asked to."""
        import ray

        now = time.monotonic()
        if not total or (now - self._last < REPORT_EVERY_S and done != total):
            return
        self._last = now
        try:
            stop = ray.get(self._board.put.remote(self._name, done, total))
        except ray.exceptions.RayActorError:
            return  # the board's node is gone: no progress is shown, and the work goes on
        if stop and done != total:
            os.kill(os.getpid(), signal.SIGTERM)  # the render saves what it has and stops
