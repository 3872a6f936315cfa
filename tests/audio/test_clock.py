"""Tests of the clock that time stamps decide, and of the recordings found in joined files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recordings import Recording, make, run, voice, worst_lag_s

from avatarctl.audio.clock import TOLERANCE_S, Clock
from avatarctl.audio.decode import probe, read_blocks, waveform_16k
from avatarctl.audio.pieces import pieces
from avatarctl.errors import InputFileError, UsageError

TOLERANCE = round(TOLERANCE_S * 48000)


@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(-4000, 9000)), min_size=1, max_size=40), st.integers(0, 99))
def test_position_stays_within_the_tolerance_of_the_stamps(frames: list[tuple[int, int]], begin: int) -> None:
    clock, stamp = Clock(48000, begin), 777
    for place, (count, step) in enumerate(frames):
        stamp += step if place else 0
        silence, dropped = clock.place(stamp, count)
        assert silence >= 0 and 0 <= dropped <= count and not (silence and dropped)
        end = stamp - 777 + begin + count
        # A part that came twice is dropped whole; else the sound ends where its stamp says.
        assert clock.position - end < TOLERANCE or dropped == count
        assert end - clock.position < TOLERANCE
        stamp += count


def test_jitter_and_frames_without_stamps_change_nothing() -> None:
    clock = Clock(48000)
    stamps = [0, 960 + 900, 1920 - 900, None, 3840 + 1100]
    assert [clock.place(stamp, 960) for stamp in stamps] == [(0, 0)] * 5
    assert clock.position == 5 * 960
    assert Clock(48000, strict=False).place(0, 960) == (0, 0)


@pytest.mark.parametrize("ending", ["mkv", "mp4", "webm", "ts", "flv"])
def test_holes_are_silence_in_their_place(tmp_path: Path, ending: str) -> None:
    codec = "libopus" if ending == "webm" else "aac"
    rate_hz = 48000 if ending == "webm" else 44100
    path = make(tmp_path, Recording(ending, codec, rate_hz, pictures=True, hole=(30, 49)))
    whole = waveform_16k(tmp_path / f"whole.{ending}")
    heard = waveform_16k(path)
    assert abs(len(heard) - len(whole)) <= 16 * 48
    assert abs(worst_lag_s(heard, whole)) < 0.003
    frame_s = 0.02 if codec == "libopus" else 1024 / rate_hz
    middle = heard[round(35 * frame_s * 16000) : round(46 * frame_s * 16000)]
    assert not middle.any() and np.abs(whole[round(35 * frame_s * 16000) :]).max() > 0.1


@pytest.mark.parametrize("ending", ["mkv", "mp4", "mov", "webm", "ts", "flv"])
def test_sound_that_begins_after_the_pictures_keeps_its_place(tmp_path: Path, ending: str) -> None:
    codec = {"webm": "libopus", "mov": "pcm_s16le"}.get(ending, "aac")
    path = make(tmp_path, Recording(ending, codec, 44100 if codec != "libopus" else 48000, pictures=True, offset_s=0.5))
    expected = np.concatenate([np.zeros(8000, np.float32), voice(2.0)])
    heard = waveform_16k(path)
    assert np.abs(heard[: 16 * 440]).max() < 1e-4
    assert abs(worst_lag_s(expected, heard)) < (0.026 if ending in ("ts", "flv") else 0.003)
    # Where to begin is counted from the first picture.
    assert np.abs(waveform_16k(path, 0.25)[: 16 * 190]).max() < 1e-4
    assert abs(worst_lag_s(heard[8000:], waveform_16k(path, 0.5))) < 0.001


def test_overlaps_are_cut(tmp_path: Path) -> None:
    path = make(tmp_path, Recording("mkv", "pcm_s16le", 16000))
    back = tmp_path / "back.mkv"
    run("-i", path, "-c", "copy", "-bsf:a", "setts=ts=if(gte(N\\,20)\\,PTS-300\\,PTS)", back)
    whole, heard = waveform_16k(path), waveform_16k(back)
    jump = 20 * 1024
    assert len(heard) == pytest.approx(len(whole) - 4800, abs=32)
    assert np.array_equal(heard[:jump], whole[:jump])
    assert abs(worst_lag_s(heard[jump + 800 :], whole[jump + 800 + 4800 :])) < 0.003


@pytest.mark.parametrize("ending", ["mp3", "ogg", "flac", "wav", "webm"])
@pytest.mark.parametrize("changes", [False, True])
def test_joined_files_are_read_through(tmp_path: Path, ending: str, changes: bool) -> None:
    codec = {"mp3": "libmp3lame", "ogg": "libvorbis", "flac": "flac", "wav": "pcm_s16le", "webm": "libopus"}[ending]
    rate_hz = 48000 if ending == "webm" else 44100
    path = make(tmp_path, Recording(ending, codec, rate_hz, 2, joined=True, changes=changes and ending != "webm"))
    heard = waveform_16k(path)
    assert len(heard) == pytest.approx(2 * 16000, abs=50)
    assert abs(worst_lag_s(voice(2.0), heard)) < 0.004
    assert read_blocks(path)[:2] == (rate_hz, 2)
    assert probe(path).duration_s is None
    # A piece that is cut off is told, the last one and others.
    data = path.read_bytes()
    path.write_bytes(data[: -len(data) // 5])
    with pytest.raises(InputFileError, match="damaged or cut off"):
        waveform_16k(path)


def test_tags_between_and_pictures_in_them(tmp_path: Path) -> None:
    cover = tmp_path / "cover.jpg"
    run("-f", "lavfi", "-i", "testsrc2=s=640x480", "-frames:v", 1, cover)
    parts = []
    for place, part in enumerate(np.split(voice(2.0), 2)):
        plain, tagged = tmp_path / f"{place}.mp3", tmp_path / f"{place}-tagged.mp3"
        run("-f", "f32le", "-ar", 16000, "-i", "pipe:0", plain, given=part.tobytes())
        run(
            "-i",
            plain,
            "-i",
            cover,
            "-map",
            0,
            "-map",
            1,
            "-c",
            "copy",
            "-metadata",
            "title=T",
            "-write_id3v1",
            1,
            tagged,
        )
        parts.append(tagged.read_bytes())
    path = tmp_path / "joined.mp3"
    path.write_bytes(b"".join(parts))
    assert len(pieces(path, "mp3")) == 2
    heard = waveform_16k(path)
    assert len(heard) == pytest.approx(32000, abs=50)
    assert abs(worst_lag_s(voice(2.0), heard)) < 0.004
    # Without tags in front of the second one there is one in between all the same: ID3v1 at the end of the first.
    bare = (tmp_path / "1.mp3").read_bytes()
    frames = bare[bare.index(b"\xff", 10) :]
    assert parts[0][-128:].startswith(b"TAG")
    path.write_bytes(parts[0] + frames)
    assert len(pieces(path, "mp3")) == 2
    assert len(waveform_16k(path)) == pytest.approx(32000, abs=50)


def test_sizes_in_a_wav_header_that_are_wrong(tmp_path: Path) -> None:
    path = make(tmp_path, Recording("wav", "pcm_s16le", 16000))
    whole, data = waveform_16k(path), bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    for size in (1000, len(data) + 10_000, 0, 0x7FFFFFFF):
        path.write_bytes(data[:at] + size.to_bytes(4, "little") + data[at + 4 :])
        assert np.array_equal(waveform_16k(path), whole), size
    # What follows the samples is no sound.
    path.write_bytes(data + b"junk\x08\x00\x00\x00" + bytes(8))
    assert np.array_equal(waveform_16k(path), whole)


@pytest.mark.parametrize(("ending", "codec"), [("mp4", "aac"), ("mka", "libopus"), ("mov", "pcm_s16le")])
def test_tracks_are_chosen_and_have_their_own_length(tmp_path: Path, ending: str, codec: str) -> None:
    tracks = [tmp_path / f"{place}.wav" for place in range(2)]
    for place, path in enumerate(tracks):
        run("-f", "f32le", "-ar", 16000, "-i", "pipe:0", path, given=voice(1.0 + place, seed=place).tobytes())
    path = tmp_path / f"both.{ending}"
    maps = ["-map", 0, "-map", 1, "-c:a", codec]
    named = ["-metadata:s:a:0", "language=deu", "-metadata:s:a:1", "language=eng", "-metadata:s:a:1", "title=Dub"]
    run("-i", tracks[0], "-i", tracks[1], *maps, *named, path)
    assert len(waveform_16k(path)) == pytest.approx(16000, abs=400)
    assert len(waveform_16k(path, track=2)) == pytest.approx(32000, abs=400)
    assert (probe(path).track, probe(path, 2).track, probe(path).tracks) == (1, 2, 2)
    run("-i", tracks[0], "-i", tracks[1], *maps, "-disposition:a:0", 0, "-disposition:a:1", "default", path)
    assert probe(path).track == 2
    assert abs(worst_lag_s(waveform_16k(path), voice(2.0, seed=1))) < 0.003
    with pytest.raises(UsageError, match=r"got 3, but .* has 2 sound tracks: 1 \(.*\), 2 \(.*default\)") as caught:
        probe(path, 3)
    assert "--audio-track 1" in (caught.value.hint or "")
