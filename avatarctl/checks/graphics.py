"""Check torch, driver, GPUs, number formats and attention from nvidia-smi and a process with torch."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avatarctl.checks.check import GIB, Check, gib
from avatarctl.checks.probe import STAGES

PROBE_TIMEOUT_S = 180.0  # a cold disk and two cores take half a minute to import everything
DRIVER_TIMEOUT_S = 30.0
LITTLE_BYTES = 2 * GIB  # less than any memory mode needs (networks/memory.py)
TORCH = "pip install --force-reinstall torch"
QUERY = ("index", "name", "memory.total", "memory.free")


@dataclass(frozen=True)
class Probe:
    """What the process with torch said stage by stage, the stage it broke in, and its ending in words ("" for well)."""

    stages: Mapping[str, Mapping[str, Any]]
    broken_in: str = ""
    ending: str = ""


@dataclass(frozen=True)
class Driver:
    """What nvidia-smi says; ``problem`` when it can't. ``cuda``: the newest CUDA that the driver runs."""

    version: str = ""
    cuda: str = ""
    gpus: tuple[Mapping[str, Any], ...] = field(default=())
    problem: str = ""


def probe(python: str = sys.executable, timeout_s: float = PROBE_TIMEOUT_S) -> Probe:
    """Run a Python that imports torch and looks around; whatever becomes of it, this process goes on."""
    # The package has to be found where it was found for us; -P keeps files of the working folder out.
    root = str(Path(__file__).parents[2])
    search = os.pathsep.join(part for part in (os.environ.get("PYTHONPATH"), root) if part)
    command = [python, "-P", "-m", "avatarctl.checks.probe"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            check=False,
            timeout=timeout_s,
            env={**os.environ, "PYTHONPATH": search},
            stdin=subprocess.DEVNULL,
        )
        out, code, said = done.stdout, done.returncode, done.stderr
    except subprocess.TimeoutExpired as error:
        out, code, said = error.stdout or b"", None, b""
    lines = list(_json_lines(out.decode(errors="replace")))
    stages = {line["stage"]: line for line in lines if "stage" in line}
    if code is None:
        ending = f"no answer in {timeout_s:g} s"
    elif code < 0:
        ending = f"killed by {signal.Signals(-code).name}"
    elif code:
        last = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
        ending = last[-1] if last else f"ended with {code}"
    else:
        ending = ""
    broken_in = next((stage for stage in STAGES if stage not in stages), "")
    return Probe(stages, broken_in, ending or (f"ended early in '{broken_in}'" if broken_in else ""))


def _json_lines(text: str) -> Iterator[dict[str, Any]]:
    """Return the objects among the lines: a library may have written others."""
    for line in text.splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found


