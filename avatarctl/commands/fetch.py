"""`avatarctl fetch`: download or link sets of weights, verify, convert or remove them."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from avatarctl import console
from avatarctl.commands import options as o
from avatarctl.errors import InputFileError, Interrupted, UsageError, WeightsError
from avatarctl.progress import showing

if TYPE_CHECKING:
    from avatarctl.fetching.record import Record
    from avatarctl.fetching.sets import WeightSet

AGAIN = "run the same command again to resume"


def _set_names(incomplete: str) -> list[str]:
    from avatarctl.fetching.sets import SETS

    return [each.name for each in SETS if each.name.startswith(incomplete)]


def fetch(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SET",
            autocompletion=_set_names,
            help="Sets of weights (else stableavatar-1.3b), or hf://USER/REPO[/FILE], such as a LoRA.",
        ),
    ] = None,
    weights: o.Weights = None,
    source: Annotated[
        Path | None, typer.Option("--from", metavar="FOLDER", help="Link files that are in this folder, download none.")
    ] = None,
    convert: Annotated[
        bool, typer.Option("--convert", help="Also write safetensors in place of pickles: quicker start, less memory.")
    ] = False,
    drop_originals: Annotated[
        bool, typer.Option("--drop-originals", help="With --convert: remove each pickle when it is converted.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch, tag or commit (else what was fetched before, or main).")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the sets, and what of them is there.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read every fetched file and compare its SHA-256.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove what was fetched of these sets.")] = False,
    dry_run: o.DryRun = False,
    force: o.Force = False,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
    progress: o.Progress = "auto",
) -> None:
    """Download weights, or link those that are on this machine. Run the same command again to resume an interrupted download.

    HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_OFFLINE and HF_XET_HIGH_PERFORMANCE are honoured. Large files come through the
    hub's own cache, which other programs share; what it holds is linked. HF_HUB_DISABLE_XET=1 leaves it to plain HTTP.

    Example: avatarctl fetch --convert
    """
    from avatarctl import paths
    from avatarctl.fetching.sets import DEFAULT, SETS, find_set, with_needs

    console.quiet(quiet)
    # Else the hub's library tells which programs are installed here. It reads this when it is imported.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    _check(list_, verify, remove, source, convert, drop_originals, revision, names)
    folder = weights or paths.weights_folder()
    if folder.exists() and not folder.is_dir():
        raise InputFileError(f"{folder}: got a file, expected a folder of weights", "name a folder with --weights")
    asked = [find_set(name) for name in dict.fromkeys(names or [])]
    if list_:
        return _list(folder, asked or [*SETS, *_of_hub(folder)], as_json)
    if verify:
        return _verify(folder, asked, as_json, _kind(quiet, progress))
    if remove:
        return _remove(folder, asked, dry_run, as_json)
    asked = with_needs(names or [DEFAULT])
    show = _kind(quiet, progress)
    if dry_run:
        return _dry_run(folder, asked, source, revision, force, as_json)
    from avatarctl.fetching import record

    results: dict[str, Any] = {}
    try:
        with record.alone(folder):
            for each in asked:
                results[each.name] = _bring(each, folder, source, revision, force, show)
                if convert:
                    results[each.name]["converted"] = _convert(each, folder, drop_originals, show)
    except KeyboardInterrupt as stop:
        raise Interrupted("stopped; what was received is kept", AGAIN, signal.SIGINT) from stop
    console.result("fetch", {"folder": str(folder), "sets": results}, str(folder), as_json)
    return None


def _of_hub(folder: Path) -> list[WeightSet]:
    """Return what was fetched of other repositories."""
    from avatarctl.fetching import record
    from avatarctl.fetching.sets import SETS, find_set

    known = {each.name for each in SETS}
    return [find_set(name) for name in record.read(folder) if name not in known]


def _check(
    list_: bool,
    verify: bool,
    remove: bool,
    source: Path | None,
    convert: bool,
    drop_originals: bool,
    revision: str | None,
    names: list[str] | None,
) -> None:
    """Refuse options that don't go together."""
    given = {"--list": list_, "--verify": verify, "--remove": remove, "--from": source is not None}
    modes = [name for name, on in given.items() if on]
    if len(modes) > 1:
        raise UsageError(f"fetch: got {' and '.join(modes)}, expected one of them", "run one after the other")
    if drop_originals and not convert:
        raise UsageError(
            "--drop-originals: got no --convert, expected both", "avatarctl fetch --convert --drop-originals"
        )
    for name, on in {"--convert": convert, "--revision": revision is not None}.items():
        if on and modes and not (name == "--convert" and modes == ["--from"]):
            raise UsageError(f"fetch: got {name} and {modes[0]}, expected one of them", "run one after the other")
    if remove and not names:
        raise UsageError("--remove: got no set, expected the name of one", "avatarctl fetch --list tells their names")


