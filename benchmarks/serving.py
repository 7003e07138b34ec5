"""What Serving costs, part by part, each against the least that the same work can cost.

    python -m benchmarks.serving              the rows that `make bench` prints
    python -m benchmarks.serving memory F [N] the memory of API, relay and predictor over N
                                              (10,000) assessments, in folder F; run again after a
                                              kill it goes on where it was

Services are real processes on a folder of their own. The client is one thread a connection, on
http.client, the same for both ways: a client library would cost more than what it asks for.
"""

import asyncio
import hashlib
import http.client
import io
import json
import os
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spira.domain.draws import draws
from spira.stores.processes import Process, answers, free_or_wanted, stop_all

Row = tuple[str, str, str, str]

_TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(_TESTS), str(_TESTS / "system")]

_REPEATS = 3
_RATE_HZ = 16_000
_LENGTHS_S = (1, 4, 7, 15)  # of recordings, for the latency
_ANSWERS = 60  # of each length, in each way
_AT_ONCE = 8  # connections
_UPLOADS, _UPLOAD_BYTES = 400, 200_000
_COMMITS, _COMMITS_AT_ONCE = 80, 4
_SPOKEN_S = 6.0
_WINDOW_S = 4.0  # shorter recordings are answered without a model
_STAND_IN_S = 0.05  # that the stand-in model takes
_COUNTED_S = 6.0
_TUS = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}


def measured() -> Iterator[Row]:
    """(what, ours, other, ratio), as rows of the table."""
    yield from _answering()
    yield _starting()
    with _api() as api:
        yield _uploading(api)
        yield _committing(api)
    yield _predictors()


# ---- answering


def _answering() -> Iterator[Row]:
    """score(), as the predictor calls it, against the network exported as it stands."""
    import torch

    from spira.audio.features import Mfcc
    from spira.audio.windows import Windows
    from spira.model.config import SpiraConvV2
    from spira.model.export import export
    from spira.model.networks import build
    from spira.model.scoring import Scorer, ScoringSpec

    torch.set_num_threads(1)
    torch.manual_seed(1)
    network = build(SpiraConvV2(), frames=401, coefficients=40).eval()
    scorer = Scorer(export(network, 401, 40), ScoringSpec(features=Mfcc(), windows=Windows()))
    plain = _plain(network)
    for length_s in _LENGTHS_S:
        noise = draws(length_s, "bench").standard_normal(length_s * _RATE_HZ)
        recording = (0.1 * noise).astype(np.float32)
        assert abs(scorer.score(recording).probability - plain(recording)) < 1e-4
        taken: tuple[list[float], list[float]] = ([], [])
        for _ in range(_ANSWERS):
            for seconds, way in zip(taken, (scorer.score, plain), strict=True):
                began = time.perf_counter()
                way(recording)
                seconds.append(time.perf_counter() - began)
        ours, other = (statistics.median(one) for one in taken)
        yield (
            f"answering {length_s} s, median and 95 %: score(), against the network exported as it "
            "stands, features a window at a time, one call",
            _latency(taken[0]),
            _latency(taken[1]),
            f"{other / ours:.2f}",
        )


def _plain(network: Any) -> Callable[[NDArray[np.float32]], float]:
    """The way that comes to mind first, on one thread too."""
    import onnxruntime
    import torch

    from spira.audio.features import Mfcc, extract_single
    from spira.audio.windows import Windows, cut

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside torch's own exporter
        program = torch.onnx.export(
            network,
            (torch.zeros(2, 1, 401, 40),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("windows", min=1)},),
            input_names=["features"],
            opset_version=20,
            verbose=False,
        )
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    mfcc, windows = Mfcc(), Windows()

    def answer(recording: NDArray[np.float32]) -> float:
        features = np.stack([extract_single(window, mfcc) for window in cut(recording, windows)])
        (logits,) = session.run(None, {"features": features[:, None]})
        return float(np.mean(1 / (1 + np.exp(-logits.astype(np.float64)))))

    return answer


