"""Tests of batch's flags: those of generate that say how a video is made are batch's too, with the same effect."""

from __future__ import annotations

from pathlib import Path

import typer
from render.workshop import babble, write_wav

from avatarctl import cli
from avatarctl.batch.run import look
from avatarctl.commands.batch import ONE_VIDEO, OWN
from avatarctl.settings.names import keys_of
from avatarctl.settings.render import AllSettings

COMMANDS = typer.main.get_command(cli.app).commands


def flags(command: str) -> dict[str, tuple[str, ...]]:
    """Return the parameters of a command with their flags."""
    return {each.name: (*each.opts, *each.secondary_opts) for each in COMMANDS[command].params}


def test_every_flag_of_generate_that_is_a_setting_is_one_of_batch() -> None:
    alone, many = flags("generate"), flags("batch")
    shared = set(alone) - ONE_VIDEO - OWN - {"help", "help_all"}
    assert {name: alone[name] for name in shared} == {name: many.get(name) for name in shared}
    assert shared <= set(keys_of(AllSettings.model_fields)), "a flag about one video belongs into ONE_VIDEO"
    wanted = {"audio_scale", "text_scale", "start", "duration", "fit", "crf", "codec", "overlap", "enlarge", "guidance"}
    wanted |= {"negative_prompt", "window", "fps", "blend", "shift", "loudness", "trim_silence", "with_audio", "dtype"}
    assert wanted <= shared


def test_flags_reach_every_item_and_lose_to_the_manifest(studio: Path, tmp_path: Path) -> None:
    from avatarctl.commands.batch import batch_of

    write_wav(tmp_path / "a.wav", babble(1.2, seed=1), 16000)
    (tmp_path / "two.jsonl").write_text(
        '{"audio": "a.wav"}\n{"audio": "a.wav", "output": "b.mp4", "crf": 33, "start": 0.2}'
    )
    given = {"weights": studio / "weights", "audio_scale": 2.5, "start": 0.1, "crf": 30, "lora": None, "fit": "pad"}
    asked = batch_of(
        tmp_path / "two.jsonl",
        tmp_path / "out",
        studio / "face.png",
        "{stem}",
        str(studio / "tiny.yaml"),
        given,
        "1",
        "local",
        False,
        {},
    )
    settings = {each.item.name: each.item.job.render for each in look(asked)[0].run}
    assert {name: (each.audio_scale, each.start_s, each.crf, each.fit) for name, each in settings.items()} == {
        "a.mp4": (2.5, 0.1, 30, "pad"),
        "b.mp4": (2.5, 0.2, 33, "pad"),
    }
