"""Recordings are checked by children with limits: what they find, and what they survive."""

import hashlib
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from fractions import Fraction
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from encoding import CASES, encode
from numpy.typing import NDArray

from spira.audio.decode import decode
from spira.audio.quality import QualityThresholds, check
from spira.domain.errors import TransientError
from spira.domain.recordings import Utterance
from spira.domain.submissions import RecordingFile
from spira.intake.checking import Checker, Found, Refused
from spira.intake.settings import CheckingSettings

VOICES = Path(__file__).parents[2] / "data" / "fsdd"
VOICE = VOICES / "george_3.flac"
TOLERANCE_S = 0.2
Floats = NDArray[Any]


def _announced(
    data: bytes, duration_s: float, utterance: Utterance = "sentence", **other: Any
) -> RecordingFile:
    """What a device says of its recording."""
    said: dict[str, Any] = {"sha256": hashlib.sha256(data).hexdigest(), "n_bytes": len(data)}
    return RecordingFile(
        id="01890a5d-ac96-774b-bcce-b302099a8057",
        utterance=utterance,
        duration_s=duration_s,
        recorded_at=datetime(2026, 11, 26, 3, tzinfo=UTC),
        **said | other,
    )


def _wav(samples: Floats, rate_hz: int = 16_000, subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, subtype=subtype, format="WAV")
    return file.getvalue()


def _noise(seconds: float, rate_hz: int = 16_000) -> Floats:
    return 0.1 * np.random.default_rng(3).standard_normal(round(seconds * rate_hz))


def _children() -> list[BaseProcess]:
    """The children of every checker of this process."""
    return [p for p in multiprocessing.active_children() if p.name == "spira-check"]


def _the_child_of(before: list[BaseProcess]) -> BaseProcess:
    """The one that is not among those, once it is there."""
    deadline = time.monotonic() + 60
    while True:
        new = [child for child in _children() if child not in before]
        if new:
            return new[0]
        assert time.monotonic() < deadline, "no new child"
        time.sleep(0.005)


def _processor_s(child: BaseProcess) -> float:
    try:
        words = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return 0.0
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def checker() -> Iterator[Checker]:
    """A pool of two that serves all tests of this file, whatever they send it."""
    checker = Checker(CheckingSettings(children=2))
    yield checker
    checker.close()


@pytest.fixture
def limited() -> Iterator[Callable[..., Checker]]:
    """Make a pool of one, with limits of its own."""
    made: list[Checker] = []

    def make(**limits: Any) -> Checker:
        made.append(Checker(CheckingSettings(children=1, **limits)))
        return made[-1]

    yield make
    for checker in made:
        checker.close()


def _serves(checker: Checker) -> bool:
    """Whether it checks an ordinary recording."""
    data = _wav(_noise(2.0))
    return isinstance(checker.check([data], _announced(data, 2.0)), Found)


# ---- what a device sends


PHONES = ["webm-live", "mp4-fragmented", "ogg", "m4a", "mp3", "wav-48k", "flac"]


@pytest.mark.parametrize("case", PHONES)
@pytest.mark.parametrize("voice", ["george_3", "lucas_0", "theo_0"])
def test_every_codec_of_a_phone_is_found_whole(
    tmp_path: Path, checker: Checker, case: str, voice: str
) -> None:
    """A real voice in pieces: what it is, its length, its findings, and the samples that decoding
    the file gives."""
    rate_hz = CASES.get(case, {"rate_hz": 48_000})["rate_hz"]
    samples = decode(VOICES / f"{voice}.flac", rate_hz=rate_hz)
    if case == "wav-48k":
        data = _wav(samples, rate_hz)
    elif case == "flac":
        data = (VOICES / f"{voice}.flac").read_bytes()
    else:
        data = encode(samples, **CASES[case])
    path = tmp_path / "recording"
    path.write_bytes(data)
    pieces = [data[at : at + 10_000] for at in range(0, len(data), 10_000)]
    duration_s = len(samples) / rate_hz

    found = checker.check(pieces, _announced(data, duration_s))

    assert isinstance(found, Found), found
    assert found.measurements.duration_s == pytest.approx(duration_s, abs=TOLERANCE_S)
    known = check(path, thresholds=QualityThresholds())
    assert (found.format, found.measurements) == (known.format, known.measurements)
    assert found.findings == known.findings
    assert found.thresholds == CheckingSettings().quality.version  # why, years later
    assert np.array_equal(np.frombuffer(found.audio, "<f4"), decode(path))


class OfASubsystem(RecordingFile):
    """What a subsystem reads from a manifest, which may allow less."""


def test_what_a_subsystem_makes_of_a_recording_is_checked_too(checker: Checker) -> None:
    """A child can open no file any more, not even that of a class."""
    data = _wav(_noise(2.0))
    file = OfASubsystem.model_validate(_announced(data, 2.0).model_dump())

    assert isinstance(checker.check([data], file), Found)


