"""Compare the settings of a resumed run with those of its checkpoint: what is refused, and what is noted from a step on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avatarctl.errors import ChangedError
from avatarctl.settings.distill import place_free
from avatarctl.settings.train import FREE, SHAPE, TrainSettings


def check_shape(was: Mapping[str, Any], now: Mapping[str, Any], base_was: str, base_now: str, run: Path) -> None:
    """Raise ``ChangedError`` that lists every setting of the shape that isn't what the run was begun with."""
    was, now = place_free(was), place_free(now)
    wrong = [f"{name}: was {was[name]}, is {now[name]}" for name in SHAPE if name in was and was[name] != now[name]]
    if base_was != base_now:
        wrong.append(f"weights to start from: sha256 was {base_was[:12]}, is {base_now[:12]}")
    if wrong:
        raise ChangedError(
            f"{run}: its checkpoint has another shape:\n  " + "\n  ".join(wrong),
            "resume with the old ones (run.json has them), or train into another --output; "
            "learning rate, batches, data and whatever else changes no shape may be others",
        )


def changed(was: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return setting of the course -> (what it was, what it is); one that an older version didn't know is unchanged."""
    names = [name for name in now if name in was and name not in (*SHAPE, *FREE)]
    found = {name: (was[name], now[name]) for name in names if was[name] != now[name]}
    if now.get("decay", "constant") != "constant" and was.get("steps") != now.get("steps"):
        found["steps"] = was.get("steps"), now.get("steps")  # the learning rate falls to its end
    return found


def in_words(step: int, changes: Mapping[str, tuple[Any, Any]]) -> str:
    """Return a note such as "from step 501: learning_rate 0.001 → 0.0001"."""
    parts = []
    for name, (was, now) in changes.items():
        fresh = " (its state starts over)" if name == "optimizer" else ""
        parts.append(f"{name} {_plain(was)} → {_plain(now)}{fresh}")
    return f"from step {step}: {', '.join(parts)}"


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def settings_of(settings: TrainSettings) -> dict[str, Any]:
    """Return settings as JSON holds them."""
    content: dict[str, Any] = json.loads(settings.model_dump_json())
    return content
