"""Tests with `--evaluate`: every video of a batch, and the one of `generate`, has its row; a row is made once."""

from __future__ import annotations

import json

from desk import Bench

from avatarctl.batch.history import STATE


def test_every_video_of_a_batch_has_its_row_and_is_measured_once(bench: Bench) -> None:
    source = bench.voices(0.68, 0.7)
    assert bench.run(source).status == 0
    plain = bench.summary()["items"]
    assert all("evaluation" not in row for row in plain)

    first = bench.run(source, "--evaluate", "--json")
    assert first.status == 0, first.err
    rows = {row["output"]: row["evaluation"] for row in bench.summary()["items"]}
    assert first.data() == bench.summary() and set(rows) == {"v00.mp4", "v01.mp4"}
    for name, row in rows.items():
        assert row["path"].endswith(name) and row["pictures"] >= 16 and row["sound"]["duration_s"] > 0.6
        # Random networks make no face.
        assert (
            row["face"]["share"] == 0 and row["findings"][0]["code"] == "no_face" and row["lips"]["correlation"] is None
        )

    kept = sorted((bench.output / STATE).glob("*.evaluation"))
    times = [path.stat().st_mtime_ns for path in kept]
    second = bench.run(source, "--evaluate", "--json")
    assert len(kept) == 2 and [path.stat().st_mtime_ns for path in kept] == times
    assert {row["output"]: row["evaluation"] for row in second.data()["items"]} == rows
    shown = bench.run(source, "--evaluate")
    assert shown.out.count("v00.mp4") >= 1 and "VIDEO" in shown.out and "no face was found" in shown.out

    watched = bench.run(source, "--evaluate", "--watch")
    assert watched.status == 2 and "--watch" in watched.err


def test_generate_has_the_row_in_its_result(bench: Bench) -> None:
    argv = bench.argv(bench.studio / "voice.wav", "--evaluate", "--json", "--quiet")
    argv[argv.index("batch")] = "generate"
    at = argv.index(str(bench.studio / "voice.wav"))
    argv.insert(at, "--audio")
    argv[argv.index(str(bench.output))] = "talk.mp4"
    process = bench.start_any(*argv[3:])
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    data = json.loads(out)["data"]
    row = data["evaluation"]
    assert row["path"] == data["output"] and row["pictures"] == data["pictures"]
    assert row["picture"]["borders"] is None or row["picture"]["borders"] >= 1
    assert row["notes"][-1].endswith("the first second of the video is the reference")