def test_a_poor_recording_is_found_with_what_is_odd(checker: Checker) -> None:
    """Quality refuses nothing: silence and a third of a second are accepted, with findings."""
    silence, gasp = _wav(np.zeros(80_000)), _wav(_noise(0.3))

    silent = checker.check([silence], _announced(silence, 5.0))
    short = checker.check([gasp], _announced(gasp, 0.3))
    unfinished = checker.check([gasp], _announced(gasp, 0.3), unfinished=True)

    assert isinstance(silent, Found)
    assert set(silent.findings) >= {"quiet", "little_speech"}
    assert isinstance(short, Found)
    assert "short" in short.findings
    assert isinstance(unfinished, Found)
    assert "short" not in unfinished.findings
    assert len(unfinished.audio) == 4 * round(0.3 * 16_000)


def test_the_utterance_decides_which_findings_make_sense(checker: Checker) -> None:
    """Noise is no sentence and no speech; of a room nothing is odd about it."""
    data = _wav(_noise(5.0))

    sentence = checker.check([data], _announced(data, 5.0, "sentence"))
    room = checker.check([data], _announced(data, 5.0, "ambient_before"))

    assert isinstance(sentence, Found)
    assert isinstance(room, Found)
    assert "little_speech" in sentence.findings
    assert room.findings == ()


@pytest.mark.parametrize("utterance", ["ambient_before", "ambient_after"])
def test_a_room_in_which_somebody_speaks_is_refused(checker: Checker, utterance: Utterance) -> None:
    """Also from afar, with the noise of a ward over it; as a sentence the same is found."""
    voice = decode(VOICE)
    far = 0.05 * voice + 0.3 * np.std(0.05 * voice) * _noise(len(voice) / 16_000) / 0.1
    data = _wav(far)

    room = checker.check([data], _announced(data, len(far) / 16_000, utterance))
    sentence = checker.check([data], _announced(data, len(far) / 16_000))

    assert isinstance(room, Refused)
    assert room.reason == "speech_in_ambient"
    assert "s of speech in a recording of the room" in room.detail
    assert isinstance(sentence, Found)


# ---- what is refused