def driver() -> Driver | None:
    """Ask nvidia-smi for the driver and its GPUs; None without it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        query = [program, f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
        rows, page = _say(query), _say([program])
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stdout", None) or getattr(error, "stderr", None) or str(error)
        return Driver(problem=str(said).strip().splitlines()[0])
    gpus = []
    for row in rows.splitlines():
        cells = [cell.strip() for cell in row.split(",")]
        if len(cells) == len(QUERY):
            gpus.append(dict(zip(QUERY, cells, strict=True)))
    # Drivers from 610 on say "KMD Version" and "CUDA UMD Version".
    version = re.search(r"(?:Driver|KMD) Version:\s*([\d.]+)", page)
    newest = re.search(r"CUDA (?:UMD )?Version:\s*(\d+\.\d+)", page)
    return Driver(version.group(1) if version else "", newest.group(1) if newest else "", tuple(gpus))


def _say(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=DRIVER_TIMEOUT_S).stdout


def torch_checks(found: Probe, smi: Driver | None) -> list[Check]:
    """Return the rows: torch, driver, one for each GPU, number formats, attention."""
    torch = found.stages.get("torch")
    if torch is None:
        missing = "No module named 'torch'" in found.ending
        state = "not installed" if missing else f"broken: {found.ending}"
        return [Check("torch", "fail", state, "pip install torch" if missing else TORCH), *_driver_checks(smi, None)]
    build = f"CUDA {torch['cuda']}" if torch["cuda"] else f"ROCm {torch['hip']}" if torch["hip"] else "CPU only"
    facts = {key: torch[key] for key in ("version", "cuda", "hip")}
    rows = [Check("torch", "ok", f"{torch['version']} ({build})", facts=facts), *_driver_checks(smi, torch)]
    if found.ending and not found.broken_in:
        rows[0] = Check("torch", "warn", f"{rows[0].found}; after its work: {found.ending}", TORCH, facts=facts)
    if found.broken_in == "gpus":
        fix = "install another build of torch or driver; --device cpu works around it"
        return [*rows, Check("GPU", "fail", f"torch dies when it looks for GPUs: {found.ending}", fix)]
    rows += _gpu_checks(found.stages["gpus"], torch, smi)
    if found.broken_in == "attention":
        fix = "pip install --force-reinstall diffusers transformers"
        return [*rows, Check("attention", "fail", f"the networks can't be imported: {found.ending}", fix)]
    attention = found.stages["attention"]
    named = [name for name in attention["usable"] if not name.startswith("_")]  # the others are variants of these
    usable = ", ".join(("auto", *named))
    return [
        *rows,
        _formats(found.stages["gpus"]["gpus"], attention["cpu_float8"]),
        Check("attention", "ok", f"{usable} (on {attention['device']})", facts={"usable": attention["usable"]}),
    ]


def _driver_checks(smi: Driver | None, torch: Mapping[str, Any] | None) -> list[Check]:
    if smi is None:
        return []
    if smi.problem:
        return [
            Check("driver", "fail", f"nvidia-smi: {smi.problem}", "restart the machine, or install the driver again")
        ]
    facts = {"version": smi.version, "cuda": smi.cuda}
    found = f"{smi.version or 'unknown version'}, runs CUDA up to {smi.cuda or 'unknown'}"
    if not smi.gpus:
        return [Check("driver", "warn", "nvidia-smi finds no GPU", "nvidia-smi -L", facts=facts)]
    build = torch["cuda"] if torch else None
    # Within one major version newer builds run on older drivers; over its border they don't.
    if build and smi.cuda and int(build.split(".")[0]) > int(smi.cuda.split(".")[0]):
        fix = f"update the NVIDIA driver, or install a torch built for CUDA {smi.cuda.split('.')[0]}"
        return [Check("driver", "fail", f"{found}; torch is built for CUDA {build}", fix, facts=facts)]
    return [Check("driver", "ok", found, facts=facts)]


def _gpu_checks(stage: Mapping[str, Any], torch: Mapping[str, Any], smi: Driver | None) -> list[Check]:
    if stage["gpus"]:
        return [_gpu_check(gpu) for gpu in stage["gpus"]]
    seen = smi.gpus if smi else ()
    if not seen:
        found = "none: renders run on the CPU, where the released network is far slower"
        return [
            Check(
                "GPU",
                "warn",
                found,
                "`avatarctl demo` needs none; for the released network use a machine with an NVIDIA GPU",
            )
        ]
    names = ", ".join(str(gpu["name"]) for gpu in seen)
    if not torch["cuda"]:
        return [Check("GPU", "fail", f"{names}; but torch is built for the CPU only", f"{TORCH}, in a CUDA build")]
    if why := "; ".join(stage["warnings"]):
        return [Check("GPU", "fail", f"{names}; torch can't use them: {why}", "update the NVIDIA driver")]
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        found = f"{names}; CUDA_VISIBLE_DEVICES='{chosen}' hides them"
        return [Check("GPU", "fail", found, "unset CUDA_VISIBLE_DEVICES")]
    return [Check("GPU", "fail", f"{names}; torch can't use them and doesn't say why", "update the NVIDIA driver")]


def _gpu_check(gpu: Mapping[str, Any]) -> Check:
    name = f"GPU {gpu['index']}"
    about = f"{gpu['name']} (compute capability {gpu['capability']})"
    if not gpu["computes"]:
        why = gpu.get("error", "a product of matrices came out wrong")
        fix = f"install a build of torch for compute capability {gpu['capability']}, or free the GPU (nvidia-smi)"
        return Check(name, "fail", f"{about}: {why}", fix, facts=gpu)
    found = f"{about}, {gib(gpu['free_bytes'])} of {gib(gpu['total_bytes'])} free"
    if gpu["free_bytes"] < LITTLE_BYTES:
        return Check(name, "warn", found, "nvidia-smi shows who uses it; end that first", facts=gpu)
    return Check(name, "ok", found, facts=gpu)


def _formats(gpus: list[Mapping[str, Any]], cpu_float8: bool) -> Check:
    """Say what weights can be stored and computed in, on every GPU or on the CPU."""
    if not gpus:
        stored = "float8 weights" if cpu_float8 else "no float8"
        return Check("number formats", "ok", f"float32, {stored} (CPU)", facts={"bfloat16": True, "float8": cpu_float8})
    facts = {name: all(gpu.get(name, False) for gpu in gpus) for name in ("bfloat16", "float8")}
    if not facts["bfloat16"]:
        fix = "--dtype float16 (auto does), and no float8 weights: they need bfloat16"
        return Check("number formats", "warn", "no bfloat16: computes in float16", fix, facts=facts)
    if not facts["float8"]:
        return Check("number formats", "warn", "bfloat16, no float8 weights", "--memory group saves more", facts=facts)
    return Check("number formats", "ok", "bfloat16, float8 weights", facts=facts)
