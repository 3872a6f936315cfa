"""Tests with what a run exports: usable at every checkpoint, whole after kills, by step, and by the commands that write it."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from served import Server, kill_after
from tiny import tiny_inputs
from training.conftest import SMALL, make_cache, random_sample
from training.test_loop import stop_after

from avatarctl.data.shards import Sample
from avatarctl.errors import ChangedError, InputFileError, Interrupted, UsageError
from avatarctl.networks.adapters import describe_lora, merge_lora
from avatarctl.networks.checkpoints import load_transformer
from avatarctl.settings.train import TrainJob
from avatarctl.settings.values import exported_steps, lora_file, split_run
from avatarctl.training import train
from avatarctl.training.export import export_run, words_of
from avatarctl.weights import checksum

Maker = Callable[..., TrainJob]
LORA = {"attention": "lora", "feed_forward": "lora", "norms": "frozen", "rank": 4, "alpha": 2.0, "ema": 0.9}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A process that has imported everything."""
    served = Server(tmp_path_factory.mktemp("home"))
    yield served
    served.close()


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata())


def same(first: Path, second: Path) -> bool:
    tensors = [load_file(path) for path in (first, second)]
    return tensors[0].keys() == tensors[1].keys() and all(torch.equal(tensors[0][n], tensors[1][n]) for n in tensors[0])


def test_each_checkpoint_is_a_lora_to_use_with_its_alpha_and_average(job: Maker, base: Path) -> None:
    made = job(**LORA, checkpoint_every=2, steps=6)
    train(made)
    assert exported_steps(made.output) == [2, 4, 6]  # two checkpoints are kept, all exports
    newest = made.output / "lora.safetensors"
    assert newest.samefile(made.output / "exports" / "step-00000006.safetensors")
    for step in (2, 4, 6):
        facts = describe_lora(lora_file(Path(f"{made.output}@{step}")))
        assert (set(facts["alphas"]), set(facts["ranks"]), set(facts["dtypes"])) == ({"2.0"}, {"4"}, {"bfloat16"})
        assert metadata(lora_file(Path(f"{made.output}@{step}")))["step"] == str(step)
    about = metadata(newest)
    assert about["base_sha256"] == checksum(base)
    assert not any("/" in text for name, text in about.items() if name != "lora_adapter_metadata")
    # What it does is what the run had: the average of its weights.
    wide = job("wide", **LORA, checkpoint_every=2, steps=6, export_dtype="float32")
    train(wide)
    changed, plain = load_transformer(base).eval(), load_transformer(base).eval()
    merge_lora(changed, newest)
    exact = load_transformer(base).eval()
    merge_lora(exact, wide.output / "lora.safetensors")
    with torch.no_grad():
        outputs = [model(**tiny_inputs()).sample for model in (changed, exact, plain)]
    assert (outputs[1] - outputs[2]).abs().max() > 1e-3
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=0.02 * float((outputs[1] - outputs[2]).abs().max()))


def test_words_of_captions_and_the_preset_stand_in_the_metadata(job: Maker, tmp_path: Path) -> None:
    samples = [random_sample(f"clip{i}-0") for i in range(2)]
    told = [
        Sample(s.key, s.tensors, {**s.meta, "prompt": f"A person, talking to {n}"})
        for s, n in zip(samples, ("Ann", "Bo"), strict=True)
    ]
    made = job(**LORA, steps=2).model_copy(
        update={"data": make_cache(tmp_path / "cache", told), "preset": "person-1.3b"}
    )
    train(made)
    about = metadata(made.output / "lora.safetensors")
    assert json.loads(about["caption_words"]) == {"a": 2, "person": 2, "talking": 2, "to": 2, "ann": 1, "bo": 1}
    assert about["preset"] == "person-1.3b" and about["samples"] == "2"
    assert words_of(["Ähren, Ähren", "é_e"]) == {"ähren": 1, "é": 1, "e": 1}


def test_stopping_exports_too_and_a_lost_export_is_written_on_resume(job: Maker) -> None:
    made = job(**LORA, steps=6, log_every=1)
    with pytest.raises(Interrupted, match="step 3 of 6 is saved") as ended:
        train(made, stop_after(made, 2))
    assert str(made.output / "lora.safetensors") in ended.value.hint
    first = made.output / "exports" / "step-00000003.safetensors"
    kept = first.rename(first.with_suffix(".kept"))
    train(made)
    assert same(first, kept)


