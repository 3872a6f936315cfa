"""Try every kind of recording: the rows of the table of sound in docs/formats.md."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from recordings import RATES, SOUND_ALONE, WITH_PICTURES, Recording, make, run, voice, worst_lag_s

from avatarctl.audio.decode import probe, waveform_16k, write_track
from avatarctl.errors import AvatarError

Row = tuple[str, str, str]
NAMES = {
    "3gp": "3GP",
    "aac": "raw AAC",
    "mka": "Matroska",
    "mkv": "Matroska",
    "ogg": "Ogg",
    "webm": "WebM",
    "ts": "MPEG-TS",
}


def sound_rows(folder: Path) -> list[Row]:
    """Return what was made, what was special about it, and what is read of it."""
    rows = []
    for ending, codecs in SOUND_ALONE.items():
        for codec in codecs:
            rows.append(_plain(folder, Recording(ending, codec, RATES.get(codec, (44100,))[-1], 2)))
    for ending, (_, codecs) in WITH_PICTURES.items():
        for codec in codecs:
            channels = 1 if ending in ("flv", "3gp") else 2
            rows.append(
                _plain(folder, Recording(ending, codec, RATES.get(codec, (44100,))[-1], channels, pictures=True))
            )
    return rows + _special(folder)


def _plain(folder: Path, recording: Recording) -> Row:
    what = (
        f"{recording.codec.removeprefix('lib')}, with pictures"
        if recording.pictures
        else recording.codec.removeprefix("lib")
    )
    name = NAMES.get(recording.ending, recording.ending.upper())
    return name, what, _outcome(lambda: _place(make(folder, recording), voice(recording.seconds)))


def _outcome(tried: Callable[[], str]) -> str:
    try:
        return tried()
    except AvatarError as error:
        return f"refused: got {error.message.partition(': got ')[2].partition(' (')[0].partition(', expected')[0]}"


def _place(path: Path, said: np.ndarray) -> str:
    """Say by how much later than it was said something is heard."""
    late_ms = round(1000 * worst_lag_s(said, waveform_16k(path)))
    if abs(late_ms) <= 2:
        return "in place"
    return (
        f"{late_ms} ms late: the encoder's delay isn't told"
        if late_ms > 0
        else f"{-late_ms} ms early: ffmpeg drops them"
    )


def _special(folder: Path) -> list[Row]:
    said, still = voice(2.0), np.zeros(8000, np.float32)
    mkv = Recording("mkv", "pcm_s16le", 16000, pictures=True)
    late = Recording("mp4", "alac", 44100, pictures=True, offset_s=0.5)
    lost = Recording("mkv", "libopus", 48000, pictures=True, hole=(30, 70))
    mp3 = Recording("mp3", "libmp3lame", 44100, 2, joined=True)
    rows: list[Row] = [
        (
            "any with time stamps",
            "sound 0.5 s after the pictures",
            _outcome(lambda: _place(make(folder, late), np.concatenate([still, said]))),
        ),
        (
            "any with time stamps",
            "0.82 s missing",
            _outcome(lambda: _place(make(folder, lost), said) + ", silence where nothing was"),
        ),
        ("any with time stamps", "overlap of 0.3 s", _outcome(lambda: _overlap(folder, mkv))),
        ("MP3", "joined, tags in between", _outcome(lambda: _place(make(folder, mp3), said))),
        (
            "MP3",
            "44.1 kHz stereo, then 22.05 kHz mono",
            _outcome(
                lambda: _place(make(folder, Recording("mp3", "libmp3lame", 44100, 2, joined=True, changes=True)), said)
            ),
        ),
    ]
    for name, ending, codec in (
        ("Ogg", "ogg", "libopus"),
        ("FLAC", "flac", "flac"),
        ("WAV", "wav", "pcm_s16le"),
        ("WebM", "webm", "libopus"),
    ):
        joined = Recording(ending, codec, 48000, joined=True)
        rows.append((name, "joined", _outcome(lambda made=joined: _place(make(folder, made), said))))  # type: ignore[misc]
    wav = make(folder, Recording("wav", "pcm_s16le", 16000))
    data = wav.read_bytes()
    at = data.index(b"data") + 4
    for words, size in (("too small", 1000), ("too large", len(data) + 999), ("not told", 0xFFFFFFFF)):
        wav.write_bytes(data[:at] + size.to_bytes(4, "little") + data[at + 4 :])
        rows.append(("WAV", f"size in its header {words}", _outcome(lambda: _place(wav, said))))
    wav.write_bytes(data[:-3000])
    rows.append(("any", "cut off", _outcome(lambda: _place(wav, said))))
    for words, scale in (
        ("floating point of integers' size", 32767.0),
        ("floating point of 1e29", 1e29),
        ("with NaN", np.nan),
    ):
        run(
            "-f",
            "f32le",
            "-ar",
            16000,
            "-i",
            "pipe:0",
            "-c:a",
            "pcm_f32le",
            wav,
            given=(said * np.float32(scale)).tobytes(),
        )
        rows.append(
            (
                "WAV",
                words,
                _outcome(
                    lambda: f"lowered to full scale, with a note: peak {write_track(wav, folder / 'track').peak:.0f}"
                ),
            )
        )
    stereo = np.stack([said, -said], axis=1)
    run("-f", "f32le", "-ar", 16000, "-ac", 2, "-i", "pipe:0", wav, given=stereo.tobytes())
    rows.append(
        (
            "any",
            "channels of opposite phase",
            _outcome(lambda: _place(wav, said) + ": lips follow the louder channel, with a note"),
        )
    )
    for channels in (6, 12, 16):
        run(
            "-f",
            "f32le",
            "-ar",
            16000,
            "-i",
            "pipe:0",
            "-af",
            f"pan={channels}c|c0=c0|c1=c0",
            wav,
            given=said.tobytes(),
        )
        mixed = "" if channels == 6 else "; in the video mixed to stereo, with a note"
        rows.append(("WAV", f"{channels} channels", _outcome(lambda words=mixed: _place(wav, said) + words)))  # type: ignore[misc]
    both = folder / "both.mka"
    run(
        "-i",
        make(folder, mkv),
        "-f",
        "lavfi",
        "-i",
        "sine=d=5",
        "-map",
        "0:a",
        "-map",
        "1:a",
        "-disposition:a:1",
        0,
        both,
    )
    rows.append(
        (
            "any with tracks",
            "two of unlike length",
            _outcome(lambda: f"track {probe(both).track} of {probe(both).tracks}, {_place(both, said)}"),
        )
    )
    (folder / "text.mp3").write_text("no sound")
    rows.append(("anything else", "a text", _outcome(lambda: _place(folder / "text.mp3", said))))
    return rows


def _overlap(folder: Path, recording: Recording) -> str:
    path = folder / "back.mkv"
    run("-i", make(folder, recording), "-c", "copy", "-bsf:a", "setts=ts=if(gte(N\\,20)\\,PTS-300\\,PTS)", path)
    return f"cut: {len(waveform_16k(path)) / 16000:.1f} s of 2.0 s"
