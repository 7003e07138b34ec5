"""The Client API in this process: its OpenAPI document, and what it answers to all that it allows
and forbids."""

import asyncio
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from spira.audio.quality import QualityThresholds
from spira.domain.submissions import RecordingFile
from spira.domain.vitals import VitalRule, VitalRules
from spira.intake.checking import Found, Refused
from spira.intake.keys import KeyRing
from spira.intake.settings import IntakeSettings, IntakeThresholds
from spira.intake.submissions import Intake, Owner, Standing
from spira.intake.tokens import Tokens
from spira.serving import api
from spira.serving.api import Parts, create_api
from spira.serving.assessments import Assessments
from spira.serving.settings import ServingSettings
from spira.stores.database import Database
from spira.stores.objects import Objects
from spira.wiring import ROOMS

SEED = 5
SOUND = b"recorded"
FORM = {
    "record_number": "123.456-7",
    "age": 63,
    "language": "pt-BR",
    "tracheostomy": False,
    "intubated": False,
    "patient_informed": True,
    "research_consent": False,
}
OPERATIONS = 15
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


# Bytes of an upload are as they come.
schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")


def identity(number: int) -> str:
    """An id that a device may have made."""
    return f"01938f00-0000-7000-8000-{number:012d}"


class Dies:
    """A check that every recording kills: it is accepted, and its assessment fails."""

    def check(
        self, pieces: Sequence[bytes], file: RecordingFile, *, unfinished: bool = False
    ) -> Found | Refused:
        """No answer, twice."""
        return Refused(reason="check_failed", detail="a test")


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    """The API's parts, on SQLite and a folder."""
    database = Database.open(f"sqlite:///{tmp_path / 'spira.db'}", what="away")
    database.migrate(ROOMS)
    keys = KeyRing.open(tmp_path / "keys")
    objects = Objects.open(str(tmp_path / "recordings"), setting="a test")
    return Parts(
        intake=Intake(database, objects, Dies(), keys, IntakeSettings()),
        assessments=Assessments(database),
        tokens=Tokens(database),
        keys=keys,
        settings=ServingSettings(),
        thresholds=QualityThresholds(),
    )


@dataclass
class Attacked:
    """An API with an accepted assessment, and one whose recording is not there yet."""

    api: FastAPI
    token: str
    accepted: str
    upload: str

    def attack(self, examples: int) -> dict[str, set[int]]:
        """What each operation answers to so many requests as the document allows, and as many as
        it forbids; each answer is as the document says, and none is 500 or above."""
        schema = schemathesis.openapi.from_asgi("/openapi.json", self.api)
        answered: dict[str, set[int]] = {}
        for found in schema.get_all_operations():
            operation = found.ok()
            known = {"upload": self.upload, "id": self.accepted}
            there = {name: to for name, to in known.items() if f"{{{name}}}" in operation.path}
            cases = (
                operation.as_strategy(GenerationMode.POSITIVE),
                operation.as_strategy(GenerationMode.POSITIVE, path_parameters=there),
                operation.as_strategy(GenerationMode.NEGATIVE),
                operation.as_strategy(GenerationMode.NEGATIVE, path_parameters=there),
            )
            for which in cases:
                answered.setdefault(operation.label, set()).update(ask(which, self.token, examples))
        return answered


def ask(cases: SearchStrategy[Case], token: str, examples: int) -> set[int]:
    """Send so many requests; which statuses came back."""
    statuses = set()

    @seed(SEED)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def send(case: Case) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        statuses.add(case.call_and_validate(headers=headers, checks=CHECKS).status_code)

    with suppress(Unsatisfiable):  # nothing can be wrong where nothing can be said
        send()
    return statuses


def manifest(number: int, n_bytes: int, values: Mapping[str, Any] = FORM) -> dict[str, Any]:
    """Of an assessment with one recording."""
    return {
        "revision": 1,
        "form": {"id": "assessment", "version": 1, "values": values},
        "recordings": [
            {
                "id": identity(number + 1),
                "utterance": "sentence",
                "sha256": hashlib.sha256(SOUND).hexdigest(),
                "n_bytes": n_bytes,
                "duration_s": 5.0,
                "recorded_at": "2026-03-01T12:00:00Z",
            }
        ],
    }


