"""Data Collection: visits in, receipts out, through `spira collect` as a process of its own."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from served import Collection, Visit, announced, clock, voice

UNKNOWN = "01938f00-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    """The service, with the study that ships."""
    service = Collection(tmp_path_factory.mktemp("collection") / "home")
    service.home.mkdir()
    service.token = service.make_token()
    service.start()
    yield service
    service.kill("everything")


def visit(*utterances: str, **values: Any) -> Visit:
    """Somebody's voice for each of these."""
    one = Visit(tuple(voice(number) for number in range(len(utterances))))
    one.manifest["recordings"] = [
        announced(sound, utterance) for sound, utterance in zip(one.sounds, utterances, strict=True)
    ]
    one.manifest["form"]["values"] |= values
    return one


def told(collection: Collection, one: Visit) -> dict[str, Any]:
    """A visit as its site sees it."""
    found: dict[str, Any] = collection.http("GET", f"{collection.submissions}/{one.id}").json()
    return found


def test_a_visit_is_checked_accepted_and_told(collection: Collection) -> None:
    """By real checks: people who talk in the room are dropped and missing, and what a microphone
    did otherwise than its phone said is a mismatch."""
    one = visit("sentence", "ambient_before")
    one.manifest["recordings"][0]["capture"] = {"codec": "audio/webm;codecs=opus"}

    receipt = collection.sent(one)

    found = told(collection, one)
    (recording,) = found["recordings"]
    assert receipt
    assert (found["missing"], found["doubts"]) == (["ambient_before"], [])
    assert (recording["utterance"], recording["mismatches"]) == ("sentence", ["codec"])
    assert found["forms"][0]["values"]["age"] == 63