def test_exports_kept(job: Maker) -> None:
    made = job(**LORA, steps=4, checkpoint_every=1, exports_kept=2)
    train(made)
    assert exported_steps(made.output) == [3, 4]
    full = job("full", steps=4, checkpoint_every=2)
    train(full)
    assert exported_steps(full.output) == [] and (full.output / "transformer.safetensors").exists()
    asked = job("asked", steps=4, checkpoint_every=2, exports_kept="all")
    train(asked)
    assert exported_steps(asked.output) == [2, 4]
    assert same(asked.output / "transformer.safetensors", full.output / "transformer.safetensors")
    assert load_transformer(asked.output / "exports" / "step-00000002.safetensors").dims.dim == 48


@pytest.mark.parametrize("audio", ["full", "lora"])
def test_a_checkpoint_is_exported_as_the_run_would_have(job: Maker, base: Path, tmp_path: Path, audio: str) -> None:
    made = job(**LORA, audio=audio, steps=4, checkpoint_every=2)
    train(made)
    output = tmp_path / "two.safetensors"
    before = checksum(base)
    assert export_run(made.output, 2, output, True, "auto", None) == 2
    there = made.output / "exports" / "step-00000002.safetensors"
    assert same(output, there) and metadata(output) == metadata(there)
    assert export_run(made.output, None, output, True, "float32", "kohya") == 4
    facts = describe_lora(output)
    assert (facts["form"], set(facts["dtypes"]), set(facts["alphas"])) == ("kohya", {"float32"}, {"2.0"})
    assert checksum(base) == before


def test_a_transformer_is_exported_from_a_checkpoint(job: Maker, tmp_path: Path) -> None:
    made = job(ema=0.9, steps=3)
    train(made)
    output = tmp_path / "transformer.safetensors"
    export_run(made.output, 3, output, False, "auto", None)
    assert same(output, made.output / "transformer.safetensors")
    export_run(made.output, None, output, False, "bfloat16", None)
    assert load_transformer(output, dtype=None).blocks[0].ffn.net[2].weight.dtype == torch.bfloat16
    new = job("new", weights=None, dims={"dim": 48, "heads": 4, "layers": 1, "ffn": 64, "text_len": 12}, steps=2)
    train(new)
    export_run(new.output, None, output, False, "auto", None)
    assert same(output, new.output / "transformer.safetensors")


def test_what_cannot_be_exported_says_what_can(job: Maker, tmp_path: Path) -> None:
    made = job(**LORA, steps=4, checkpoint_every=1)
    train(made)
    output = tmp_path / "x.safetensors"
    export_run(made.output, 1, output, True, "auto", None)  # its checkpoint is gone, its export is copied
    assert same(output, made.output / "exports" / "step-00000001.safetensors")
    with pytest.raises(UsageError, match="the checkpoint of step 1 is gone"):
        export_run(made.output, 1, output, True, "float32", None)
    with pytest.raises(InputFileError, match="no whole checkpoint of step 9") as ended:
        export_run(made.output, 9, output, True, "auto", None)
    assert "1, 2, 3, 4" in ended.value.hint and f"{made.output}@4" in ended.value.hint
    with pytest.raises(UsageError, match="a run that trains a LoRA") as ended:
        export_run(made.output, None, output, False, "auto", None)
    assert "avatarctl lora export" in ended.value.hint
    with pytest.raises(InputFileError, match="expected the folder of a run"):
        export_run(tmp_path, None, output, True, "auto", None)
    assert made.train.weights is not None
    data = made.train.weights.read_bytes()
    try:
        made.train.weights.write_bytes(data[:-4] + b"\0\0\0\1")
        with pytest.raises(ChangedError, match="other weights than those"):
            export_run(made.output, 4, output, True, "auto", None)
    finally:
        made.train.weights.write_bytes(data)


def test_a_run_and_a_step_by_name(tmp_path: Path) -> None:
    assert split_run(tmp_path / "run@500") == (tmp_path / "run", 500)
    assert split_run(tmp_path / "run") == (tmp_path / "run", None)
    assert split_run(tmp_path / "me@home") == (tmp_path / "me@home", None)
    (tmp_path / "run@7").mkdir()
    assert split_run(tmp_path / "run@7") == (tmp_path / "run@7", None)


# -- By command lines ---------------------------------------------------------------------------------------------------


