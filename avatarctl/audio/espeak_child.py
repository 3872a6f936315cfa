"""Speak one sentence with libespeak-ng and write sound and phoneme times to stdout: run as a script, then gone.

One process per sentence: the library carries the state of a voice over into the next sentence, and can't be started
twice. It is also GPL code, which is why it is loaded here, beside the program, and never within it. Only the standard
library is imported, so that a start costs some thirty milliseconds.

Input, as JSON in the first argument: library (a path), data (a folder or null), text, voice, speed_wpm, pitch.
Output: one line of JSON (rate_hz, count, phonemes as [[second, name], …] or error), then ``count`` 16-bit samples.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any, ClassVar

SYNCHRONOUS, PHONEME_EVENTS = 2, 1  # AUDIO_OUTPUT_SYNCHRONOUS, espeakINITIALIZE_PHONEME_EVENTS
RATE, PITCH = 1, 3  # espeakRATE, espeakPITCH
UTF8, END_PAUSE = 1, 0x1000  # as the program `espeak-ng` asks for
LIST_END, PHONEME = 0, 7  # kinds of events


class _Id(ctypes.Union):
    _fields_: ClassVar = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    """The library's ``espeak_EVENT``."""

    _fields_: ClassVar = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # in milliseconds
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


def speak(asked: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Return what is said about the sound, and its samples."""
    library = ctypes.CDLL(asked["library"])
    data = asked["data"].encode() if asked["data"] else None
    rate_hz = library.espeak_Initialize(SYNCHRONOUS, 500, data, PHONEME_EVENTS)
    if rate_hz <= 0:
        return {"error": "the library finds no data of its voices"}, b""
    samples, phonemes = bytearray(), []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))
    def receive(sound: Any, count: int, events: Any) -> int:
        if sound and count > 0:
            samples.extend(ctypes.string_at(sound, 2 * count))
        index = 0
        while events[index].type != LIST_END:
            event = events[index]
            if event.type == PHONEME:
                phonemes.append([event.audio_position / 1000, event.id.string.decode(errors="replace")])
            index += 1
        return 0

    library.espeak_SetSynthCallback(receive)
    if library.espeak_SetVoiceByName(asked["voice"].encode()):
        return {"error": f"no voice {asked['voice']}"}, b""
    library.espeak_SetParameter(RATE, asked["speed_wpm"], 0)
    library.espeak_SetParameter(PITCH, asked["pitch"], 0)
    text = asked["text"].encode() + b"\0"
    library.espeak_Synth(text, len(text), 0, 1, 0, UTF8 | END_PAUSE, None, None)
    library.espeak_Synchronize()
    return {"rate_hz": rate_hz, "count": len(samples) // 2, "phonemes": phonemes}, bytes(samples)


if __name__ == "__main__":
    facts, sound = speak(json.loads(sys.argv[1]))
    sys.stdout.buffer.write(json.dumps(facts).encode() + b"\n" + sound)