def _bring(
    weight_set: WeightSet, folder: Path, source: Path | None, revision: str | None, force: bool, show: Any
) -> dict[str, Any]:
    from avatarctl.fetching import record

    records = record.read(folder)
    known = records.get(weight_set.name)
    if source is not None:
        return _link(weight_set, folder, source, records, force)
    if revision is None and record.state(folder, weight_set, known) == "complete":
        assert known is not None
        console.note(f"{weight_set.name}: all {len(known.files)} files are there; --verify reads them")
        return {"revision": known.revision, "bytes": 0, "files": []}
    from avatarctl.fetching.fetch import carry_out, plan

    todo = plan(weight_set, folder, known, revision, force)
    told = todo.to_json()
    console.note(f"{weight_set.name}: {console.size(told['bytes'])} to download into {folder}")
    with showing(show, "MB") as shown:
        carry_out(todo, folder, records, shown)
    return told


def _link(weight_set: WeightSet, folder: Path, source: Path, records: dict[str, Record], force: bool) -> dict[str, Any]:
    from avatarctl.fetching import local, record

    found, missing = local.recognise(weight_set, source)
    made = local.link_found(weight_set, found, folder, records, force) if found else {}
    for path, how in made.items():
        console.note(f"{path}: {how}")
    lacking = record.missing(folder, weight_set, records.get(weight_set.name))
    if lacking:
        problem = WeightsError(
            f"{source}: recognised {len(found)} files of {weight_set.name}; not there: "
            + ", ".join([f"{part.role} ({part.patterns[0]})" for part in missing] or lacking),
            f"avatarctl fetch {weight_set.name} downloads the rest",
        )
        problem.data = {"folder": str(folder), "linked": made, "missing": lacking}
        raise problem
    return {"linked": made}


def _convert(weight_set: WeightSet, folder: Path, drop: bool, show: Any) -> list[str]:
    from avatarctl.fetching import record

    records = record.read(folder)
    pickles = _pickles(records[weight_set.name])
    if not pickles:
        console.note(f"{weight_set.name}: no pickles to convert")
        return []
    console.note(f"{weight_set.name}: converting {', '.join(pickles)}")
    from avatarctl.fetching.convert import convert  # torch

    with showing(show, "files") as shown:
        convert(weight_set, folder, records, pickles, drop, shown)
    return pickles


def _pickles(known: Record) -> list[str]:
    from avatarctl.fetching.sets import converted

    return [path for path in known.files if converted(path) != path]


def _list(folder: Path, asked: list[WeightSet], as_json: bool) -> None:
    from avatarctl.fetching import record

    records = record.read(folder)
    sets, rows = [], []
    for each in asked:
        known = records.get(each.name)
        there = sum(fetched.size for fetched in known.files.values()) if known else 0
        state = record.state(folder, each, known)
        size = console.size(there) if there else f"about {console.size(each.about_bytes)}"
        rows.append((each.name, state, size, each.what))
        sets.append(
            {
                "set": each.name,
                "state": state,
                "revision": known.revision if known else None,
                "bytes": there,
                "about_bytes": each.about_bytes,
                "missing": record.missing(folder, each, known),
                "what": each.what,
            }
        )
    text = console.table(("SET", "STATE", "SIZE", "WHAT"), rows)
    console.result("fetch", {"folder": str(folder), "sets": sets}, text, as_json)