@pytest.fixture(scope="module")
def long_silence() -> bytes:
    """Ten hours of silence in an ogg: 7 GB of samples in 1 MB."""
    target = io.BytesIO()
    with av.open(target, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=48_000, layout="mono")
        assert isinstance(stream, av.AudioStream)
        stream.codec_context.open()
        nothing_sent = b"\x1b\x02"  # RFC 6716, 3.2.5: two frames of 60 ms without a byte
        for number in range(10 * 3600 * 1000 // 120):
            packet = av.Packet(nothing_sent)
            packet.stream, packet.pts, packet.dts = stream, number * 5760, number * 5760
            packet.time_base = Fraction(1, 48_000)
            container.mux(packet)
    return target.getvalue()


def test_ten_hours_of_silence_stop_at_what_was_announced(
    checker: Checker, long_silence: bytes
) -> None:
    """A bomb costs no more than the six seconds that it claims to be."""
    assert len(long_silence) < 2e6
    assert all(_serves(checker) for _ in range(4))  # both children have begun
    used_s = sum(map(_processor_s, _children()))

    found = checker.check([long_silence], _announced(long_silence, 6.0))

    assert isinstance(found, Refused)
    assert found.reason == "wrong_duration"
    assert "6.00 s were announced" in found.detail
    assert sum(map(_processor_s, _children())) - used_s < 1  # decoding all of it takes minutes


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("recording.wav", _wav(_noise(1.0)))
    return file.getvalue()


def _live_webm() -> bytes:
    return encode(decode(VOICE, rate_hz=48_000), **CASES["webm-live"])


_NAN = np.concatenate([_noise(1.0), [np.nan], _noise(1.0)])

BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "ffconcat": (lambda: f"ffconcat version 1.0\nfile {VOICE}\n".encode(), "not_audio"),
    "extm3u": (lambda: f"#EXTM3U\n#EXTINF:6,\n{VOICE}\n".encode(), "not_audio"),
    "zip called wav": (_zip, "not_audio"),
    "text": (lambda: "gravação".encode(), "not_audio"),
    "wav header alone": (lambda: _wav(np.zeros(0)), "empty"),
    "float with NaN": (lambda: _wav(_NAN, subtype="FLOAT"), "not_finite"),
    "integers as floats": (lambda: _wav(_noise(2.0) * 32768, subtype="FLOAT"), "out_of_scale"),
    "cut wav": (lambda: _wav(_noise(2.0))[:-1000], "truncated"),
    "cut webm": (lambda: _live_webm()[:-1000], "truncated"),
    "broken flac": (lambda: VOICE.read_bytes()[:3000] + bytes(50_000), "undecodable"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_its_reason(checker: Checker, case: str) -> None:
    """Each is refused as what it is, in words that name no file of the server."""
    make, reason = BAD[case]
    data = make()

    found = checker.check([data], _announced(data, 2.0))

    assert isinstance(found, Refused)
    assert (
        found.reason in {reason, "truncated"} if case == "broken flac" else found.reason == reason
    )
    assert "/" not in found.detail
    assert _serves(checker)


def test_a_cut_that_the_container_does_not_show_is_a_wrong_duration(checker: Checker) -> None:
    """A webm that ends between two clusters decodes without an error; its length tells."""
    data = _live_webm()
    cut = data[: data.rindex(b"\x1f\x43\xb6\x75")]  # before the last cluster
    whole_s = soundfile.info(VOICE).duration

    found = checker.check([cut], _announced(cut, whole_s))

    assert isinstance(found, Refused)
    assert found.reason == "wrong_duration"
    assert f"{whole_s:.2f} s were announced" in found.detail


def test_a_fifth_of_a_second_is_the_tolerance(checker: Checker) -> None:
    """Encoders fill up a frame: 0.2 s more or less is no difference, 0.25 s is."""
    data = _wav(_noise(3.0))
    outcomes = [
        checker.check([data], _announced(data, announced)) for announced in (2.75, 2.81, 3.19, 3.25)
    ]

    assert [isinstance(outcome, Found) for outcome in outcomes] == [False, True, True, False]


def test_other_bytes_than_announced_are_refused(checker: Checker) -> None:
    """Nothing, a byte less, and another recording's digest: each with its figures."""
    data, other = _wav(_noise(2.0)), _wav(_noise(3.0))
    digest = hashlib.sha256(other).hexdigest()

    nothing = checker.check([], _announced(data, 2.0))
    less = checker.check([data[:100], data[100:-1]], _announced(data, 2.0))
    strange = checker.check([data], _announced(data, 2.0, sha256=digest))

    assert nothing == Refused(
        reason="wrong_length", detail=f"0 bytes arrived, {len(data)} were announced"
    )
    assert isinstance(less, Refused)
    assert less.reason == "wrong_length"
    assert isinstance(strange, Refused)
    assert strange.reason == "wrong_digest"
    assert digest in strange.detail


def test_more_than_is_taken_is_refused_before_it_is_decoded(
    limited: Callable[..., Checker],
) -> None:
    """What announces itself longer than the setting says is too long."""
    checker = limited(quality={"longest_s": 2.5})
    data = _wav(_noise(3.0))

    found = checker.check([data], _announced(data, 3.0))

    assert isinstance(found, Refused)
    assert found.reason == "too_long"


# ---- what a child must not do


@pytest.fixture(scope="module")
def long_noise() -> bytes:
    """Ten minutes that take seconds to check."""
    return _wav(_noise(600.0, 44_100), 44_100, "ULAW")


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"wall_s": 0.3}, "longer than 0.3 s"),
        ({"memory_mb": 40}, "more than 40 MB of memory"),
    ],
)
def test_who_runs_out_twice_is_refused(
    limited: Callable[..., Checker], long_noise: bytes, limits: dict[str, Any], said: str
) -> None:
    """Time and memory have an end; the next recording is checked as if nothing was."""
    checker = limited(**limits)

    found = checker.check([long_noise], _announced(long_noise, 600.0))

    assert isinstance(found, Refused)
    assert found.reason == "check_failed"
    assert said in found.detail
    assert _serves(checker)


def test_who_keeps_the_processor_busy_is_ended(limited: Callable[..., Checker]) -> None:
    """A second of processor time is not enough for an hour; each recording has a second anew."""
    before = _children()
    checker = limited(cpu_s=1, memory_mb=2048, quality={"longest_s": 3600.0})
    hour = _wav(np.tile(_noise(60.0, 8000), 60), 8000, "ULAW")

    found = checker.check([hour], _announced(hour, 3600.0))

    assert isinstance(found, Refused)
    assert found.reason == "check_failed"
    assert "more than 1 s of processor time" in found.detail
    minute = _wav(_noise(60.0, 8000), 8000)
    while _processor_s(_the_child_of(before)) < 2.5:
        assert isinstance(checker.check([minute], _announced(minute, 60.0)), Found)


def test_ten_minutes_stay_within_the_default_limits(checker: Checker, long_noise: bytes) -> None:
    """The longest recording that is taken by default needs no more than is given."""
    found = checker.check([long_noise], _announced(long_noise, 600.0))

    assert isinstance(found, Found)
    assert len(found.audio) == 4 * 600 * 16_000