async def prepared(api: FastAPI, token: str) -> str:
    """Send one assessment to its end, and announce another; where its bytes are to go."""
    by_device = {"Authorization": f"Bearer {token}", "Spira-Device-Secret": "A" * 43}
    tus = {
        "Tus-Resumable": "1.0.0",
        "Upload-Offset": "0",
        "Content-Type": "application/offset+octet-stream",
    }
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(api), base_url="http://api.test", headers=by_device
    ) as client:

        async def put(number: int, n_bytes: int) -> dict[str, Any]:
            path = f"/v1/assessments/{identity(number)}"
            answer = await client.put(path, json=manifest(number, n_bytes))
            found: dict[str, Any] = answer.json()
            return found

        (needed,) = (await put(1, len(SOUND)))["recordings"]
        await client.patch(needed["upload_url"], content=SOUND, headers=tus)
        assert (await put(1, len(SOUND)))["state"] == "accepted"
        (waits,) = (await put(3, 100_000))["recordings"]
    return str(waits["upload_url"])


@pytest.fixture
def attacked(parts: Parts) -> Attacked:
    """On SQLite and a folder."""
    api, token = create_api(parts), parts.tokens.create("ward")
    upload = asyncio.run(prepared(api, token))
    return Attacked(api, token, identity(1), upload.rpartition("/")[2])


@pytest.mark.parametrize("examples", [8, pytest.param(150, marks=pytest.mark.slow)])
def test_whatever_is_asked_is_answered_as_the_document_says(
    attacked: Attacked, examples: int
) -> None:
    """With and without mistakes, at every address; nothing is answered with 500 or above."""
    answered = attacked.attack(examples)

    assert len(answered) == OPERATIONS
    assert answered["PUT /v1/assessments/{id}"] >= {200, 400, 401}
    assert answered["POST /v1/assessments/{id}/void"] >= {200, 400, 401, 404}
    assert answered["HEAD /v1/uploads/{upload}"] >= {200, 401, 404, 412}
    assert answered["PATCH /v1/uploads/{upload}"] >= {400, 401, 404, 412}


@pytest.mark.parametrize(
    ("method", "path", "body", "key"),
    [
        ("PUT", f"/v1/assessments/{identity(1)}", '{"revision": 1, "revision": 2}', "revision"),
        (
            "PUT",
            f"/v1/assessments/{identity(1)}",
            json.dumps(manifest(1, 10)).replace('"age": 63', '"age": 63, "\\u0061ge": 36'),
            "age",
        ),
        (
            "POST",
            "/v1/assessments/search",
            '{"record_number":"1","record_number":"2"}',
            "record_number",
        ),
        ("POST", f"/v1/assessments/{identity(1)}/void", '{"reason":"a","reason":""}', "reason"),
    ],
    ids=["manifest", "form", "search", "void"],
)
def test_what_says_a_thing_twice_is_refused_by_its_name(
    parts: Parts, method: str, path: str, body: str, key: str
) -> None:
    """However the key is written: which of the two was meant nobody knows."""
    headers = {
        "Authorization": f"Bearer {parts.tokens.create('ward')}",
        "Spira-Device-Secret": "A" * 43,
    }

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(create_api(parts))
        async with httpx.AsyncClient(transport=transport, base_url="http://api.test") as client:
            return await client.request(method, path, content=body, headers=headers)

    answer = asyncio.run(ask())

    assert answer.status_code == 400
    twice = [one for one in answer.json()["places"] if "2 times" in one["what"]]
    assert [one["where"] for one in twice] == [key]