def _latency(seconds: Sequence[float]) -> str:
    most = np.quantile(seconds, 0.95)
    return f"{1000 * statistics.median(seconds):.1f} ms, {1000 * most:.1f} ms"


# ---- starting


def _starting() -> Row:
    """The whole service with a champion, on a folder that it has run on before."""
    from served import Served, publish_champion  # type: ignore[import-not-found]

    taken = []
    with tempfile.TemporaryDirectory() as place:
        served = Served(Path(place).resolve() / "home")
        publish_champion(served.home, Path(place) / "bundle")
        served.make_token()
        for _ in range(_REPEATS):
            began = time.perf_counter()
            served.start()
            taken.append(time.perf_counter() - began)
            served.stop()
    return (
        "starting `spira serve`, until each of its parts answers; 10 s are allowed",
        f"{statistics.median(taken):.1f} s ({min(taken):.1f} to {max(taken):.1f})",
        "",
        "",
    )


# ---- taking in


class _Api(NamedTuple):
    """The Client API alone, with one child that checks."""

    address: str
    token: str


@contextmanager
def _api() -> Iterator[_Api]:
    from served import Served

    with tempfile.TemporaryDirectory() as place:
        served = Served(Path(place).resolve())
        token = served.make_token()
        port = free_or_wanted("", 0)
        words = [sys.executable, "-m", "spira.cli", "serve", "api", "--port", str(port)]
        with _running(words, port, served.home / "log", served.environment) as address:
            yield _Api(address, token)


@contextmanager
def _running(
    words: Sequence[str], port: int, log: Path, environment: Mapping[str, str]
) -> Iterator[str]:
    """A process that answers /healthz; its address."""
    address = f"http://127.0.0.1:{port}"
    process = Process("bench", words, lambda: answers(f"{address}/healthz"), environment, log)
    try:
        process.watch()
        while not process.well:
            time.sleep(0.05)
            process.watch()
        yield address
    finally:
        stop_all([process])


class _Client:
    """Connections that are kept, one a thread."""

    def __init__(self, api: _Api) -> None:
        self._host = api.address.removeprefix("http://")
        self._token = api.token
        self._of_thread = threading.local()

    def ask(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, bytes]:
        """Status and body of an answer."""
        connection = getattr(self._of_thread, "connection", None)
        if connection is None:
            connection = self._of_thread.connection = http.client.HTTPConnection(self._host)
        connection.request(
            method, path, body, {"Authorization": f"Bearer {self._token}", **headers}
        )
        answer = connection.getresponse()
        return answer.status, answer.read()

    def put(self, one: Any) -> dict[str, Any]:
        """Send the manifest of an assessment; how it stands."""
        headers = {
            "Content-Type": "application/json",
            "Spira-Device-Secret": one.secret,
            "Spira-Device-Time": datetime.now(UTC).isoformat(),
        }
        path, manifest = f"/v1/assessments/{one.id}", json.dumps(one.manifest).encode()
        status, body = self.ask("PUT", path, manifest, headers)
        assert status in (200, 202), body
        found: dict[str, Any] = json.loads(body)
        return found

    def announce(self, one: Any) -> str:
        """Where the bytes of its one recording go."""
        return str(self.put(one)["recordings"][0]["upload_url"])

    def patch(self, upload_url: str, data: bytes) -> None:
        """Send all bytes of a recording."""
        status, body = self.ask("PATCH", upload_url, data, _TUS | {"Upload-Offset": "0"})
        assert status == 204, body

    def commit(self, one: Any) -> None:
        """Ask until there is a receipt."""
        while (found := self.put(one))["state"] != "accepted":
            assert found["state"] == "checking", found
            time.sleep(0.1)


