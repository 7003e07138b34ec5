"""`spira hospital`, as an operator types it."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from spira.cli import main
from spira.collection.hospitals.truth import SYSTEM, Patient, make_truth
from spira.collection.tables import PARTICIPANTS, VISITS
from spira.console import Console
from spira.intake import audit
from spira.labels.worklist import Worklist
from spira.settings import read_settings
from spira.stores.processes import free_or_wanted
from spira.synthetic.records import Hospital, admit
from spira.wiring import Application

SEED, PATIENTS = 11, 6
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def port() -> int:
    """Where the hospital is."""
    return free_or_wanted("test", 0)


@pytest.fixture
def run(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """`run("pull", "hc")`: the exit code of a command, and what it said."""
    described = {
        "url": f"http://127.0.0.1:{port}/fhir",
        "client_id": "spira",
        "systems": {SYSTEM: "record-number"},
        "group": "cohort",
        "patience_s": 0.1,
    }
    monkeypatch.setenv("SPIRA_COLLECTION", json.dumps({"hospitals": {"hc": described}}))
    monkeypatch.setenv("SPIRA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("http_proxy", raising=False)

    def ran(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["hospital", *words])
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, said.out, said.err

    return ran


@pytest.fixture
def app(run: Run, tmp_path: Path) -> Application:
    """The same data folder, its tables there."""
    opened = Application(read_settings(home=tmp_path / "home"), Console())
    opened.prepare()
    return opened


def register(app: Application, patient: Patient) -> None:
    """Let a patient's first visit arrive."""
    participant, at = patient.participant, patient.participant.visited_at.isoformat()
    with app.database.writing() as tables:
        row: dict[str, Any] = {"study": "spira", "id": participant.id}
        tables.execute(PARTICIPANTS.insert().values(**row, created_at=at))
        tables.execute(
            VISITS.insert().values(
                id=participant.id,
                study="spira",
                study_version=1,
                participant=participant.id,
                site=participant.site,
                record=app.keys.hash_record("hc", patient.record_number),
                recorded_at=at,
                uncertainty_s=60,
                accepted_at=at,
                synthetic=True,
            )
        )


def audited(app: Application) -> list[Any]:
    """What the audit has."""
    with app.database.reading() as tables:
        return [json.loads(line) for line in audit.export(tables)]


def patients() -> tuple[Patient, ...]:
    """Whom the simulated hospital has."""
    return make_truth(admit(Hospital(seed=SEED, participants=PATIENTS)), SEED).patients


def test_a_hospital_is_connected_pulled_from_and_shown(
    run: Run, app: Application, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key, a simulated hospital that knows it, labels, how it stands, and who did it."""
    one, other = patients()[:2]
    register(app, one)
    code, public, _ = run("key", "hc")
    assert code == 0
    assert json.loads(public)["keys"][0]["kty"] == "EC"
    assert "d" not in json.loads(public)["keys"][0]
    words = ["hospital", "simulate", "hc", "--patients", str(PATIENTS), "--seed", str(SEED)]
    with subprocess.Popen(
        [sys.executable, "-m", "spira.cli", *words], stdout=subprocess.PIPE, text=True
    ) as simulated:
        try:
            assert simulated.stdout is not None
            assert f"{PATIENTS} patients" in simulated.stdout.readline()
            _wait_for(port)

            code, said, _ = run("pull", "hc", "--by", "ana")
            register(app, other)
            monkeypatch.setattr(sys, "stdin", io.StringIO(f"{other.record_number}\n"))
            by_number = run("pull", "hc", "--numbers", "record-number", "--json")
        finally:
            simulated.terminate()

    assert code == 0, said
    assert "entries that are new" in said
    assert json.loads(by_number[1])["found"] == 1
    code, said, _ = run("status", "--json")
    (stands,) = json.loads(said)
    assert stands["patients"] == 2
    assert stands["export"] is None
    assert stands["finished_at"] is not None
    rows = audited(app)
    assert [(row["what"], row["which"]) for row in rows] == [
        ("hospital pulled", "hc"),
        ("hospital asked by number", "hc"),
    ]
    assert rows[0]["who"] == "ana"
    known = app.labels.versions([f"record:{app.keys.hash_record('hc', one.record_number)}"], _now())
    assert any(version.in_force for version in known)


def test_a_hospital_that_is_away_is_told_and_exits_75(run: Run, app: Application) -> None:
    """As whatever may succeed later does."""
    run("key", "hc")

    code, _, said = run("pull", "hc")

    assert code == 75, said
    assert "hospital hc: does not answer, for 0 s; the next `spira hospital pull` goes on" in said


def test_a_table_is_taken_by_its_mapping(
    run: Run, app: Application, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Audited, also where it breaks off; and what is asked about is told."""
    patient = patients()[0]
    register(app, patient)
    (tmp_path / "t.csv").write_text(
        f"id,n,at,spo2\nr-1,{patient.record_number},2024-03-08T10:00:00-03:00,93\n"
        f"r-2,{patient.record_number},2024-03-08T10:00:00-03:00,0.93\n"
    )
    (tmp_path / "m.yaml").write_text(
        "record_number: n\nrow: id\nat: {column: at}\n"
        'measurements:\n  - {kind: spo2, column: spo2, unit: "%"}\n'
    )
    table = ("table", "hc", str(tmp_path / "t.csv"), "--mapping", str(tmp_path / "m.yaml"))

    assert run(*table, "--made-at", "yesterday")[0] == 2
    assert run(*table)[0] == 2
    assert audited(app) == []
    table = (*table, "--made-at", "2024-03-09T00:00:00-03:00")
    with monkeypatch.context() as broken:
        broken.setattr(Worklist, "put", None)  # the first that is taken
        with pytest.raises(TypeError):
            run(*table)
    assert [row["what"] for row in audited(app)] == ["hospital table taken"]
    code, said, _ = run(*table)

    assert code == 0
    assert "hc: 2 resources, 2 entries that are new, 0 of nobody who takes part" in said
    assert "1 for a person to decide: spira labels worklist list" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("pull", "hcc"), "does not name it; did you mean hc? (known: hc)"),
        (("pull", "hc", "--numbers", "cpf"), "the setting systems has none so called"),
        (("pull", "hc"), "there is no key to show it; `spira hospital key hc` makes one"),
    ],
    ids=["unknown", "number", "key"],
)
def test_what_is_wrong_is_told_with_what_to_do(words: tuple[str, ...], says: str, run: Run) -> None:
    """Exit code 2."""
    code, _, said = run(*words)

    assert code == 2
    assert says in said


def _now() -> Any:
    from datetime import UTC, datetime

    return datetime.now(UTC)


def _wait_for(port: int) -> None:
    import time

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            httpx.get(f"http://127.0.0.1:{port}/fhir/.well-known/smart-configuration")
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    pytest.fail("the simulated hospital does not answer")
