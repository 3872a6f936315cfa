"""Check weights, AVATARCTL_* variables and presets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from avatarctl import paths
from avatarctl.checks.check import Check
from avatarctl.errors import UsageError, WeightsError
from avatarctl.fetching.record import weights_complete
from avatarctl.networks.header import damage
from avatarctl.settings import presets
from avatarctl.settings.check import make
from avatarctl.weights import EMBEDDED_AVATAR, HINT, find_weights

SIZES: dict[Literal["square", "rec-vec"], tuple[int, int]] = {"square": (512, 512), "rec-vec": (480, 832)}
FETCH = "avatarctl fetch stableavatar-1.3b"


def weights(folder: Path | None) -> Check:
    """Check that the weights of every network are there and whole as far as their ends tell, for all sizes of video."""
    where = folder or paths.weights_folder()
    missing, files = {}, {}
    for variant, size in SIZES.items():
        try:
            files.update(find_weights(folder, size, variant).by_role())
        except WeightsError as error:
            missing[variant] = error.message
        except OSError as error:
            missing[variant] = f"{where}: can't be read ({error.strerror})"
    if len(missing) == len(SIZES):
        return Check("weights", "fail", missing["square"], HINT + EMBEDDED_AVATAR, WeightsError, {"folder": str(where)})
    damaged = [f"{path}: {fault}" for path in files.values() if (fault := damage(path))]
    facts = {"folder": str(where), "variants": [name for name in SIZES if name not in missing]}
    if damaged:
        return Check("weights", "fail", "; ".join(damaged), FETCH, WeightsError, facts)
    try:
        problems = weights_complete(where)
    except WeightsError as error:
        problems = [error.message]
    if problems:
        return Check("weights", "fail", "; ".join(problems), FETCH, WeightsError, facts)
    if missing:
        lacking = next(iter(missing))
        sizes = "square sizes" if lacking == "square" else "sizes that aren't square"
        return Check(
            "weights", "warn", f"in {where}, but none for {sizes}: {missing[lacking]}", FETCH, WeightsError, facts
        )
    return Check("weights", "ok", f"in {where}, for all sizes", facts=facts)


def environment(variables: Mapping[str, str] = os.environ) -> Check:
    """Check ``AVATARCTL_*`` variables: is there a setting of that name, and does it take that value?"""
    ours = sorted(name for name in variables if name.startswith(presets.PREFIX))
    models = {kind: presets.settings_class(kind) for kind in presets.KINDS}
    strange = presets.strange_variables(variables)
    wrong: dict[str, list[str]] = {}
    for kind, model in models.items():
        try:
            values = presets.from_environment(model.model_fields, variables)
            make(model, values, {name: presets.variable_of(name, model.model_fields) for name in values})
        except UsageError as error:
            wrong[kind] = error.message.split("\n")
    # What only training refuses stops no render.
    others = [f"for training: {line}" for line in wrong.get("train", [])]
    facts = {"variables": ours}
    if "render" in wrong:
        return Check(
            "environment",
            "fail",
            "; ".join(dict.fromkeys([*wrong["render"], *strange])),
            "unset it, or set it right",
            UsageError,
            facts,
        )
    if strange or others:
        return Check(
            "environment", "warn", "; ".join([*strange, *others]), "unset it, or call it right", UsageError, facts
        )
    return Check("environment", "ok", ", ".join(ours) or "no AVATARCTL_* variables", facts=facts)


def own_presets() -> Check:
    """Check the user's presets: which are broken, which stand in for shipped ones."""
    broken, instead, count = [], [], 0
    for kind in presets.KINDS:
        for name, path in presets.names(kind).items():
            if presets.is_shipped(path):
                continue
            count += 1
            broken += presets.mistakes(name, kind)
            if presets.shadowed(path, kind):
                instead.append(name)
    said = f"{count} of yours" + (f", {', '.join(instead)} in place of shipped ones" if instead else "")
    if broken:
        return Check(
            "presets", "warn", f"{said}: {'; '.join(dict.fromkeys(broken))}", "avatarctl presets check", UsageError
        )
    return Check("presets", "ok", said, facts={"yours": count, "instead_of_shipped": instead})