def _uploading(api: _Api) -> Row:
    """Uploads, against PUTs to an app that does nothing but write and sync."""
    ours, other = [], []
    data = [draws(number, "bench").bytes(_UPLOAD_BYTES) for number in range(8)]
    client = _Client(api)
    with tempfile.TemporaryDirectory() as place:
        folder, port = Path(place).resolve(), free_or_wanted("", 0)
        words = [sys.executable, "-m", "benchmarks.serving", "bare", str(folder), str(port)]
        with _running(words, port, folder / "log", os.environ) as address:
            bare = _Client(_Api(address, ""))

            def put(number: int) -> None:
                status, _ = bare.ask("PUT", f"/{number}", data[number % len(data)], {})
                assert status == 201

            for repeat in range(_REPEATS):
                numbers = range(repeat * _UPLOADS, (repeat + 1) * _UPLOADS)
                sounds = [data[number % len(data)] for number in numbers]
                sent = [_assessment(sound, _SPOKEN_S) for sound in sounds]
                _, urls = _each(client.announce, sent)
                seconds, _ = _each(
                    lambda one: client.patch(*one), [*zip(urls, sounds, strict=True)]
                )
                ours.append(_UPLOADS / seconds)
                seconds, _ = _each(put, numbers)
                other.append(_UPLOADS / seconds)
    return (
        f"uploads without commit, {_UPLOAD_BYTES // 1000} kB, {_AT_ONCE} at once: against bare "
        "PUTs that write and sync too",
        *_rates(ours, other, "files"),
    )


