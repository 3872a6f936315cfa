"""Write what each step measured: metrics.jsonl, TensorBoard events and the loss curve."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from avatarctl import durable
from avatarctl.errors import UsageError

METRICS, CURVE, TABLE, EVENTS = "metrics.jsonl", "loss.png", "loss.csv", "tensorboard"


def missing() -> list[str]:
    """Return which of the packages that draw and log a run aren't installed: it runs without them, its curve is a table."""
    return [name for name in ("matplotlib", "tensorboard") if importlib.util.find_spec(name) is None]


def open_tracker(kind: str, run: Path, first: int) -> Any:
    """Return accelerate's tracker of a kind for a run, or None for none; raises ``UsageError`` for one that isn't installed.

    A run that is resumed continues in the tracker where that can be told: TensorBoard drops what lies beyond ``first``.
    """
    if kind == "none" or (kind == "auto" and "tensorboard" in missing()):
        return None
    if kind in ("auto", "tensorboard"):
        if "tensorboard" in missing():
            raise UsageError("tracker: tensorboard is not installed", "pip install 'avatarctl[train]'")
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(run / EVENTS), purge_step=first + 1 if first else None)
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    module = kind
    if importlib.util.find_spec(module) is None:
        raise UsageError(f"tracker: {kind} is not installed", f"pip install {module.replace('_', '-')}")
    options: dict[str, Any] = {"logging_dir": str(run)} if LOGGER_TYPE_TO_CLASS[kind].requires_logging_directory else {}
    if kind == "wandb":  # the same run when it is resumed
        name = hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:16]
        options |= {"name": run.name, "id": name, "resume": "allow", "dir": str(run)}
    tracker = LOGGER_TYPE_TO_CLASS[kind]("avatarctl" if kind == "wandb" else run.name, **options)
    tracker.start()
    return tracker


class Log:
    """The measurements of a run from step ``first`` on: what a killed run wrote beyond it is cut off."""

    def __init__(self, run: Path, first: int, tracker: str = "auto") -> None:
        self.run, self._missing = run, missing()
        lines = [line for line in read(run) if first and line["step"] <= first]
        durable.replace(run / METRICS, b"".join(_line(line) for line in lines))
        self._file = (run / METRICS).open("ab")
        self._tracker = open_tracker(tracker, run, first)

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._tracker is not None:
            (self._tracker.finish if hasattr(self._tracker, "finish") else self._tracker.close)()

    def add(self, step: int, values: Mapping[str, Any]) -> None:
        """Note the measurements of a step (counted from 1)."""
        self._file.write(_line({"step": step, **values}))
        self._file.flush()
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
        if hasattr(self._tracker, "add_scalar"):
            for name, value in numbers.items():
                self._tracker.add_scalar(name, value, step)
        elif self._tracker is not None:
            self._tracker.log(numbers, step=step)

    def draw(self) -> None:
        """Draw the loss curve of all steps so far, or without matplotlib write its numbers as CSV."""
        if "matplotlib" in self._missing:
            write_table(read(self.run), self.run / TABLE)
        else:
            draw_curve(read(self.run), self.run / CURVE)


def _line(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values) + "\n").encode()


def read(run: Path) -> list[dict[str, Any]]:
    """Return the measurements of a run; a torn last line is left out."""
    path = run / METRICS
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def smooth(values: Sequence[float], decay: float) -> list[float]:
    """Return the running average of values, without a bias towards its beginning."""
    total = weight = 0.0
    smoothed = []
    for value in values:
        total, weight = decay * total + (1 - decay) * value, decay * weight + (1 - decay)
        smoothed.append(total / weight)
    return smoothed


def write_table(lines: Sequence[Mapping[str, Any]], target: Path) -> None:
    """Write every measurement that is a number as CSV, a row per step."""
    names = list(
        dict.fromkeys(name for line in lines for name, value in line.items() if isinstance(value, int | float))
    )
    text = io.StringIO()
    rows = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    rows.writeheader()
    rows.writerows(lines)
    durable.replace(target, text.getvalue().encode())


def draw_curve(lines: Sequence[Mapping[str, Any]], target: Path) -> None:
    """Draw loss against steps, every step faint, its running average, and the loss of held-out samples.

    Of a student also how far it is from its teacher, as a share of what guidance changes, over all and by segment.
    """
    import matplotlib.figure

    trained = [line for line in lines if "loss" in line]
    if not trained:
        return
    steps, losses = [line["step"] for line in trained], [line["loss"] for line in trained]
    student = any("err_base" in line for line in trained)
    figure = matplotlib.figure.Figure(figsize=(9, 9 if student else 5), layout="constrained")
    axes = figure.add_subplot(*((2, 1, 1) if student else ()))
    axes.plot(steps, losses, color="#9bb7d4", linewidth=0.6, label="every step")
    decay = 1 - 1 / min(max(len(losses) / 25, 2), 200)
    axes.plot(steps, smooth(losses, decay), color="#1f4e79", linewidth=1.8, label="running average")
    if held := [line for line in lines if "held_out_loss" in line]:
        axes.plot(
            [line["step"] for line in held],
            [line["held_out_loss"] for line in held],
            color="#c0504d",
            marker="o",
            markersize=3,
            label="held-out samples",
        )
    axes.set(xlabel="optimizer step", ylabel="loss", yscale="log")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    if student:
        _draw_student(figure.add_subplot(2, 1, 2), lines, decay)
    with durable.beside(target) as part:
        figure.savefig(part, format="png", dpi=100)


def _draw_student(axes: Any, lines: Sequence[Mapping[str, Any]], decay: float) -> None:
    """Draw the error over the guidance effect: over all, by segment (1: highest noise), and of held-out samples."""
    names = sorted({name for line in lines for name in line if name.startswith("err_base")}, key=lambda n: (len(n), n))
    for name in names:
        rows = [line for line in lines if name in line]
        whole = name == "err_base"
        label = "over all" if whole else f"segment {name.rpartition('_')[2]}"
        values = smooth([row[name] for row in rows], decay)
        axes.plot([row["step"] for row in rows], values, linewidth=2.0 if whole else 0.9, label=label)
    if held := [line for line in lines if "held_out_err_base" in line]:
        values = [line["held_out_err_base"] for line in held]
        axes.plot([line["step"] for line in held], values, color="#c0504d", marker="o", markersize=3, label="held out")
    axes.set(xlabel="optimizer step", ylabel="error / guidance effect", yscale="log")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(ncols=3, fontsize="small")
