"""Tests with the device benchmark at tiny size: every section runs, counts rightly and survives full memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from avatarctl.networks.memory import latent_tokens  # noqa: E402
from benchmarks import bench as common  # noqa: E402
from benchmarks import device as bench  # noqa: E402
from benchmarks import fewer_steps, student_gates  # noqa: E402
from benchmarks import render_bookkeeping as bookkeeping  # noqa: E402


def tiny(target: Path | None = None) -> common.Bench:
    return common.Bench(torch.device("cpu"), tiny=True, minutes=0.001, target=target)


@pytest.mark.long
def test_one_command_gives_every_section(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/device.py", "--tiny", "--device", "cpu", "--json", str(tmp_path / "d.json")]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    figures = json.loads((tmp_path / "d.json").read_text())
    assert set(bench.SECTIONS) <= set(figures)
    assert all(name in out.stdout for name in bench.SECTIONS)
    assert {(tuple(row["size"]), row["float8"]) for row in figures["passes"]} == {
        (size, float8) for size in tiny().sizes for float8 in (False, True)
    }
    assert all(row["window_step_s"] > 0 and row["pass_s"] > 0 for row in figures["passes"])
    assert all(share > 0 for share in figures["matmul"]["share_of_limit"].values())
    assert [row["mode"] for row in figures["memory"]] == [*common.MODES, "full"]
    assert all(row["decode_per_s"] > 0 and row["encode_per_s"] > 0 for row in figures["vae"])
    assert all(row["measured_gib"] == "runs; not measured on the CPU" for row in figures["memory"])
    assert figures["equality"]["windows"] > 2
    assert figures["equality"]["wavefront_equals_steps"] is True
    assert figures["equality"]["batch_of_two_largest_difference"] < 1e-4
    assert all(row["seconds_per_second"] > 0 for row in figures["video"])


@torch.inference_mode()
def test_operations_are_counted_as_torch_counts_them() -> None:
    run = tiny()
    for size in run.sizes:
        model = common.random_transformer(run.dims, run.dtype, run.device)
        # The counter knows no fused attention of the CPU.
        bench.residency_of(run.placement(attention="_native_math")).place(model)
        with FlopCounterMode(display=False) as counter:
            model(**run.inputs(size))
        tokens = latent_tokens(run.dims, *size, common.WINDOW)
        assert bench.flops_per_pass(run.dims, tokens, run.dims.text_len, 257, 161) == pytest.approx(
            counter.get_total_flops(), rel=0.05
        )


@torch.no_grad()
def test_the_compared_network_hears() -> None:
    run = tiny()
    model, inputs = run.transformer(), run.inputs(run.sizes[0])
    assert not torch.allclose(model(**inputs).sample, model(**{**inputs, "audio_states": None}).sample, atol=1e-2)


def test_full_memory_while_measuring_memory_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def sometimes(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 1:
            raise torch.OutOfMemoryError
        return real(*arguments)

    real = bench.measure_peak
    monkeypatch.setattr(bench, "measure_peak", sometimes)
    run = tiny()
    run.sizes = run.sizes[:1]
    bench.peak_memory(run)
    assert [row["measured_gib"] == common.OUT_OF_MEMORY for row in run.figures["memory"]] == [True] + 4 * [False]


def test_a_section_out_of_memory_does_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setitem(bench.SECTIONS, "vae", full)
    figures = bench.run(tiny(tmp_path / "d.json"), ["vae", "video"])
    assert figures["vae"] == common.OUT_OF_MEMORY
    assert figures["video"][0]["seconds_per_second"] is None
    assert json.loads((tmp_path / "d.json").read_text())["vae"] == common.OUT_OF_MEMORY


def test_a_row_out_of_memory_does_not_end_the_section(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def sometimes(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError
        return real(*arguments)

    real = common.random_transformer
    monkeypatch.setattr(common, "random_transformer", sometimes)
    run = tiny()
    run.sizes = run.sizes[:1]
    bench.passes(run)
    rows = run.figures["passes"]
    assert [row["pass_s"] == common.OUT_OF_MEMORY for row in rows] == [False, True]


def test_the_window_step_benchmark_runs(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/window_step.py", "--size", "64x64", "--dim", "128", "--layers", "1"]
    subprocess.run([*command, "--device", "cpu", "--json", str(tmp_path / "w.json")], cwd=ROOT, check=True)
    seconds = json.loads((tmp_path / "w.json").read_text())["seconds"]
    assert sum(value for part, value in seconds.items() if part != "total") == pytest.approx(seconds["total"])


def test_the_bookkeeping_of_a_render_is_measured_at_every_length(tmp_path: Path) -> None:
    rows = bookkeeping.measure(tmp_path, (60, 1200), rounds=2)
    assert [row["windows"] for row in rows] == [23 + 5, 469 + 5]  # those that were there, and five turns
    assert rows[1]["index_mb"] > 10 * rows[0]["index_mb"]
    assert all(row["window_ms"] >= row["processor_ms"] > 0 for row in rows)


@pytest.mark.long
def test_several_real_processes_are_killed_and_resumed_to_the_byte(tmp_path: Path) -> None:
    from benchmarks import team_kills

    team_kills.furnish(tmp_path, seconds=3)
    found = team_kills.measure(tmp_path, processes=2, kills=2, seed=1, launcher_too=False)
    assert len(found["kills"]) >= 2 and found["renders"] >= 1 and found["several"] > 0


def cells(row: str, distances: list[float], **more: object) -> list[dict[str, object]]:
    return [
        {
            "scale": 3.0,
            "pair": f"pair-{i}",
            "seed": 0,
            "row": row,
            "passes": 57,
            "windows": [d, d],
            "distance": d,
            **more,
        }
        for i, d in enumerate(distances)
    ]


def test_the_table_of_few_steps_has_intervals_and_says_which_goals_are_reached() -> None:
    assert fewer_steps.interval([[1.0, 3.0], [2.0]]) == [2.0, 2.0, 2.0]
    middle, low, high = fewer_steps.interval([[1.0], [2.0], [3.0]], [[1.0], [1.0], [1.0]])
    assert middle == 2.0 and low < 1.5 and high > 2.5
    found = [*cells("Euler 50", [0.1, 0.2]), *cells("ab2 25, interval [0, 0.9]", [0.12, 0.3])]
    found += [*cells("Euler 8, uniform", [0.4, 0.5]), *cells("student a", [0.3, 0.4], student=8)]
    text = fewer_steps.table(found, [3.0])
    assert "Audio scale 3: 4 windows, 2 renders" in text
    assert "| ab2 25, interval [0, 0.9] | 57 | 0.2100 (0.1200 to 0.3000) | 1.40 (1.20 to 1.50) |" in text
    assert "- ab2 25, interval [0, 0.9]: 1.400 (1.200 to 1.500) of Euler 50, at most 1.5: reached" in text
    assert (
        "- student a: 0.778 (0.750 to 0.800) of Euler 8, uniform, at most 0.95: reached; "
        "by pair 0.75 to 0.80 (at most 1)" in text
    )


def shown(opening: list[float], found: int, motion: float, wide: float) -> dict[str, object]:
    return {
        "opening": opening,
        "expected": [0.0, 1.0, 0.0, 1.0],
        "correlation": 0.9,
        "amplitude": 1.0,
        "closures": {"wanted": 10, "found": found, "shown": 10, "right": 9},
        "width_correlation": 0.8,
        "width_amplitude": wide,
        "motion": motion,
        "borders": {"count": 2, "whole": 1.0},
    }


def test_students_are_judged_by_what_their_pictures_show() -> None:
    def row(name: str, measured: dict[str, object], **more: object) -> list[dict[str, object]]:
        made = cells(name, [0.1, 0.2], measured=measured, **more)
        made[1]["measured"] = {**measured, "expected": [1.0, 0.0, 0.0, 1.0]}
        return made

    follows = [0.0, 1.0, 0.0, 1.0]
    found = [*row("reference", shown(follows, 9, 4.0, 1.5)), *row("Euler 4, uniform", shown(follows, 9, 4.0, 1.5))]
    found += row("student a", shown(follows, 8, 3.5, 1.4), student=4)
    text = "\n".join(student_gates.tables(found))
    # The first pair's opening against the second one's voice, and the other way round: 0 and 1.
    assert "| student a | 0.900 | 1.000 | 0.800 | 0.900 | 0.800 | 1.400 | 3.500 | 1.000 | 0.500 |" in text
    assert "- student a: closures found 0.800, at least 0.870: NOT reached" in text
    assert "- student a: motion 3.500, at least 3.680: NOT reached" in text
    assert "- student a: width's amplitude 1.400, at least 1.275: reached" in text
    assert "- student a: wrong voice 0.500, at most 0.150: NOT reached" in text
    assert "Euler 4, uniform: " not in text


@pytest.mark.long
def test_the_table_of_few_steps_is_made_and_not_made_again(tmp_path: Path) -> None:
    argv = [
        "--output",
        str(tmp_path),
        "--pairs",
        "1",
        "--seconds",
        "1",
        "--seeds",
        "0",
        "--scales",
        "3",
        "--reference",
        "4",
    ]
    argv += ["--measure", "--rows", "Euler 4, uniform", "unguided 4, uniform"]
    fewer_steps.main(argv)
    made = json.loads((tmp_path / "table.json").read_text())["cells"]
    assert [(cell["row"], cell["passes"]) for cell in made] == [
        ("reference", 12), ("Euler 4, uniform", 12), ("unguided 4, uniform", 4),
    ]  # fmt: skip
    assert all(cell["distance"] > 0 for cell in made[1:]) and all(cell["measured"]["motion"] > 0 for cell in made)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "latents").iterdir()}
    fewer_steps.main(argv)
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "latents").iterdir()}


@pytest.mark.long
def test_the_shares_of_stages_are_measured(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.stage_shares", "--seconds", "1", "--rows", "3", "--json"]
    subprocess.run([*command, str(tmp_path / "s.json")], cwd=ROOT, check=True, capture_output=True)
    [(name, row)] = json.loads((tmp_path / "s.json").read_text())["rows"].items()
    assert name == "4 steps without guidance" and row["passes"] == 4
    assert 0 < row["decoding_share"] < 1 and row["in_turns_s"] > row["window steps_s"] + row["decoding_s"]