def _committing(api: _Api) -> Row:
    """From the last manifest to the receipt, against one process that decodes and checks."""
    ours, other = [], []
    client = _Client(api)
    sounds = [_as_a_phone_sends(number) for number in range(8)] * (_COMMITS // 8)
    for _ in range(_REPEATS):
        sent = [(_assessment(sound, _SPOKEN_S), sound) for sound in sounds]
        _each(lambda one: client.patch(client.announce(one[0]), one[1]), sent)
        seconds, _ = _each(lambda one: client.commit(one[0]), sent, at_once=_COMMITS_AT_ONCE)
        ours.append(_COMMITS / seconds)
        began = time.perf_counter()
        for sound in sounds:
            _check(sound)
        other.append(_COMMITS / (time.perf_counter() - began))
    return (
        f"commits, webm/opus of {_SPOKEN_S:g} s, one child that checks, {_COMMITS_AT_ONCE} at "
        "once: to the receipt, against one process that decodes and checks alone",
        *_rates(ours, other, "commits"),
    )


def _check(sound: bytes) -> None:
    """What the child does with a recording: its digest, one decoding, every measurement, and its
    samples at 16 kHz."""
    from spira.audio.decode import opened
    from spira.audio.quality import QualityThresholds, findings, measure

    audio = io.BytesIO()

    def hear(block: NDArray[np.float32]) -> None:
        audio.write(block.tobytes())

    hashlib.sha256(sound).hexdigest()
    with opened(io.BytesIO(sound)) as native:
        found = measure(native.blocks, native.format.rate_hz, hearing=hear)
    findings(found, QualityThresholds(), "sentence")


def _as_a_phone_sends(number: int) -> bytes:
    """Somebody speaking, as webm/opus."""
    import soundfile
    import soxr
    from encoding import CASES, encode  # type: ignore[import-not-found]
    from served import voice

    sound, rate_hz = soundfile.read(io.BytesIO(voice(number, _SPOKEN_S)), dtype="float32")
    spoken = np.resize(soxr.resample(sound, rate_hz, 48_000), round(48_000 * _SPOKEN_S))
    found: bytes = encode(spoken, **CASES["webm-live"])
    return found


def _assessment(sound: bytes, duration_s: float) -> Any:
    """One recording, announced."""
    from served import FORM, Assessment
    from uuid_utils import uuid7

    return Assessment(
        (),
        manifest={
            "revision": 1,
            "form": {"id": "assessment", "version": 1, "values": dict(FORM)},
            "recordings": [
                {
                    "id": str(uuid7()),
                    "utterance": "sentence",
                    "sha256": hashlib.sha256(sound).hexdigest(),
                    "n_bytes": len(sound),
                    "duration_s": duration_s,
                    "recorded_at": datetime.now(UTC).isoformat(),
                    "capture": {"device": "a phone", "rate_hz": 48_000},
                }
            ],
        },
    )


def _each(
    work: Callable[[Any], Any], items: Sequence[Any], at_once: int = _AT_ONCE
) -> tuple[float, list[Any]]:
    """Seconds that the work on all items takes, so many at once, and what it gives."""
    with ThreadPoolExecutor(at_once) as pool:
        began = time.perf_counter()
        found = [*pool.map(work, items)]
        return time.perf_counter() - began, found


def _rates(ours: Sequence[float], other: Sequence[float], unit: str) -> tuple[str, str, str]:
    """Medians of repeats that alternated."""
    one, two = statistics.median(ours), statistics.median(other)
    return f"{one:.0f} {unit}/s", f"{two:.0f} {unit}/s", f"{one / two:.2f}"


def _bare(folder: Path, port: int) -> None:
    """An app that writes a body to a file, and syncs the file and its folder."""
    import uvicorn
    from anyio import to_thread
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    from spira.stores.files import sync_path

    def keep(name: str, data: bytes) -> None:
        (folder / name).write_bytes(data)
        sync_path(folder / name)
        sync_path(folder)

    async def put(request: Request) -> Response:
        await to_thread.run_sync(keep, request.path_params["name"], await request.body())
        return Response(status_code=201)

    async def well(_: Request) -> Response:
        return Response()

    app = Starlette(routes=[Route("/healthz", well), Route("/{name}", put, methods=["PUT"])])
    uvicorn.run(app, port=port, log_level="warning", access_log=False)


# ---- many predictors


def _predictors() -> Row:
    """Eight processes against one, with a model that waits, on a real queue."""
    ours, other = [], []
    for _ in range(_REPEATS):
        ours.append(asyncio.run(_answers_a_second(8)))
        other.append(asyncio.run(_answers_a_second(1)))
    return (
        f"predictors, a model that waits {1000 * _STAND_IN_S:.0f} ms: eight, against one",
        *_rates(ours, other, "answers"),
    )


async def _answers_a_second(predictors: int) -> float:
    """Replies a second while all predictors are at work."""
    from spira.serving.messages import ASKS, Ask, write_message
    from spira.stores.objects import Objects
    from spira.stores.queue import Queue, nats_server

    with tempfile.TemporaryDirectory() as place, nats_server(Path(place) / "queue") as server:
        folder = Path(place)
        while not server.process.well:
            server.process.watch()
            await asyncio.sleep(0.02)
        assert server.url is not None
        audio = (0.1 * draws(1, "bench").standard_normal(6 * _RATE_HZ)).astype("<f4").tobytes()
        Objects.open(str(folder / "objects"), setting="a benchmark").create("audio", audio)
        words = [sys.executable, "-m", "benchmarks.serving", "predictor"]
        words += [server.url, str(server.token), str(folder / "objects")]
        ports = [free_or_wanted("", 0) for _ in range(predictors)]
        processes = [
            Process(
                f"predictor-{number}",
                [*words, str(port)],
                lambda port=port: answers(f"http://127.0.0.1:{port}/healthz"),  # type: ignore[misc]
                os.environ,
                folder / f"{number}.log",
            )
            for number, port in enumerate(ports)
        ]
        queue = await Queue.connect(server.url, token=server.token)
        try:
            while not all(process.well for process in processes):
                for process in processes:
                    process.watch()
                await asyncio.sleep(0.05)
            asks = [
                Ask(
                    assessment=f"01938f00-0000-7000-8000-{number:012d}",
                    attempt=1,
                    audio="audio",
                    sha256=hashlib.sha256(audio).hexdigest(),
                )
                for number in range(round((_COUNTED_S + 8) / _STAND_IN_S * predictors))
            ]
            for begin in range(0, len(asks), 50):
                await asyncio.gather(
                    *(
                        queue.publish(ASKS, ask.identity, write_message(ask))
                        for ask in asks[begin : begin + 50]
                    )
                )
            before, began = await _replies(server), time.perf_counter()
            await asyncio.sleep(_COUNTED_S)
            after, ended = await _replies(server), time.perf_counter()
            assert after < len(asks), "they ran out of work"
            return (after - before) / (ended - began)
        finally:
            stop_all(processes)
            await queue.close()


async def _replies(server: Any) -> int:
    """How many there are."""
    import nats

    client = await nats.connect(server.url, token=server.token.read_text())
    try:
        return (await client.jetstream().stream_info("replies")).state.messages
    finally:
        await client.close()


def _predict(url: str, token: str, objects: str, port: str) -> None:
    """A predictor, whole but for its model, which waits."""
    from tiny_bundle import write_bundle  # type: ignore[import-not-found]

    from spira.model.bundle import load
    from spira.model.scoring import Scorer
    from spira.serving.predictor import Model, run
    from spira.stores.objects import Objects

    with tempfile.TemporaryDirectory() as place:
        manifest, scorer = load(write_bundle(Path(place) / "bundle"))
    score = scorer.score(np.zeros(_RATE_HZ, np.float32))

    class Waiting(Scorer):
        def __init__(self) -> None: ...

        def score(self, waveform: Any) -> Any:
            time.sleep(_STAND_IN_S)
            return score

    run(
        url,
        token=Path(token),
        objects=Objects.open(objects, setting="a benchmark"),
        load_model=lambda: Model("spira/1@waits", manifest, Waiting()),
        port=int(port),
    )


# ---- memory


def memory(folder: Path, n: int = 10_000, every: int = 1000) -> None:
    """Print the memory of every part of `spira serve` while it takes in and answers assessments."""
    import sqlalchemy as sa
    from served import Served, publish_champion, voice

    from spira.serving.tables import ASSESSMENTS
    from spira.stores.database import Database

    served = Served(folder.resolve(), {"SPIRA_SERVING__LEASE_S": "60"})
    if not (served.home / "tiny").exists():
        publish_champion(served.home, served.home / "tiny")
    served.kill("everything")  # of a run that was killed
    served.token = served.make_token()
    served.start()
    database = Database.open(f"sqlite:///{served.home / 'spira.db'}", what="its database is away")
    query = sa.select(sa.func.count()).where(ASSESSMENTS.c.state != "queued")

    def answered() -> int:
        with database.reading() as tables:
            return int(tables.execute(query).scalar_one())

    try:
        client = _Client(_Api(served.address, served.token))
        sound = voice(1, _WINDOW_S)

        def send(_: int) -> None:
            one = _assessment(sound, _WINDOW_S)
            client.patch(client.announce(one), sound)
            client.commit(one)

        done = answered()
        print(f"{done} answered before: {_sizes(served)}", flush=True)
        while done < n:
            seconds, _ = _each(send, range(every))
            done += every
            while answered() < done:
                time.sleep(0.2)
            print(f"{done}: {_sizes(served)}; {every / seconds:.0f} accepted/s", flush=True)
    finally:
        served.stop()


def _sizes(served: Any) -> str:
    """Resident memory, in MB."""
    marks = ("serve api", "serve relay", "serve predictor", "nats-server", "spawn_main")
    sizes = []
    for pid, words in sorted(served.alive()):
        for mark in marks:
            if mark in words:
                status = Path(f"/proc/{pid}/status").read_text()
                kb = int(status.partition("VmRSS:")[2].split()[0])
                sizes.append(f"{mark.split()[-1]} {kb / 1024:.0f}")
    return ", ".join(sizes)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["bare", folder, port]:
            _bare(Path(folder), int(port))
        case ["predictor", url, token, objects, port]:
            _predict(url, token, objects, port)
        case ["memory", folder]:
            memory(Path(folder))
        case ["memory", folder, n]:
            memory(Path(folder), int(n))
        case _:
            for row in measured():
                print(f"| {' | '.join(row)} |", flush=True)
