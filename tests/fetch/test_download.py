"""Tests with a fake hub with and without faults: exactly the needed files arrive whole, or why none does."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from fakehub import Fault, Hub
from shelf import NEEDED, SEPARATOR, SIZES, SQUARE, Fetch, files_in, whole

from avatarctl.console import size
from avatarctl.fetching import record


def test_downloads_exactly_what_is_needed_and_records_it(fetch: Fetch, hub: Hub, folder: Path) -> None:
    done = fetch("--progress", "json")
    assert done.code == 0, done.err
    assert done.out == f"{folder}\n"
    assert files_in(folder) == sorted(NEEDED) and whole(folder, hub, NEEDED)
    entry = record.read(folder)["stableavatar-1.3b"]
    assert entry.revision == hub.commit and sorted(entry.files) == sorted(entry.needed) == sorted(NEEDED)
    assert {path: fetched.size for path, fetched in entry.files.items()} == {path: SIZES[path] for path in NEEDED}
    assert record.weights_complete(folder) == []
    # Nothing is asked but what the set needs, and nothing told of what is installed here.
    assert {path for _, path, _ in hub.asked if not path.startswith(("/FrancisRing/", "/store/"))} == {
        "/api/models/FrancisRing/StableAvatar/revision/main"
    }
    assert hub.agents and not any("torch" in agent for agent in hub.agents)
    told = [json.loads(line) for line in done.err.splitlines()]
    steps = [row for row in told if row["event"] == "progress"]
    assert steps[-1]["MB"] == steps[-1]["of"] == 3
    assert steps[-1]["bytes"] == steps[-1]["of_bytes"] == sum(SIZES[path] for path in NEEDED)
    assert steps[-1]["fraction"] == 1 and steps[-1]["name"] in NEEDED
    assert told[-1] == {"event": "finished", "status": "done", "exit_code": 0}


def test_a_second_fetch_needs_no_network(fetch: Fetch, hub: Hub, folder: Path) -> None:
    assert fetch("vocal-separator").code == 0
    asked = len(hub.asked)
    done = fetch("vocal-separator", HF_HUB_OFFLINE="1")
    assert (done.code, len(hub.asked)) == (0, asked) and "all 1 files are there" in done.err


def test_sets_are_added_to_each_other(fetch: Fetch, hub: Hub, folder: Path) -> None:
    assert fetch("vocal-separator").code == 0
    assert fetch("stableavatar-1.3b", "vocal-separator", "--quiet").err == ""
    assert whole(folder, hub, [*NEEDED, SEPARATOR])
    listed = {each["set"]: each for each in fetch("--list", "--json").data()["sets"]}
    fetched = {name: each["state"] for name, each in listed.items() if each["state"] != "absent"}
    assert fetched == {"stableavatar-1.3b": "complete", "vocal-separator": "complete"}
    assert listed["vocal-separator"]["bytes"] == SIZES[SEPARATOR]


def test_list_tells_what_there_is(fetch: Fetch, hub: Hub, folder: Path) -> None:
    done = fetch("--list")
    assert done.code == 0 and hub.asked == [] and not folder.exists()
    assert [line.split()[:3] for line in done.out.splitlines()[1:]] == [
        ["stableavatar-1.3b", "absent", "about"],
        ["wan2.1-fun-1.3b", "absent", "about"],
        ["wan2.1-i2v-14b", "absent", "about"],
        ["speech-encoder", "absent", "about"],
        ["vocal-separator", "absent", "about"],
    ]


def test_dry_run_lists_files_and_bytes_and_does_nothing(fetch: Fetch, hub: Hub, folder: Path) -> None:
    found = fetch("--dry-run", "--json").data()["sets"]["stableavatar-1.3b"]
    assert {each["path"]: each["bytes"] for each in found["files"]} == {path: SIZES[path] for path in NEEDED}
    assert found["bytes"] == sum(SIZES[path] for path in NEEDED) and found["revision"] == hub.commit
    assert not folder.exists() and hub.downloads() == []
    assert f"download  {size(SIZES[SEPARATOR])}" in fetch("vocal-separator", "--dry-run").out


def test_a_cut_connection_is_taken_up_where_it_ended(fetch: Fetch, hub: Hub, folder: Path) -> None:
    hub.faults = [Fault("cut", 2, SQUARE)]
    done = fetch()
    assert done.code == 0 and whole(folder, hub, NEEDED)
    size = SIZES[SQUARE]
    assert [span for _, span in hub.downloads(SQUARE)] == [None, f"bytes={size // 2}-", f"bytes={size * 3 // 4}-"]
    assert f"cut at {size // 2} of {size} bytes; continuing" in done.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_download_goes_on(
    start: Callable[..., subprocess.Popen[str]], fetch: Fetch, hub: Hub, folder: Path, number: signal.Signals
) -> None:
    hub.faults = [Fault("slow", 1, SQUARE)]
    process = start()
    assert hub.reached.wait(30)
    part = wait_for_part(folder, SIZES[SQUARE] // 2)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    if number == signal.SIGINT:
        assert (
            process.returncode == 130 and "hint: run the same command again to resume" in err and "Traceback" not in err
        )
    else:
        assert process.returncode == -number
    assert out == "" and not (folder / SQUARE).exists() and part.exists()
    assert any(SQUARE in problem for problem in record.weights_complete(folder))
    assert fetch().code == 0
    assert whole(folder, hub, NEEDED) and not (folder / ".parts").exists()
    # Not a byte is asked for twice.
    assert [span for _, span in hub.downloads(SQUARE)] == [None, f"bytes={SIZES[SQUARE] // 2}-"]


def wait_for_part(folder: Path, size: int) -> Path:
    """Return the file that holds the first half of the download once it does."""
    import time

    for _ in range(500):
        for part in folder.glob(".parts/*/*.part"):
            if part.stat().st_size == size:
                return part
        time.sleep(0.02)
    raise AssertionError(list(folder.rglob("*")))


def test_what_was_begun_at_a_commit_is_not_mixed_with_a_newer_one(fetch: Fetch, hub: Hub, folder: Path) -> None:
    hub.faults = [Fault("403", None, SEPARATOR)]
    assert fetch("vocal-separator").code == 5
    begun, hub.faults = hub.commit, []
    hub.files[SEPARATOR] += b"newer"
    done = fetch("vocal-separator")
    assert done.code == 5 and begun[:12] in done.err and "avatarctl fetch --revision main" in done.err
    assert fetch("vocal-separator", "--revision", "main").code == 0
    assert whole(folder, hub, [SEPARATOR]) and record.read(folder)["vocal-separator"].revision == hub.commit
    hub.files[SEPARATOR] += b"still newer"
    assert fetch("vocal-separator").code == 0 and not whole(folder, hub, [SEPARATOR])
    assert fetch("vocal-separator", "--revision", "main").code == 0 and whole(folder, hub, [SEPARATOR])


def mark_of(path: str) -> str:
    """Return what tells, in the name of a part, of which file it is."""
    return hashlib.sha256(path.encode()).hexdigest()[:8]


@pytest.mark.parametrize("path", [SEPARATOR, "wav2vec2-base-960h/config.json"])
def test_wrong_bytes_are_refused(fetch: Fetch, hub: Hub, folder: Path, path: str) -> None:
    hub.faults = [Fault("wrong", 1, path)]
    names = ("vocal-separator",) if path == SEPARATOR else ()
    done = fetch(*names)
    assert done.code == 5 and "another hash than the hub tells" in done.err and path in done.err
    # What came of others, beside it, is kept.
    assert not (folder / path).exists() and not list(folder.glob(f".parts/*/*.{mark_of(path)}.part"))
    assert fetch(*names).code == 0 and whole(folder, hub, [path])


@pytest.mark.parametrize("kind", ["longer", "empty"])
def test_more_or_less_bytes_than_told_are_refused(fetch: Fetch, hub: Hub, folder: Path, kind: str) -> None:
    hub.faults = [Fault(kind, None, SEPARATOR)]
    done = fetch("vocal-separator")
    assert done.code == 5 and ("more than the" if kind == "longer" else "got nothing after 0 of") in done.err
    assert not (folder / SEPARATOR).exists()


def test_a_server_without_ranges_sends_it_all_again(fetch: Fetch, hub: Hub, folder: Path) -> None:
    hub.faults = [Fault("cut", 1, SEPARATOR), Fault("ignore-range", None, SEPARATOR)]
    assert fetch("vocal-separator").code == 0 and whole(folder, hub, [SEPARATOR])


@pytest.mark.parametrize(
    ("fault", "said", "hint"),
    [
        (Fault("401", headers={"X-Error-Message": "Invalid credentials"}), "got 401", "HF_TOKEN"),
        (Fault("401", headers={"X-Error-Code": "GatedRepo"}), "asks for consent", "agree to them on"),
        (Fault("403", headers={"X-Error-Code": "GatedRepo"}), "asks for consent", "agree to them on"),
        (Fault("403"), "got 403", "right to read"),
        (Fault("404", headers={"X-Error-Code": "RepoNotFound"}), "no such repository", "HF_ENDPOINT"),
        (Fault("404", headers={"X-Error-Code": "RevisionNotFound"}), "no such revision", "--revision main"),
        (Fault("429", headers={"Retry-After": "600"}), "asked too often", "wait 600 s"),
        (Fault("429", headers={"Retry-After": "0"}), "asked too often", "HF_TOKEN"),
        (Fault("500", headers={"Retry-After": "0"}), "got 500", "try again later"),
        (Fault("503", None, SEPARATOR, {"Retry-After": "0"}), "got 503", "run the same command again to resume"),
        (Fault("404", None, SEPARATOR, {"X-Error-Code": "EntryNotFound"}), "no such file", "--revision main"),
        (Fault("html"), "not a model hub's", "HF_ENDPOINT"),
    ],
    ids=lambda value: f"{value.kind}{value.path}" if isinstance(value, Fault) else "",
)
def test_what_the_hub_answers_is_explained(
    fetch: Fetch, hub: Hub, folder: Path, fault: Fault, said: str, hint: str
) -> None:
    hub.faults = [fault]
    done = fetch("vocal-separator", "--json")
    assert done.code == 5 and files_in(folder) == []
    (error,) = done.json()["errors"]
    assert said in error["message"] and (hub.url if fault.kind == "html" else "FrancisRing/") in error["message"]
    assert hint in error["hint"] and f"hint: {error['hint']}" in done.err


@pytest.mark.parametrize("path", ["/api/models/", SEPARATOR])
@pytest.mark.parametrize("kind", ["429", "500"])
def test_a_busy_hub_is_asked_again_after_the_time_it_names(
    fetch: Fetch, hub: Hub, folder: Path, kind: str, path: str
) -> None:
    hub.faults = [Fault(kind, 2, path, {"Retry-After": "0"})]
    done = fetch("vocal-separator")
    assert done.code == 0 and whole(folder, hub, [SEPARATOR])
    assert done.err.count(f"the hub answers {kind}; trying again in 0 s") == 2


def test_no_network(fetch: Fetch, folder: Path) -> None:
    done = fetch("vocal-separator", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.code == 5 and "http://127.0.0.1:9: got no connection" in done.err and "HTTPS_PROXY" in done.err
    done = fetch("vocal-separator", HF_ENDPOINT="no-url")
    assert done.code == 5 and "HF_ENDPOINT" in done.err


def test_offline_mode(fetch: Fetch, hub: Hub, folder: Path) -> None:
    done = fetch("vocal-separator", HF_HUB_OFFLINE="1")
    assert done.code == 5 and "got HF_HUB_OFFLINE set" in done.err and "--from" in done.err and hub.asked == []


def test_the_token_is_shown_to_the_hub_alone(fetch: Fetch, hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.token = "hf_right"
    assert "got 401" in fetch("vocal-separator", HF_TOKEN="hf_wrong").err
    assert fetch("vocal-separator", HF_TOKEN="hf_right").code == 0 and whole(folder, hub, [SEPARATOR])
    assert not hub.stored_with_token
    (tmp_path / "hf").mkdir(exist_ok=True)
    (tmp_path / "hf" / "token").write_text("hf_right")  # as a login leaves it
    assert fetch().code == 0 and whole(folder, hub, NEEDED)


def test_a_file_in_the_hubs_own_cache_is_linked(fetch: Fetch, hub: Hub, folder: Path, tmp_path: Path) -> None:
    repo = tmp_path / "hf" / "hub" / "models--FrancisRing--StableAvatar"
    blob, snapshot = repo / "blobs" / "abc", repo / "snapshots" / hub.commit
    blob.parent.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    blob.write_bytes(hub.files[SEPARATOR])
    (snapshot / SEPARATOR).symlink_to(blob)
    assert fetch("vocal-separator").code == 0
    assert (folder / SEPARATOR).samefile(blob) and hub.downloads() == []
    assert record.read(folder)["vocal-separator"].files[SEPARATOR].source == "cache"


def test_a_full_disk_is_explained_and_the_same_command_goes_on(fetch: Fetch, hub: Hub, folder: Path) -> None:
    # What is received goes to a device that is always full.
    content = hashlib.sha256(hub.files[SEPARATOR]).hexdigest()
    part = folder / ".parts" / "vocal-separator" / f"{content}.{mark_of(SEPARATOR)}.part"
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    done = fetch("vocal-separator")
    assert done.code == 8 and "the disk is full" in done.err and "make room" in done.err
    assert files_in(folder) == []
    part.unlink()
    assert fetch("vocal-separator").code == 0 and whole(folder, hub, [SEPARATOR])


def test_a_disk_without_room_is_told_before_anything_is_received(
    hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from avatarctl.errors import DeviceError
    from avatarctl.fetching.fetch import Plan, Step, carry_out
    from avatarctl.fetching.hub import Remote
    from avatarctl.fetching.sets import find_set

    folder.mkdir()
    huge = Step(Remote(SEPARATOR, 1 << 60, None, "0" * 40), "download")
    with pytest.raises(DeviceError, match="MB of free disk, expected"):
        carry_out(Plan(find_set("vocal-separator"), "c" * 40, (huge,)), folder, {}, lambda *_, **__: None)
    assert list(folder.iterdir()) == [] and hub.asked == []


def test_another_file_in_the_way_is_kept_unless_forced(fetch: Fetch, hub: Hub, folder: Path) -> None:
    folder.mkdir()
    (folder / SEPARATOR).write_bytes(b"mine")
    done = fetch("vocal-separator")
    assert done.code == 2 and "--force replaces it" in done.err and (folder / SEPARATOR).read_bytes() == b"mine"
    assert fetch("vocal-separator", "--force").code == 0 and whole(folder, hub, [SEPARATOR])


def test_the_right_file_that_is_there_is_only_recorded(fetch: Fetch, hub: Hub, folder: Path) -> None:
    folder.mkdir()
    (folder / SEPARATOR).write_bytes(hub.files[SEPARATOR])
    assert fetch("vocal-separator").code == 0 and hub.downloads() == []
    assert record.read(folder)["vocal-separator"].files[SEPARATOR].size == SIZES[SEPARATOR]


def test_a_part_that_the_hub_lacks_is_named(fetch: Fetch, hub: Hub, folder: Path) -> None:
    del hub.files[SQUARE]
    done = fetch()
    assert done.code == 5 and "has no transformer for square videos" in done.err and files_in(folder) == []


def test_a_folder_that_is_being_fetched_into_is_busy(
    start: Callable[..., subprocess.Popen[str]], fetch: Fetch, hub: Hub, folder: Path
) -> None:
    hub.faults = [Fault("slow", 1, SQUARE)]
    process = start()
    assert hub.reached.wait(30)
    done = fetch("vocal-separator")
    assert done.code == 6 and "another process is fetching" in done.err
    process.kill()
    process.communicate()
    assert fetch("vocal-separator").code == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(fetch: Fetch, folder: Path) -> None:
    folder.mkdir(mode=0o555)
    done = fetch("vocal-separator")
    assert done.code == 4 and "--weights" in done.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("stableavatar",), 2, "did you mean `avatarctl fetch stableavatar-1.3b`?"),
        (("stableavatar-14b",), 2, "got 'stableavatar-14b', expected one of stableavatar-1.3b, wan2.1-fun-1.3b,"),
        (("xyz",), 2, "--list"),
        (("--drop-originals",), 2, "got no --convert"),
        (("--list", "--verify"), 2, "got --list and --verify"),
        (("--verify", "--convert"), 2, "got --convert and --verify"),
        (("--from", ".", "--revision", "main"), 2, "got --revision and --from"),
        (("--remove",), 2, "got no set"),
        (("--remove", "vocal-separator"), 5, "nothing was fetched"),
        (("--verify",), 5, "got no such folder"),
        (("--weights", "README.md"), 4, "README.md: got a file"),
        (("--from", "nowhere"), 4, "nowhere: got no such folder"),
    ],
)
def test_bad_input(fetch: Fetch, hub: Hub, folder: Path, words: tuple[str, ...], code: int, said: str) -> None:
    done = fetch(*words)
    assert done.code == code and said in done.err and "hint: " in done.err and done.out == ""
    assert hub.asked == [] and files_in(folder) == []