def _kill_when_busy(child: BaseProcess) -> None:
    since_s = _processor_s(child)
    deadline = time.monotonic() + 60
    while _processor_s(child) < since_s + 0.1:
        assert time.monotonic() < deadline, "it never began"
        time.sleep(0.005)
    child.kill()


def test_a_child_killed_in_the_middle_costs_one_try(
    limited: Callable[..., Checker], long_noise: bytes
) -> None:
    """It is tried again by another child, and found."""
    before = _children()
    checker = limited()
    assert _serves(checker)  # it is ready: what it does from now on is the check
    with ThreadPoolExecutor() as threads:
        found = threads.submit(checker.check, [long_noise], _announced(long_noise, 600.0))
        _kill_when_busy(_the_child_of(before))

        assert isinstance(found.result(), Found)


def test_a_child_killed_while_it_waits_costs_nothing(limited: Callable[..., Checker]) -> None:
    """However often: the next check has a new one."""
    before = _children()
    checker = limited()
    for _ in range(3):
        assert _serves(checker)
        child = _the_child_of(before)
        child.kill()
        child.join()
    assert _serves(checker)


def test_a_child_that_hangs_costs_one_try(limited: Callable[..., Checker]) -> None:
    """One that does not even read what it is asked is given up when its time is over."""
    before = _children()
    checker = limited(wall_s=3.0)
    assert _serves(checker)
    hanging = _the_child_of(before)
    os.kill(hanging.pid or 0, signal.SIGSTOP)
    data = _wav(_noise(5.0, 48_000), 48_000)  # more than a pipe holds

    found = checker.check([data], _announced(data, 5.0))

    assert isinstance(found, Found)
    assert not hanging.is_alive()


def test_children_can_open_and_write_nothing(checker: Checker) -> None:
    """The kernel holds them to it: no file can be written or opened, none is open, no core."""
    assert _serves(checker)
    for child in _children():
        lines = Path(f"/proc/{child.pid}/limits").read_text().splitlines()
        limits = {line[:25].strip(): line[26:46].strip() for line in lines}
        folder = Path(f"/proc/{child.pid}/fd")
        places = {int(fd.name): fd.readlink() for fd in folder.iterdir()}

        assert limits["Max file size"] == "0"
        assert limits["Max open files"] == "1"
        assert limits["Max core file size"] == "0"
        assert limits["Max address space"].isdigit()
        named = [at for at in places.values() if str(at).startswith("/")]
        mine = {Path(f"/proc/self/fd/{fd}").readlink() for fd in (0, 1, 2)}  # stdin, out, errors
        assert set(named) <= {Path("/dev/null"), *mine}


HOLD = """
import multiprocessing, sys, time
from spira.intake.checking import Checker
from spira.intake.settings import CheckingSettings

if __name__ == "__main__":
    checker = Checker(CheckingSettings(children=2))
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(600)
"""


def test_children_end_with_their_parent(tmp_path: Path) -> None:
    """`kill -9` of the service leaves no child."""
    script = tmp_path / "hold.py"
    script.write_text(HOLD)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        parent.kill()

    deadline = time.monotonic() + 60
    while left := [pid for pid in pids if _runs(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    assert len(pids) == 2


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # a dead one that nobody has asked about yet


def test_after_closing_nothing_is_checked_and_no_child_is_left(
    limited: Callable[..., Checker],
) -> None:
    """The check at work ends well; later ones are told that the service is ending."""
    before = _children()
    checker = Checker(CheckingSettings(children=1))
    child = _the_child_of(before)
    assert _serves(checker)

    checker.close()

    assert not child.is_alive()
    with pytest.raises(TransientError, match="ending"):
        _serves(checker)


def test_each_of_many_threads_gets_its_own_answer(checker: Checker) -> None:
    """Forty checks from eight threads: the samples that come back are those that were sent."""
    sounds = [_noise(1.0 + number / 40) * (number + 1) / 40 for number in range(40)]

    def own(sound: Floats) -> bool:
        data = _wav(sound, subtype="FLOAT")
        found = checker.check([data], _announced(data, len(sound) / 16_000))
        assert isinstance(found, Found)
        return found.audio == sound.astype("<f4").tobytes()

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(own, sounds))


def test_two_hundred_checks_leave_nothing_behind(checker: Checker) -> None:
    """The memory of the process that asks does not grow, nor its open files and threads."""
    data = VOICE.read_bytes()
    file = _announced(data, soundfile.info(VOICE).duration)

    def used_after(times: int) -> tuple[int, int, int]:
        for _ in range(times):
            assert isinstance(checker.check([data], file), Found)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        fds = len(list(Path("/proc/self/fd").iterdir()))
        return pages * os.sysconf("SC_PAGE_SIZE"), fds, threading.active_count()

    before = used_after(20)
    after = used_after(200)

    assert after[0] - before[0] < 16 << 20  # their samples alone are 80 MB
    assert after[1:] == before[1:]
