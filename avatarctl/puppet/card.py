"""Write the model card and its curves beside the packed weights."""

from __future__ import annotations

from pathlib import Path

from avatarctl import durable
from avatarctl.errors import InputFileError
from avatarctl.networks.header import read_header
from avatarctl.paths import STUDENT_FILE
from avatarctl.puppet.evaluate import CURVES, TABLES
from avatarctl.puppet.voice import EVALUATION, TRAINING
from avatarctl.settings.student import student_of

CARD = "README.md"
TEXT = """---
license: apache-2.0
tags: [talking-head, video-diffusion, synthetic]
---

# The embedded avatar

## What it is

A small network of the StableAvatar architecture that `avatarctl` ships, so that the whole pipeline runs, and can be measured,
on any machine: video diffusion transformer with time-step-aware audio adapter, Wan VAE, umT5, CLIP and wav2vec 2.0 classes,
all at small size. It shows drawn faces of 128x128 pixels whose lips follow the syllables of a voice: they close at m, b and p,
show teeth and tongue, and grow narrow at o and u; eyes blink, head and brows move with the voice. It knows no photographs: a
real portrait becomes a smear.

| network | million weights | file, MB |
|---|---|---|
{sizes}

{student}Text and image encoder are fixed random codes of the full model's classes. No person, no recording of a person and
no downloaded weights are in it: faces are drawn from random numbers, training voices are made by espeak-ng and by a formant
synthesiser.

## How it was trained

Everything comes from seeds. One CPU core takes five hours for the VAE, which a GPU trains too (`--device cuda --times 4`), and
an hour for the transformer at 64 pixels; at 128 pixels a GPU takes five minutes, and a core the better part of a day.

```console
{commands}
```

A drawn face is driven by `avatarctl.puppet.world.drive`: the mouth's opening by the energy of the voice's band relative to the
seconds around, smoothed over one picture, shut at m, b and p by the phonemes' times (libespeak-ng tells them in training; a
render hears them), nearly shut at f and v, its width by the vowel. Head and brows move with the voice from a rest pose, blinks
last six to seven pictures. Training languages: {training}. Evaluation: {evaluation};
its faces come from seeds that no training set reaches.

## How good it is

Measured on rendered pictures by comparison with drawn poses (`avatarctl.puppet.world.see`), with float16 weights as shipped, by
the command that evaluates (held-out pairs; tables over settings on other pairs, eight seconds each, by which the preset
was chosen):

{report}

![Curves of three held-out pairs, and the correlations of all]({curves})

Closures are counted where the mouth that was asked for is shut between open moments: found, if the rendered one is shut within a
picture; right, if a shut rendered mouth was asked for within two. Distance is the mean difference of the face from the
reference in grey levels outside of mouth and eyes, border ratio the difference of neighbouring pictures at window borders over
the median elsewhere, amplitude the deviation of the opening over the one asked for. Voices all begin within the first second, in
which any mouth that opens agrees with any of them: other voices are compared after it. The look that the LoRA was taught on 20
clips is a bowler hat and round glasses; its distance counts where they change the face, in grey levels.
{notes}
## Licence

Apache-2.0, like the program; drawings, voices and weights were made for it.
"""
STUDENT = """The student is a LoRA that renders in {steps} steps, of one prediction each, what the network does with guidance
at audio scale 3: `avatarctl generate --preset puppet --lora puppet-student`.

"""
COMMANDS = """avatarctl puppet data --output drawn/a --clips 300 --seed 0
avatarctl puppet data --output drawn/b --clips 300 --seed 1
avatarctl puppet data --output drawn/pauses --pauses --clips 60 --seed 3
avatarctl puppet data --output looks --look hat --look glasses --clips 60 --seed 1
avatarctl puppet train encoders --data drawn/a --output nets
avatarctl puppet train speech --data drawn/a --output nets
avatarctl puppet train vae --data drawn/a --output nets
avatarctl puppet train decoder --data drawn/a --looks looks --output nets
avatarctl data encode drawn --output cache-64 --weights nets --preset puppet --size 64x64
avatarctl train --data cache-64 --output run-64 --preset puppet
avatarctl data encode drawn --output cache-128 --weights nets --preset puppet
avatarctl train --data cache-128 --output run-128 --preset puppet-128 --weights run-64/transformer.safetensors
avatarctl puppet pack --weights nets --transformer run-128/transformer.safetensors --samples --output packed
avatarctl puppet data --output dressed --look bowler --look glasses --bare-first --seed 2 --clips 20
avatarctl data encode dressed --output dressed-cache --weights puppet --preset puppet
avatarctl lora train --data dressed-cache --output look --preset puppet-look
avatarctl lora train --data cache-128 --output students --preset distill-puppet --weights packed/weights
avatarctl puppet evaluate --output report --minutes 10 --lora look/lora.safetensors \\
  --student students/2-steps-8 --student students/3-steps-4
avatarctl puppet pack --weights nets --transformer run-128/transformer.safetensors \\
  --student students/3-steps-4 --report report --output packed"""


def check_report(report: Path, weights: Path) -> Path:
    """Return the tables of a report; raises ``InputFileError`` when there are none."""
    tables = report / TABLES
    if missing := [name for name in (TABLES, CURVES) if not (report / name).is_file()]:
        raise InputFileError(
            f"{report}: got no {missing[0]}", f"avatarctl puppet evaluate --weights {weights} --output {report}"
        )
    return tables


def write_card(weights: Path, report: Path, notes: str = "") -> Path:
    """Write the card beside packed weights; raises ``InputFileError`` for a folder without a report.

    ``notes``: what has to be said about these weights beyond their numbers.
    """
    tables = check_report(report, weights)
    rows = []
    for path in sorted(weights.glob("*.safetensors")):
        head = read_header(path)
        assert head is not None, "it was packed"
        rows.append(
            f"| {path.stem.replace('_', ' ')} | {head.parameters / 1e6:.2f} | {path.stat().st_size / 1e6:.1f} |"
        )
    taught = student_of(weights / STUDENT_FILE)
    text = TEXT.format(
        student=STUDENT.format(steps=taught["steps"]) if taught else "",
        sizes="\n".join(rows),
        commands=COMMANDS,
        training=", ".join(TRAINING),
        evaluation=", ".join(EVALUATION),
        notes=f"\n{notes}\n" if notes else "",
        report=tables.read_text(encoding="utf-8").strip(),
        curves=CURVES,
    )
    durable.replace(weights / CURVES, (report / CURVES).read_bytes())
    card = weights / CARD
    durable.replace(card, text.encode())
    return card