def test_commands_export_and_generate_finds_a_step(server: Server, cache: Path, base: Path, tmp_path: Path) -> None:
    settings = {**SMALL, **LORA, "steps": 4, "checkpoint_every": 2, "weights": str(base)}
    (tmp_path / "small.yaml").write_text(json.dumps(settings))
    train_it = ["lora", "train", "--data", str(cache), "--output", "run", "--preset", "small.yaml", "--quiet"]
    assert server.run(tmp_path, train_it).status == 0
    assert metadata(tmp_path / "run" / "lora.safetensors")["preset"] == "small.yaml"
    ended = server.run(tmp_path, ["lora", "export", "run@2", "--output", "two.safetensors", "--quiet"])
    assert ended.status == 2  # no such flag
    ended = server.run(tmp_path, ["lora", "export", "run@2", "--output", "two.safetensors"])
    assert ended.status == 0 and ended.log.splitlines()[-1] == "two.safetensors", ended.log
    ended = server.run(tmp_path, ["lora", "export", "run@2", "--output", "two.safetensors"])
    assert ended.status == 2 and "--force" in ended.log
    ended = server.run(tmp_path, ["lora", "info", "run@2"])
    assert ended.status == 0 and "step" in ended.log, ended.log
    ended = server.run(tmp_path, ["export", "run", "--output", "whole.safetensors"])
    assert ended.status == 2 and "avatarctl lora export run" in ended.log
    ended = server.run(tmp_path, ["lora", "export", "nowhere@2", "--output", "x.safetensors"])
    assert ended.status == 4 and "nowhere: got no such folder" in ended.log
    merge = ["lora", "merge", "run@4:0.5", "--weights", str(base), "--output", "merged.safetensors"]
    assert server.run(tmp_path, merge).status == 0
    for name in ("face.png", "voice.wav"):
        (tmp_path / name).write_bytes(b"")
    ended = server.run(tmp_path, ["lora", "info", "run@3"])
    assert ended.status == 4 and "run has step 2, 4: use run@4" in ended.log, ended.log


def kill_often(server: Server, cache: Path, base: Path, folder: Path, kills: int, seed: int = 0) -> int:
    """Kill a run at random instants until it is done, again and again; every export that is there is whole. Return the kills."""
    chance, done, number = random.Random(f"exports {seed}"), 0, 0
    settings = {**SMALL, **LORA, "steps": 12, "checkpoint_every": 1, "weights": str(base)}
    (folder / "small.yaml").write_text(json.dumps(settings))
    expected: dict[str, dict[str, Any]] = {}
    began = time.monotonic()
    straight = ["lora", "train", "--data", str(cache), "--output", "straight", "--preset", "small.yaml", "--quiet"]
    assert server.run(folder, straight).status == 0
    length_s = time.monotonic() - began
    for path in (folder / "straight" / "exports").iterdir():
        expected[path.name] = load_file(path)
    while done < kills:
        number += 1
        run = folder / f"run{number}"
        argv = [*straight[:5], run.name, *straight[6:]]
        for _ in range(60):
            ended = server.run(folder, argv, meanwhile=kill_after(chance.uniform(0.1, 0.9) * length_s))
            assert ended.status in (0, -signal.SIGKILL), ended.log
            names = sorted(path.name for path in (run / "exports").glob("*.safetensors")) if run.exists() else []
            for name in [*names, "../lora.safetensors"] if names else []:
                if not (run / "exports" / name).exists():
                    continue  # killed between the export and its second name
                tensors = load_file(run / "exports" / name)
                # The newest one has two names: it is one of those by step.
                wholes = [expected[name]] if name in expected else list(expected.values())
                assert any(all(torch.equal(tensors[key], whole[key]) for key in whole) for whole in wholes)
            if ended.status == 0:
                break
            done += 1
            if done >= kills:
                break
    return done


def test_exports_are_whole_after_kills_at_random_instants(
    server: Server, cache: Path, base: Path, tmp_path: Path
) -> None:
    assert kill_often(server, cache, base, tmp_path, 4) == 4


@pytest.mark.long
@pytest.mark.parametrize("part", range(10))
def test_exports_are_whole_after_200_kills(server: Server, cache: Path, base: Path, tmp_path: Path, part: int) -> None:
    assert kill_often(server, cache, base, tmp_path, 20, 1 + part) == 20
