"""The voice process: `python -m spira.synthetic._espeak`, speech over stdin and stdout.

espeak-ng is GPL-3. It runs here, in a process of its own, and SPIRA talks to it through pipes.

    first, once    {"rate_hz": 22050}\\n
    request        {"variant": "m3", "words_per_minute": 170, "pitch": 50, "range": 50,
                   "texts": ["bom dia", …]}\\n
    answer         for each text 4 bytes, its length in bytes (little-endian), then its samples,
                   int16 little-endian mono; or, at any point, FF FF FF FF, a length and a reason

A request is answered by a fork of the freshly initialised process: espeak-ng keeps state from one
call to the next (the phases of its generators, its noise), and the same request must give the
same samples whatever was said before. The process ends when its input does.
"""

import ctypes
import json
import os
import struct
import sys
import traceback
from pathlib import Path
from typing import Any, BinaryIO

import espeakng_loader

_LANGUAGE = "pt-br"
_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: samples come through the callback, no thread is made
_DO_NOT_EXIT = 0x8000  # espeakINITIALIZE_DONT_EXIT
_CHARACTERS = 1  # POS_CHARACTER
_UTF8 = 1  # espeakCHARS_UTF8
_RATE, _VOLUME, _PITCH, _RANGE, _WORD_GAP = 1, 2, 3, 4, 7  # espeak_PARAMETER
_FAILED = 0xFFFFFFFF

_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


def main() -> None:
    """Answer requests until the input ends."""
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    rate_hz = library.espeak_Initialize(
        _SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), _DO_NOT_EXIT
    )
    if rate_hz <= 0:
        raise SystemExit("espeak-ng did not start: its library and its data do not fit")
    library.espeak_SetVoiceByName(_LANGUAGE.encode())  # read the language once, not in every fork
    output = sys.stdout.buffer
    output.write(json.dumps({"rate_hz": rate_hz}).encode() + b"\n")
    output.flush()
    for line in sys.stdin.buffer:
        child = os.fork()
        if child == 0:
            try:
                _answer(library, json.loads(line), output)
            except BaseException:  # a fork must never go on with its parent's loop
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status != 0:
            raise SystemExit(f"espeak-ng ended while it spoke (status {status})")


def _answer(library: Any, request: dict[str, Any], output: BinaryIO) -> None:
    variant = request["variant"]
    # The library takes an unknown variant for none, without a word.
    known = (Path(espeakng_loader.get_data_path()) / "voices" / "!v" / variant).exists()
    if not known or library.espeak_SetVoiceByName(f"{_LANGUAGE}+{variant}".encode()) != 0:
        reason = f"espeak-ng has no variant {variant!r} of {_LANGUAGE}".encode()
        output.write(struct.pack("<II", _FAILED, len(reason)) + reason)
        output.flush()
        return
    for parameter, value in (
        (_RATE, request["words_per_minute"]),
        (_VOLUME, 50),  # at 100 some variants clip
        (_PITCH, request["pitch"]),
        (_RANGE, request["range"]),
        (_WORD_GAP, 0),
    ):
        library.espeak_SetParameter(parameter, value, 0)
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # else seeded by the clock

    pieces: list[bytes] = []

    def keep(samples: Any, n: int, _events: Any) -> int:
        if samples and n > 0:
            pieces.append(ctypes.string_at(samples, 2 * n))
        return 0

    callback = _Callback(keep)  # alive as long as it may be called
    library.espeak_SetSynthCallback(callback)
    for text in request["texts"]:
        pieces.clear()
        data = text.encode()
        library.espeak_Synth(
            data, ctypes.c_size_t(len(data) + 1), 0, _CHARACTERS, 0, _UTF8, None, None
        )
        spoken = b"".join(pieces)
        output.write(struct.pack("<I", len(spoken)) + spoken)
    output.flush()


if __name__ == "__main__":
    main()