def test_the_program_of_the_how_to_sends_a_visit(
    collection: Collection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As it stands on the page."""
    page = (Path(__file__).parents[2] / "docs/how-to.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```text send_visit\.py\n(.*?)^```$", page, re.M | re.S)
    (tmp_path / "voice.wav").write_bytes(voice(7))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SERVER", collection.address)
    monkeypatch.setenv("SITE_TOKEN", collection.token)

    exec(compile(program, "send_visit.py", "exec"), {})

    id, state = capsys.readouterr().out.split()
    assert state == "accepted"
    assert collection.http("GET", f"{collection.submissions}/{id}").json()["doubts"] == []


def test_the_same_number_and_another_pseudonym_are_withdrawn_together(
    collection: Collection,
) -> None:
    """Of two phones that were offline; what comes late is to be erased."""
    first, second, late = (visit("sentence", record_number="777-1") for _ in range(3))
    for one in (first, second):
        collection.sent(one)
    names = [one.manifest["visit"]["participant"] for one in (first, second)]

    answer = collection.http(
        "POST",
        f"/v1/collection/participants/{names[0]}/withdraw",
        json={"study": "spira", "reason": "asked to"},
    )

    assert answer.json() == {"participants": sorted(names)}
    refused = collection.put(late)
    assert (refused.status_code, refused.json()["erase"]) == (410, True)


def test_no_record_number_is_in_a_log_a_name_or_a_message(collection: Collection) -> None:
    """Nor in an answer, whatever was refused. Everything below the data folder is searched:
    tables, logs, names of files."""
    number = "55443322118877"
    one, other = (visit("sentence", record_number=number) for _ in range(2))
    collection.sent(one)
    path, labels = f"{collection.submissions}/{one.id}", "/v1/collection/labels"
    participant = one.manifest["visit"]["participant"]
    form = one.manifest["form"]
    corrected = form | {"values": form["values"] | {"record_number": f"{number}-2"}}
    said = {
        "id": UNKNOWN,
        "study": "spira",
        "participant": participant,
        "at": "2026-03-01T12:00:00Z",
        "kind": "spo2",
        "value": 97,
    }

    def changed(submission: Visit, revision: int, **values: Any) -> httpx.Response:
        submission.manifest["revision"] = revision
        submission.manifest["form"]["values"] |= values
        return collection.put(submission)

    def ask(method: str, path: str, body: Any = None) -> httpx.Response:
        return collection.http(method, path, json=body, headers=clock())

    answers = [
        ask("POST", f"{path}/form", {"form": corrected, "version": 2, "reason": "typed wrongly"}),
        ask(
            "POST",
            f"{path}/form",
            {"form": corrected | {"id": number}, "version": 2, "reason": "x"},
        ),
        ask("POST", f"{path}/form", {"form": corrected, "version": 2, "reason": number * 40}),
        ask("POST", f"{path}/form", {"form": corrected, "version": 2, "x": number}),
        ask("POST", f"{path}/form", {"form": form, "version": 2, "reason": "another"}),
        changed(other, 1, age="sixty"),
        changed(other, 2, record_number=[number]),
        changed(other, 3, record_number=number, age=63),
        changed(one, 1, record_number=f"{number}-1"),
        changed(one, 0),
        ask("POST", labels, said),
        ask("POST", labels, said | {"value": 88}),
        ask("POST", labels, said | {"id": UNKNOWN[:-1] + "1", "code": number}),
        ask("POST", labels, said | {"participant": number}),
        ask("POST", labels, said | {"study": number}),
        ask("POST", f"/v1/collection/participants/{number}/withdraw", {"study": "spira"}),
        ask("GET", f"{collection.submissions}/{number}"),
        ask("GET", f"/v1/collection/studies/{number}/today"),
        ask("GET", f"/v1/patients/{number}"),
        collection.http("HEAD", f"/v1/uploads/{number}", headers={"Tus-Resumable": "1.0.0"}),
        ask("POST", f"/v1/collection/participants/{participant}/withdraw", {"study": number}),
        ask(
            "POST",
            f"/v1/collection/participants/{participant}/withdraw",
            {"study": "spira", "reason": "asked to"},
        ),
        collection.put(visit("sentence", record_number=f"{number}-2")),
        ask("GET", path),
        ask("GET", "/metrics"),
    ]

    expected = [200, 400, 400, 400, 409, 200, 200, 200, 409, 400, 200, 409, 400, 400, 404, 400]
    expected += [400, 404, 404, 404, 400, 200, 410, 200, 200]
    assert [answer.status_code for answer in answers] == expected
    assert not [answer.url.path for answer in answers if number in answer.text]
    searched = 0
    for file in collection.home.rglob("*"):
        assert number not in file.name
        if file.is_file():
            searched += 1
            assert number.encode() not in file.read_bytes(), file
    assert searched > 10
    assert "Traceback" not in collection.said


def test_a_visit_is_followed_through_the_log_by_its_id(collection: Collection) -> None:
    """From the first manifest to its receipt."""
    one = visit("sentence")
    collection.sent(one)

    lines = [line for line in collection.said.splitlines() if one.id in line]

    events = [json.loads(line)["event"] for line in lines if line.startswith("{")]
    assert events == ["announced", "accepted"]


def test_a_database_without_its_keys_is_not_served(collection: Collection, tmp_path: Path) -> None:
    """With other keys nobody would be found, not even who has withdrawn; nobody would notice."""
    collection.sent(visit("sentence"))

    wrong = collection.spira("--setting", f"intake.keys={tmp_path / 'others'}", "collect")

    assert wrong.returncode == 70
    assert "restore the keys from the newest backup" in wrong.stderr


def test_told_to_stop_it_ends_and_goes_on_where_it_was(collection: Collection) -> None:
    """What was uploaded is there after the next start, and the receipt is the same."""
    done, begun = visit("sentence"), visit("sentence")
    receipt = collection.sent(done)
    (needed,) = collection.put(begun).json()["recordings"]
    collection.patch(needed["upload_url"], 0, begun.sounds[0][:50_000])
    assert collection.process is not None

    collection.process.terminate()
    collection.process.wait(30)
    collection.start()

    assert collection.put(begun).json()["recordings"][0]["offset"] == 50_000
    assert collection.put(done).json()["receipt"] == receipt
    assert collection.sent(begun)
