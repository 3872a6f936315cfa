"""Run every check of this machine, in the order in which they depend on each other."""

from __future__ import annotations

from pathlib import Path

from avatarctl.checks import able, files, fit, graphics, machine
from avatarctl.checks.check import Check


def examine(weights: Path | None = None) -> list[Check]:
    """Check this machine for rendering; changes nothing, takes as long as torch takes to be imported.

    ``weights``: folder of the weights (None: where ``avatarctl fetch`` puts them).
    """
    here = Path.cwd()
    rows = [machine.python(), machine.packages()]
    probe, smi = graphics.probe(), graphics.driver()
    rows += graphics.torch_checks(probe, smi)
    gpus = probe.stages["gpus"]["gpus"] if "gpus" in probe.stages else []
    free = machine.available_bytes()
    rows += [machine.main_memory(free), *machine.shared_memory(), fit.fit(gpus, free)]
    found = files.weights(weights)
    folder = Path(found.facts["folder"])
    rows += [machine.ffmpeg(), found, *machine.disks(folder, found.state != "fail", here), machine.folders(here)]
    rows += [files.environment(), files.own_presets()]
    return [*able.without_needless_failures(rows), *able.ables(rows)]
