"""Serving: assessments in, receipts and answers out, through the real service."""

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from served import FORM, Api, Assessment, Served, announced, publish_champion, voice
from services import wait_for

from spira.audio.decode import decode
from spira.model.bundle import load
from spira.stores.processes import answers


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The model that answers, and the data folder whose champion it is."""
    folder = tmp_path_factory.mktemp("served")
    return publish_champion(folder / "home", folder / "bundle")


@pytest.fixture(scope="module")
def served(bundle: Path) -> Iterator[Served]:
    """A service with a champion."""
    service = Served(bundle.parent / "home")
    service.token = service.make_token()
    service.start()
    yield service
    service.kill("everything")


def scored(served: Served, assessment: str) -> dict[str, Any]:
    """What the model said of an assessment, which no client is told."""
    with closing(sqlite3.connect(served.home / "spira.db")) as tables:
        (answer,) = tables.execute(
            "SELECT answer FROM serving_assessments WHERE id = ?", (assessment,)
        ).fetchone()
    found: dict[str, Any] = json.loads(answer)["scored"]
    return found


def test_every_answer_is_that_of_the_own_recording(
    served: Served, bundle: Path, tmp_path: Path
) -> None:
    """Told by what the model says of exactly these samples."""
    _, scorer = load(bundle)
    some = [Assessment((voice(number),)) for number in range(5)]

    receipts = [served.sent(one) for one in some]

    assert len(set(receipts)) == len(some)
    for one in some:
        found = served.answered(one.id)
        (tmp_path / one.id).write_bytes(one.sounds[0])
        expected = scorer.score(decode(tmp_path / one.id))
        assert scored(served, one.id)["probability"] == pytest.approx(
            expected.probability, abs=1e-6
        )
        answer = found["answer"]
        assert answer["outcome"] == expected.outcome
        assert answer["evidence"]["pt"] == "Uso em pesquisa. Não regularizado na Anvisa."
        assert "probability" not in json.dumps(found)
    assert len({scored(served, one.id)["probability"] for one in some}) == len(some)


def test_the_receipt_stays_and_another_manifest_is_a_conflict(served: Served) -> None:
    """Which says what differs to the device that made it, and nothing to others."""
    one = Assessment((voice(10),))
    served.sent(one)
    receipt = served.put(one).content
    changed = Assessment(one.sounds, one.id, one.secret, json.loads(json.dumps(one.manifest)))
    changed.manifest["form"]["values"]["record_number"] = "7654321"
    stranger = Assessment(one.sounds, one.id, manifest=one.manifest)

    conflict, unknown = served.put(changed), served.put(stranger)

    assert served.put(one).content == receipt
    assert (conflict.status_code, conflict.json()["differs"]) == (
        409,
        ["form.values.record_number"],
    )
    assert (unknown.status_code, "differs" in unknown.json()) == (404, False)
    assert (
        served.http(
            "GET", f"/v1/assessments/{Assessment((b'',), manifest={'a': 1}).id}"
        ).status_code
        == 404
    )


def test_outside_the_intended_use_is_recorded_and_not_scored(served: Served) -> None:
    """At once, with the reason, and vital signs above."""
    one = Assessment((voice(11),))
    one.manifest["form"]["values"] |= {"age": 12, "spo2": 88, "oxygen_support": "room_air"}
    served.sent(one)

    found = served.answered(one.id, 5)

    assert (found["state"], found["answer"]["outcome"]) == ("completed", None)
    assert "18" in found["answer"]["reasons"][0]["pt"]
    assert found["banner"]["pt"].startswith("Sinais vitais alterados (SpO₂ 88 %).")


def test_a_poor_recording_is_accepted_and_inconclusive(served: Served) -> None:
    """With one thing to do."""
    one = Assessment((voice(12, seconds=2.0),))
    served.sent(one)

    answer = served.answered(one.id, 5)["answer"]

    assert answer["outcome"] == "inconclusive"
    assert "short" in [finding["finding"] for finding in answer["findings"]]
    assert answer["sentence"]["pt"].startswith("Inconclusivo: ")
    with closing(sqlite3.connect(served.home / "spira.db")) as tables:
        query = "SELECT about FROM serving_assessments WHERE id = ?"
        (about,) = tables.execute(query, (one.id,)).fetchone()
    version = served.http("GET", "/v1/thresholds").json()["version"]
    assert json.loads(about)["found"]["thresholds"] == version


def test_what_is_wrong_in_a_form_is_said_by_field_and_loses_nothing(served: Served) -> None:
    """Bytes are kept; a higher revision mends it."""
    one = Assessment((voice(13),))
    one.manifest["form"]["values"] |= {"age": "sixty", "agee": 3}
    served.upload(one)

    told = served.put(one).json()
    one.manifest["revision"] = 2
    one.manifest["form"]["values"] = dict(FORM)

    assert told["state"] == "incomplete"
    assert {field["name"]: field["reason"] for field in told["fields"]} == {
        "age": "wrong_type",
        "agee": "unknown",
    }
    assert served.put(one).json()["state"] == "accepted"


def test_changes_are_followed_and_a_record_is_found_by_its_number(served: Served) -> None:
    """Only of the own site; the number stands in a body, in any way of writing it."""
    one = Assessment((voice(14),))
    one.manifest["form"]["values"]["record_number"] = "99.888/7-a"
    served.sent(one)
    served.answered(one.id)

    page = served.http("GET", "/v1/assessments", params={"limit": 2}).json()
    following = served.http("GET", "/v1/assessments", params={"after": page["next"]}).json()
    found = served.http("POST", "/v1/assessments/search", json={"record_number": "998887A"}).json()

    ids = [entry["id"] for entry in (*page["assessments"], *following["assessments"])]
    assert len(page["assessments"]) == 2
    assert len(set(ids)) == len(ids)
    assert one.id in ids
    assert [entry["id"] for entry in found["assessments"]] == [one.id]
    elsewhere = served.make_token("elsewhere")
    other = {"headers": {"Authorization": f"Bearer {elsewhere}"}}
    assert served.http("GET", "/v1/assessments", **other).json()["assessments"] == []
    assert served.http("GET", f"/v1/assessments/{one.id}", **other).status_code == 404


def test_a_voided_answer_stays_and_is_struck_through(served: Served) -> None:
    """With when it was; a second time changes nothing."""
    one = Assessment((voice(15),))
    served.sent(one)
    served.answered(one.id)
    path = f"/v1/assessments/{one.id}/void"

    first = served.http("POST", path, json={"reason": "wrong bed"}).json()
    second = served.http("POST", path, json={"reason": "again"}).json()

    assert first["voided"] == second["voided"]
    assert first["voided"]["sentence"]["pt"].startswith("Anulado.")
    assert first["answer"] is not None
    assert served.http("POST", path, json={}).status_code == 400


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"revision": 0}, 400),
        ({"revision": "one"}, 400),
        ({"recordings": []}, 400),
        ({"unknown": 1}, 400),
        ({"form": {"id": "assessment", "version": 99, "values": {}}}, 400),
        ({"form": {"id": "../assessment", "version": 1, "values": {}}}, 400),
    ],
)
def test_what_is_no_manifest_is_refused_with_its_place(
    served: Served, change: dict[str, Any], status: int
) -> None:
    """As problem details, with a sentence for people."""
    one = Assessment((voice(16),))
    one.manifest |= change

    answer = served.put(one)

    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert answer.json()["sentence"]["pt"]


@pytest.mark.parametrize(
    ("sound", "reason"),
    [
        (b"ffconcat version 1.0\nfile '/etc/passwd'\n", "not_audio"),
        (b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", "not_audio"),
        (b"PK\x03\x04" + bytes(200), "not_audio"),
        (voice(17)[:30000], "truncated"),
        (voice(17, seconds=3.0), "wrong_duration"),
        (b"RIFF$\0\0\0WAVEfmt " + bytes(200), "undecodable"),
    ],
)
def test_a_file_that_is_no_sound_is_refused_by_name(
    served: Served, sound: bytes, reason: str
) -> None:
    """The other recordings, and the assessment, are kept."""
    recording = announced(voice(17)) | {
        "sha256": hashlib.sha256(sound).hexdigest(),
        "n_bytes": len(sound),
    }
    one = Assessment(
        (sound,),
        manifest={
            "revision": 1,
            "form": {"id": "assessment", "version": 1, "values": FORM},
            "recordings": [recording],
        },
    )
    served.upload(one)

    (told,) = served.put(one).json()["recordings"]

    assert (told["state"], told["reason"]) == ("refused", reason)
    assert told["sentence"]["pt"]


def test_a_second_service_on_the_folder_names_the_holder(served: Served) -> None:
    """And ends with 2."""
    second = served.spira("serve")

    assert second.returncode == 2
    assert "is running on this data folder already (process " in second.stderr


def test_metrics_and_health_say_how_it_goes_and_of_nobody(served: Served) -> None:
    """For Prometheus and for whoever restarts processes."""
    served.http("GET", "/v1/assessments/01938f00-0000-7000-8000-000000000000")

    metrics = served.http("GET", "/metrics").text

    assert 'spira_api_refusals_total{status="404"}' in metrics
    assert "spira_api_accept_seconds_count" in metrics
    assert "spira_api_oldest_open_seconds" in metrics
    assert 'spira_api_assessments{outcome="positive",state="completed"}' in metrics
    assert FORM["record_number"] not in metrics
    for path in ("/healthz", "/readyz"):
        assert served.http("GET", path).status_code == 200


def test_an_acceptance_is_measured_once(served: Served) -> None:
    """However often its receipt is asked for again."""

    def measured() -> float:
        name = "spira_api_accept_seconds_count "
        lines = served.http("GET", "/metrics").text.splitlines()
        return next(float(line.removeprefix(name)) for line in lines if line.startswith(name))

    before = measured()
    one = Assessment((voice(19),))
    served.sent(one)
    for _ in range(3):
        assert served.put(one).json()["state"] == "accepted"

    assert measured() == before + 1


def test_no_record_number_is_in_a_log_a_name_or_a_message(served: Served) -> None:
    """Nor in an answer, whatever was refused. Everything below the data folder is searched:
    tables, logs, queue, names of files."""
    number = "55443322118877"
    one, other = Assessment((voice(18),)), Assessment((voice(18),))
    for each in (one, other):
        each.manifest["form"]["values"]["record_number"] = number
    served.sent(one)
    served.answered(one.id)
    search, path = "/v1/assessments/search", f"/v1/assessments/{one.id}"

    def changed(assessment: Assessment, revision: int, **values: Any) -> httpx.Response:
        assessment.manifest["revision"] = revision
        assessment.manifest["form"]["values"] |= values
        return served.put(assessment)

    answers = [
        served.http("POST", search, json={"record_number": number}),
        changed(other, 1, age="sixty"),
        changed(other, 2, record_number=[number]),
        changed(other, 3, record_number=number, age=63),
        changed(one, 1, record_number=f"{number}-1"),
        changed(one, 0),
        served.http("POST", search, json={"record_number": number * 8}),
        served.http("POST", search, json={"number": number}),
        served.http("POST", f"{path}/void", json={"reason": number * 40}),
        served.http("POST", f"/v1/assessments/{number}/void", json={"reason": "x"}),
        served.http("GET", f"/v1/assessments/{number}"),
        served.http("GET", "/v1/assessments", params={"after": f"{number}x"}),
        served.http("GET", f"/v1/patients/{number}"),
        served.http("HEAD", f"/v1/uploads/{number}", headers={"Tus-Resumable": "1.0.0"}),
        served.http("GET", "/metrics"),
    ]

    expected = [200, 200, 200, 200, 409, 400, 400, 400, 400, 400, 400, 400, 404, 404, 200]
    assert [answer.status_code for answer in answers] == expected
    assert not [answer.url.path for answer in answers if number in answer.text]
    searched = 0
    for file in served.home.rglob("*"):
        assert number not in file.name
        if file.is_file():
            searched += 1
            assert number.encode() not in file.read_bytes(), file
    assert searched > 20


def test_a_receipt_can_be_checked_years_later(served: Served, tmp_path: Path) -> None:
    """By a command that says what it names; one that was changed is no receipt."""
    one = Assessment((voice(19),))
    receipt = served.sent(one)
    (tmp_path / "receipt").write_text(receipt + "\n")
    head, payload, signature = receipt.split(".")
    (tmp_path / "changed").write_text(f"{head}.{payload[:-4]}AAAA.{signature}")

    good = served.spira("keys", "verify", str(tmp_path / "receipt"), "--json")
    changed = served.spira("keys", "verify", str(tmp_path / "changed"))

    assert good.returncode == 0, good.stderr
    assert json.loads(good.stdout)["id"] == one.id
    assert changed.returncode == 70
    assert "the signature does not fit any key" in changed.stderr


def test_a_database_without_its_keys_is_not_served(served: Served, tmp_path: Path) -> None:
    """With other keys no patient of it would be found, and nobody would notice."""
    one = Assessment((voice(20),))
    served.sent(one)

    wrong = served.spira("--setting", f"intake.keys={tmp_path / 'others'}", "serve", "api")

    assert wrong.returncode == 70
    assert "restore the keys from the newest backup" in wrong.stderr


def test_without_a_model_assessments_are_taken_and_wait(tmp_path: Path) -> None:
    """And say so; they are answered once there is one, a synthetic one only in a demonstration."""
    served = Served(tmp_path / "home")
    served.home.mkdir()
    served.token = served.make_token()
    served.start()
    try:
        one = Assessment((voice(21),))
        served.sent(one)
        publish_champion(served.home, tmp_path / "bundle", evidence_level="synthetic")
        predictor = served.home / "serving" / "logs" / "predictor-1.log"
        wait_for(lambda: "trained on synthetic voices" in predictor.read_text(), 60, "it is seen")
        waiting = served.http("GET", f"/v1/assessments/{one.id}").json()
        served.stop()
        served.start(more=("--demo",))
        answered = served.answered(one.id)
    finally:
        served.kill("everything")

    assert (waiting["answer"], waiting["state"], waiting["why"]) == (None, "queued", "no model")
    assert waiting["sentence"]["pt"].startswith("Recebido. Ainda não há modelo em uso.")
    assert answered["answer"]["outcome"] is not None
    assert answered["answer"]["evidence"]["pt"].startswith("DEMONSTRAÇÃO.")
    assert answered["why"] is None


def test_an_assessment_is_followed_through_the_logs_by_its_id(served: Served) -> None:
    """From the first manifest to the answer, in every part."""
    one = Assessment((voice(22),))
    served.sent(one)
    served.answered(one.id)

    def told(part: str) -> list[str]:
        lines = (served.home / "serving" / "logs" / f"{part}.log").read_text().splitlines()
        events = [json.loads(line) for line in lines if one.id in line and line.startswith("{")]
        return [event["event"] for event in events]

    assert told("api") == ["announced", "accepted"]
    assert "answered" in told("relay")
    assert told("predictor-1") != []


def test_told_to_stop_the_api_finishes_what_it_has_in_hand(tmp_path: Path) -> None:
    """The second half of a recording comes after SIGTERM, and is acknowledged; nobody else is let
    in, and then the API ends."""
    api = Api(tmp_path / "home")
    api.home.mkdir()
    api.token = api.make_token()
    api.start()
    assert api.process is not None
    one = Assessment((voice(23),))
    (needed,) = api.put(one).json()["recordings"]
    (sound,) = one.sounds

    def is_in_hand() -> bool:
        headers = {"Tus-Resumable": "1.0.0"}
        here = api.http("HEAD", needed["upload_url"], headers=headers).headers["Upload-Offset"]
        return here == "50000"

    def halves() -> Iterator[bytes]:
        yield sound[:50_000]
        wait_for(is_in_hand, 20, "the first half is here")
        api.process.terminate()  # type: ignore[union-attr]
        wait_for(lambda: not answers(f"{api.address}/healthz"), 10, "nobody is let in")
        time.sleep(1.0)  # a slow network
        yield sound[50_000:]

    try:
        length = {"Content-Length": str(len(sound))}
        done = api.patch(needed["upload_url"], 0, halves(), **length)  # type: ignore[arg-type]
        api.process.wait(20)
    finally:
        api.kill("everything")

    assert (done.status_code, done.headers["Upload-Offset"]) == (204, str(len(sound)))