def _verify(folder: Path, asked: list[WeightSet], as_json: bool, show: Any) -> None:
    from avatarctl.fetching import maintain, record

    if not folder.is_dir():
        raise WeightsError(
            f"{folder}: got no such folder, expected one that weights were fetched into", "avatarctl fetch"
        )
    known = record.read(folder)
    names = [each.name for each in asked] or list(known)
    if not names:
        raise WeightsError(f"{folder}: nothing was fetched into it", "avatarctl fetch --list")
    if unknown := [name for name in names if name not in known]:
        raise WeightsError(f"{folder}: {', '.join(unknown)} was not fetched into it", "avatarctl fetch --list")
    with record.alone(folder):
        records = record.read(folder)
        damaged: dict[str, dict[str, str]] = {}
        for name in names:
            with showing(show, "files") as shown:
                if problems := maintain.verify(folder, records, name, shown):
                    damaged[name] = problems
    count = sum(len(records[name].files) for name in names)
    data = {"folder": str(folder), "files": count, "damaged": damaged}
    if damaged:
        told = [f"{path}: {problem}" for problems in damaged.values() for path, problem in problems.items()]
        problem = WeightsError(f"{folder}: {len(told)} of {count} files: {'; '.join(told)}", _again(damaged))
        problem.data = data
        raise problem
    console.result("fetch", data, f"{count} files, all whole", as_json)


def _again(damaged: dict[str, dict[str, str]]) -> str:
    return f"avatarctl fetch {' '.join(damaged)} downloads them again"


def _remove(folder: Path, asked: list[WeightSet], dry_run: bool, as_json: bool) -> None:
    from avatarctl.fetching import maintain, record

    if not record.read(folder):
        raise WeightsError(f"{folder}: nothing was fetched into it", "avatarctl fetch --list")
    gone: list[str] = []
    freed = 0
    with record.alone(folder):
        records = record.read(folder)
        if unknown := [each.name for each in asked if each.name not in records]:
            raise WeightsError(f"{folder}: {', '.join(unknown)} was not fetched into it", "avatarctl fetch --list")
        for each in asked:
            paths, count = (
                (sorted(records[each.name].files), sum(f.size for f in records[each.name].files.values()))
                if dry_run
                else maintain.remove(folder, records, each)
            )
            gone, freed = gone + paths, freed + count
    console.note(
        f"{console.size(freed)} {'would be' if dry_run else 'are'} removed; of linked files only the link goes"
    )
    console.result("fetch", {"folder": str(folder), "removed": gone, "bytes": freed}, "\n".join(gone), as_json)


def _dry_run(
    folder: Path, asked: list[WeightSet], source: Path | None, revision: str | None, force: bool, as_json: bool
) -> None:
    from avatarctl.fetching import local, record

    records, rows = record.read(folder), []
    data: dict[str, Any] = {}
    problem: WeightsError | None = None
    for each in asked:
        known = records.get(each.name)
        if source is not None:
            found, missing = local.recognise(each, source)
            rows += [("link", "", f.path) for f in found] + [("missing", "", part.patterns[0]) for part in missing]
            data[each.name] = {
                "linked": {f.path: str(f.source) for f in found},
                "missing": [part.role for part in missing],
            }
            continue
        if revision is None and known is not None and record.state(folder, each, known) == "complete":
            rows += [("there", console.size(known.files[path].size), path) for path in sorted(known.files)]
            data[each.name] = {"revision": known.revision, "bytes": 0, "files": []}
            continue
        from avatarctl.fetching.fetch import plan

        try:
            todo = plan(each, folder, known, revision, force)
        except WeightsError as error:  # the hub isn't reached: what is known without it
            problem = error
            rows += [("download", f"about {console.size(part.about_bytes)}", part.role) for part in each.parts]
            rows.append(("download", f"about {console.size(each.about_bytes)}", f"{each.name} in all"))
            data[each.name] = {"about_bytes": each.about_bytes, "parts": [part.role for part in each.parts]}
            continue
        data[each.name] = todo.to_json()
        rows += [(step.how, console.size(step.remote.size), step.remote.path) for step in todo.steps]
        rows.append(("download", console.size(todo.to_json()["bytes"]), f"{each.name} in all"))
    text = console.table(("HOW", "SIZE", "FILE"), rows)
    if problem is not None:  # as the download itself would end
        problem.data = {"folder": str(folder), "sets": data}
        if not as_json:
            console.result("fetch", problem.data, text, as_json)
        raise problem
    console.result("fetch", {"folder": str(folder), "sets": data}, text, as_json)


def _kind(quiet: bool, progress: Any) -> Any:
    return "none" if quiet and progress == "auto" else progress