def test_two_devices_with_one_id_are_told_apart_while_one_is_being_committed(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second hears what anybody hears of an unknown id, however alike their manifests are."""
    commit, go = parts.intake.commit, threading.Event()

    def held(*what: Any, **how: Any) -> Standing:
        assert go.wait(20)
        return commit(*what, **how)

    async def both() -> tuple[int, int]:
        headers = {"Authorization": f"Bearer {parts.tokens.create('ward')}"}
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(create_api(parts)),
            base_url="http://api.test",
            headers=headers,
        ) as client:

            async def put(secret: str) -> int:
                answer = await client.put(
                    f"/v1/assessments/{identity(1)}",
                    json=manifest(1, 10, values={}),
                    headers={"Spira-Device-Secret": secret},
                )
                return answer.status_code

            first = asyncio.create_task(put("A" * 43))
            while not parts.checking:
                await asyncio.sleep(0.01)
            second = asyncio.create_task(put("B" * 42 + "A"))
            await asyncio.wait({second}, timeout=0.5)  # it is being committed too, or waits
            go.set()
            return await first, await second

    monkeypatch.setattr(parts.intake, "commit", held)

    assert sorted(asyncio.run(both())) == [200, 404]


@pytest.fixture
def held(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The check of what the site `ward` sends lasts until this is set."""
    commit, go = parts.intake.commit, threading.Event()

    def slowly(submission: Any, owner: Owner, *what: Any, **how: Any) -> Standing:
        if owner.site == "ward":
            assert go.wait(60)
        return commit(submission, owner, *what, **how)

    monkeypatch.setattr(parts.intake, "commit", slowly)
    yield go
    go.set()


def test_a_site_that_sends_everything_at_once_holds_no_other_up(
    parts: Parts, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one is answered at once; what is too much for a line is to come again, and does;
    in the end every manifest is answered."""
    monkeypatch.setattr(api, "_MOST_OF_A_SITE", 30)
    soon = replace(parts, settings=ServingSettings(checking_answer_s=0.2))
    app = create_api(soon)
    tokens = {site: parts.tokens.create(site) for site in ("ward", "other")}
    numbers = range(100, 180, 2)

    async def ask(client: httpx.AsyncClient, site: str, number: int) -> httpx.Response:
        headers = {"Authorization": f"Bearer {tokens[site]}", "Spira-Device-Secret": "A" * 43}
        path = f"/v1/assessments/{identity(number)}"
        return await client.put(path, json=manifest(number, 10), headers=headers)

    async def all_of_it() -> tuple[list[httpx.Response], httpx.Response, list[httpx.Response]]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://api.test") as client:
            burst = await asyncio.gather(*(ask(client, "ward", number) for number in numbers))
            other = await ask(client, "other", 1)
            repeated = await ask(client, "ward", numbers[0])
            held.set()
            while soon.checking:
                await asyncio.sleep(0.01)
            again = [await ask(client, "ward", number) for number in numbers]
            return [*burst, repeated], other, again

    answered, other, again = asyncio.run(all_of_it())

    assert other.status_code == 200
    assert Counter(one.status_code for one in answered) == {202: 31, 429: 10}
    for one in answered:
        assert one.headers["Retry-After"]
        assert one.status_code == 202 or one.json()["sentence"]["pt"].startswith("Muitos envios")
    assert {one.status_code for one in again} == {200}


def test_it_tells_the_thresholds_and_the_vital_signs_of_this_site(parts: Parts) -> None:
    """Those that are set, and for thresholds the version that is kept with every finding."""
    rules = VitalRules(version="w", rules=(VitalRule(sign="spo2", comparison="<", limit=85),))
    thresholds = IntakeThresholds(noisy_db=12)
    settings = ServingSettings(vital_rules=rules)
    served = create_api(replace(parts, settings=settings, thresholds=thresholds))

    async def get(path: str) -> dict[str, Any]:
        transport = httpx.ASGITransport(served)
        async with httpx.AsyncClient(transport=transport, base_url="http://api.test") as client:
            found: dict[str, Any] = (await client.get(path)).json()
            return found

    about, told = asyncio.run(get("/v1/about")), asyncio.run(get("/v1/thresholds"))

    assert "(SpO₂ abaixo de 85 %)" in str(about["sections"])
    assert (told["version"], told["thresholds"]["noisy_db"]) == (thresholds.version, 12)
