"""`spira labels`: what a clinician types, and what an import refuses."""

import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from spira import cli
from spira.collection.tables import FORMS, PARTICIPANTS, VISITS
from spira.collection.visits import Visits
from spira.domain.label_policies import POLICIES
from spira.domain.labels import Observation
from spira.intake.keys import KeyRing
from spira.labels.store import Labels
from spira.labels.worklist import Item, Proposal, Reason, Worklist
from spira.stores.database import Database

Run = Callable[..., tuple[int, str, str]]
ANA = "participant:study/01938f00-0000-7000-8000-000000000001"
ANOTHER = "01938f00-0000-7000-8000-000000000002"
TIME = "2026-03-02T12:00:00-03:00"
WAITS = "No visit of this participant has come yet; it counts when one does."


@pytest.fixture
def spira(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Run a command in a data folder; exit code, standard output and error."""
    monkeypatch.setenv("SPIRA_HOME", str(tmp_path / "home"))

    def run(*arguments: object, typed: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        with pytest.raises(SystemExit) as ended:
            cli.main([*map(str, arguments)])
        said = capfd.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


@pytest.fixture
def key(tmp_path: Path) -> KeyRing:
    """Record numbers of hospital hc are known."""
    ring = KeyRing.open(tmp_path / "home" / "keys")
    ring.make_for("hc")
    return ring


def shown(spira: Run, *arguments: object, typed: str = "") -> Any:
    """What `show` says of a recording made at TIME."""
    code, out, err = spira(
        "labels", "show", *arguments, "--recorded-at", TIME, "--json", typed=typed
    )
    assert code == 0, err
    return json.loads(out)


def audited(spira: Run) -> list[tuple[str, str, str | None, str]]:
    """What the audit has."""
    lines = spira("audit", "export")[1].splitlines()
    return [(row["who"], row["what"], row["why"], row["role"]) for row in map(json.loads, lines)]


def asked(number: int, reason: Reason = "impossible", **known: Any) -> Item:
    """What a hospital says and a person has to decide."""
    said = Observation(
        kind="spo2", at=datetime.fromisoformat(TIME), value=0.93, breathing="room_air"
    )
    proposal = Proposal(
        source="hospital",
        origin="hc",
        name=f"obs-{number}",
        version="1",
        issued=datetime.fromisoformat(TIME),
        observation=said,
        **known,
    )
    return Item(reason=reason, candidates=(ANA,), detail={"unit": "%"}, proposal=proposal)


def come(database: Database, participant: str, record: str) -> None:
    """A visit of a participant, with a record number."""
    now = datetime.now(UTC).isoformat()
    with database.writing() as tables:
        tables.execute(PARTICIPANTS.insert().values(study="study", id=participant, created_at=now))
        tables.execute(
            VISITS.insert().values(
                id=participant,
                study="study",
                study_version=1,
                participant=participant,
                site="site-1",
                record=record,
                recorded_at=now,
                uncertainty_s=0,
                accepted_at=now,
                synthetic=False,
            )
        )
        tables.execute(
            FORMS.insert().values(
                visit=participant,
                version=1,
                form="visit",
                form_version=1,
                kept="{}",
                used="{}",
                record=record,
                at=now,
                by="x",
            )
        )


def test_a_clinician_enters_corrects_and_takes_back(spira: Run) -> None:
    """Each is known from then on, and in the audit; what was is still there."""
    code, out, _ = spira(
        *("labels", "add", ANA, "spo2", "88", "--at", TIME, "--breathing", "room_air"),
        *("--method", "pulse_oximetry", "--by", "dra. lia"),
    )
    name, said = out.splitlines()
    assert (code, said) == (0, WAITS)
    first = shown(spira, ANA)
    assert first["decided"]["label"] == "present"
    assert first["versions"][0]["evidence"] == "dra. lia"

    changed = ("labels", "add", ANA, "spo2", "97,5", "--at", TIME, "--breathing", "room_air")
    assert spira(*changed, "--corrects", name, "--by", "dra. lia")[0] == 0
    assert shown(spira, ANA)["decided"]["label"] == "absent"
    assert (
        spira("labels", "retract", name, "--reason", "outro paciente", "--by", "dra. lia")[0] == 0
    )

    last = shown(spira, ANA)
    assert last["decided"]["reason"] == "no_measurement"
    assert [one["status"] for one in last["versions"]] == ["retracted", "corrected", "final"]
    assert [one["in_force"] for one in last["versions"]] == [False, False, False]
    then = first["versions"][0]["received"]
    assert shown(spira, ANA, "--as-of", then)["decided"] == first["decided"]
    assert audited(spira) == [
        ("dra. lia", "label entry added", None, "operator"),
        ("dra. lia", "label entry corrected", None, "operator"),
        ("dra. lia", "label entry retracted", "outro paciente", "operator"),
    ]
    code, _, err = spira("labels", "retract", name, "--reason", " ")
    assert (code, "'--reason': is blank" in err) == (2, True)
    code, _, err = spira("labels", "retract", name, "--reason", "again")
    assert (code, f"no entry {name}" in err) == (2, True)


def test_what_another_source_said_is_taken_back_by_a_person(spira: Run, tmp_path: Path) -> None:
    """As where a hospital has mixed up two patients; its later word stands again."""
    table = tmp_path / "old.csv"

    def told(issued: str) -> None:
        head = "name,issued,subject,kind,value,at\n"
        table.write_text(f"{head}Observation/1,{issued},{ANA},judgement,present,{TIME}\n")
        assert spira("labels", "import", table, "--origin", "hc")[0] == 0

    told(TIME)
    retract = ("labels", "retract", "Observation/1", "--reason", "another patient")
    assert spira(*retract)[0] == 2
    assert spira(*retract, "--origin", "hc")[0] == 0

    told(TIME)
    assert shown(spira, ANA)["decided"]["label"] == "unknown"
    told(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f+00:00}")
    assert shown(spira, ANA)["decided"]["label"] == "present"


@pytest.mark.parametrize(
    ("what", "label"),
    [
        (("judgement", "present"), "present"),
        (("judgement", "absent"), "absent"),
        (("diagnosis", "j960"), "present"),
        (("pao2", "55"), "present"),
        (("heart_rate", "80"), "unknown"),
    ],
)
def test_every_kind_may_be_entered(spira: Run, what: tuple[str, str], label: str) -> None:
    """A word, a code, a number."""
    assert spira("labels", "add", ANA, *what, "--at", TIME)[0] == 0

    assert shown(spira, ANA)["decided"]["label"] == label


def test_every_fault_of_an_entry_is_told_and_nothing_is_entered(spira: Run) -> None:
    """Without the value, which is a person's."""
    code, _, err = spira(
        *("labels", "add", "12345", "spo2", "0.93", "--at", "2026-03-02 12:00"),
        *("--breathing", "air", "--until", "yesterday"),
    )

    assert code == 2
    for fault in (
        "value of spo2 is not a number from 30 to 100",
        "at is not a time with its offset",
        "until is not a time with its offset",
        "breathing is not one of room_air, oxygen",
        "subject is neither participant:STUDY/PSEUDONYM, a UUIDv7 in small letters, nor the hash",
    ):
        assert f"spira: labels add: {fault}" in err
    assert "0.93" not in err
    assert "12345" not in err
    assert (
        "J96.01 is of ICD-10-CM"
        in spira("labels", "add", ANA, "diagnosis", "J96.01", "--at", TIME)[2]
    )
    assert (
        "did you mean judgement"
        in spira("labels", "add", ANA, "judgment", "present", "--at", TIME)[2]
    )
    said = ("judgement", "present", "--at", TIME)
    code, out, err = spira("labels", "add", "participant:study/11144477735", *said)
    assert (code, "subject is neither" in err, "11144477735" in out + err) == (2, True, False)
    assert shown(spira, ANA)["versions"] == []


def test_a_record_number_is_read_and_not_kept(spira: Run, key: KeyRing, tmp_path: Path) -> None:
    """It is typed, is in no command and in no file, and finds the person after a rotation."""
    given = ("labels", "add", "-", "judgement", "present", "--at", TIME, "--hospital", "hc")
    code, out, err = spira(*given, "--json", typed="98.765-4\n")
    assert code == 0
    assert json.loads(out)["subject"].startswith("record:records-")
    key.rotate("records", "hc")

    found = shown(spira, "-", "--hospital", "hc", typed="987654\n")

    assert found["decided"]["label"] == "present"
    assert b"987654" not in (tmp_path / "home" / "spira.db").read_bytes()
    assert "98.765-4" not in out + err
    assert spira("labels", "show", "-")[0] == 2


def test_a_hospital_of_which_nobody_is_known_is_a_slip(
    spira: Run, key: KeyRing, tmp_path: Path
) -> None:
    """A ward's name in place of its hospital's: what is hidden under another key is nobody's."""
    file = tmp_path / "labels.csv"
    file.write_text(CSV.replace(",hc,", ",hcc,"))
    of_ward = ("-", "--hospital", "hcc")

    told = [
        spira("labels", "add", *of_ward, "judgement", "absent", "--at", TIME, typed="1\n"),
        spira("labels", "show", *of_ward, typed="1\n"),
        spira("labels", "import", file, "--origin", "x"),
    ]

    assert [code for code, _, _ in told] == [2, 2, 2]
    assert all("hospital hcc: no record number of it is known; did" in err for *_, err in told)
    assert {one.site for one in key.list_keys()} == {None, "hc"}


@pytest.mark.parametrize("named", ["by pseudonym", "by record number"])
def test_who_has_withdrawn_is_spoken_of_no_more(
    spira: Run, key: KeyRing, tmp_path: Path, named: str
) -> None:
    """By no command, whoever types it in place of a device, also where a key was rotated since;
    unless somebody who takes part has the number."""
    spira("study", "list")
    database = Database.open(f"sqlite:///{tmp_path / 'home' / 'spira.db'}", what="away")
    visits = Visits(database, key.wrapped)
    participant, number = ANA.partition("/")[2], key.hash_record("hc", "123")
    come(database, participant, number)
    key.rotate("records", "hc")
    record = ("-", "--hospital", "hc")
    subject, typed = ((ANA,), "") if named == "by pseudonym" else (record, "123\n")
    file = tmp_path / "labels.csv"
    head, by_pseudonym, by_number = CSV.splitlines()
    row = by_pseudonym if named == "by pseudonym" else by_number
    file.write_text(f"{head}\n{row}\n")
    known = ANA if named == "by pseudonym" else f"record:{number}"
    worklist = Worklist(Labels(database, lambda subject: subject))
    worklist.put([asked(1, subject=known), asked(2)], datetime.now(UTC))
    resolve = ("labels", "worklist", "resolve")

    def say() -> list[tuple[int, str, str]]:
        return [
            spira("labels", "add", *subject, "judgement", "present", "--at", TIME, typed=typed),
            spira("labels", "import", file, "--origin", "x"),
            spira(*resolve, "1", "--value", "93", "--reason", "x"),
            spira(
                *resolve, "2", "--value", "93", "--subject", *subject, "--reason", "x", typed=typed
            ),
        ]

    visits.withdraw("study", participant, why="asked to", by="x", role="site")
    refused = say()

    assert [code for code, _, _ in refused] == [2] * 4
    for (_, _, err), where in zip(
        refused, ("labels add", f"entry x/{row[0]}/", "item 1", "item 2"), strict=True
    ):
        assert f"spira: {where}" in err
        assert "whoever it is about has withdrawn" in err
    assert shown(spira, *subject, typed=typed)["versions"] == []
    assert [what for _, what, _, _ in audited(spira)] == ["participant withdrawn"]
    if named == "by record number":
        come(database, ANOTHER, number)
        assert [code for code, _, _ in say()] == [0] * 4


CSV = f"""name,subject,hospital,record_number,kind,value,at,issued,breathing,status
a,{ANA},,,spo2,"88,5",2026-03-02T12:00:00-03:00,2026-03-02T12:01:00-03:00,room_air,
b,,hc,123,judgement,absent,2026-03-02T12:00:00-03:00,2026-03-02T12:01:00-03:00,,
"""


@pytest.mark.usefixtures("key")
def test_an_import_adds_what_is_not_there(spira: Run, tmp_path: Path) -> None:
    """The same table again adds nothing; a later one its new rows, corrections and retractions."""
    file = tmp_path / "labels.csv"
    file.write_text(CSV)
    told = [spira("labels", "import", file, "--origin", "paper forms")[1] for _ in range(2)]
    file.write_text(
        CSV
        + f"b,,hc,123,judgement,present,{TIME},2026-03-02T13:00:00-03:00,,corrected\n"
        + f"a,{ANA},,,,,,2026-03-02T13:00:00-03:00,,retracted\n"
    )
    told.append(spira("labels", "import", file, "--origin", "paper forms")[1])

    assert told == [
        "2 entries, 2 of them new\n",
        "2 entries, 0 of them new\n",
        "4 entries, 2 of them new\n",
    ]
    assert shown(spira, ANA)["decided"]["reason"] == "no_measurement"
    assert shown(spira, "-", "--hospital", "hc", typed="123\n")["decided"]["label"] == "present"
    assert [what for _, what, _, _ in audited(spira)] == ["labels imported"] * 3


@pytest.mark.usefixtures("key")
def test_every_fault_of_an_import_is_told_at_once_and_nothing_is_written(
    spira: Run, tmp_path: Path
) -> None:
    """With the rows that show it, and no cell of a person."""
    file = tmp_path / "labels.csv"
    rows = CSV.replace("status", "sttaus").splitlines()
    rows += [
        f"c,{ANA},,,spo2,0.93,2026-03-02T12:00:00-03:00,2026-03-02T12:01:00-03:00,,",
        f"d,{ANA},,,spo2,0.94,2026-03-02 12:00,2026-03-02T12:01:00-03:00,,",
        f",{ANA},hc,9876543,judgement,yes,2026-03-02T12:00:00-03:00,,,",
        "f,,hc,---,support,none,2026-03-02T12:00:00-03:00,2026-03-02T12:01:00-03:00,,",
        "g,,,,diagnosis,J96.01,2026-03-02T12:00:00-03:00,2026-03-02T12:01:00-03:00,,",
    ]
    file.write_text("\n".join(rows))

    code, _, err = spira("labels", "import", file, "--origin", "x")

    assert code == 2
    for fault in (
        "labels.csv: the column 'sttaus' is not known; did you mean status?",
        "labels.csv, rows 4, 5: value of spo2 is not a number from 30 to 100",
        "labels.csv, row 5: at is not a time with its offset",
        "labels.csv, row 6: name is empty",
        "labels.csv, row 6: whose is it? Give subject, or hospital and record_number, and not both",
        "labels.csv, row 6: value is not one of present, absent, unknown",
        "labels.csv, row 6: issued is not a time",
        "labels.csv, row 7: record number: no letter or digit in it",
        "labels.csv, row 8: value is no code of CID-10",
        "labels.csv, row 8: whose is it?",
    ):
        assert fault in err
    assert "9876543" not in err
    assert shown(spira, ANA)["versions"] == []
    file.write_text("name,value\na,1\n")
    assert (
        "no column issued, kind, at, subject (or hospital"
        in spira("labels", "import", file, "--origin", "x")[2]
    )


@pytest.mark.usefixtures("key")
def test_a_table_that_contradicts_the_store_is_refused_whole(spira: Run, tmp_path: Path) -> None:
    """A version that says something else now, and one from the future."""
    file = tmp_path / "labels.csv"
    file.write_text(CSV)
    spira("labels", "import", file, "--origin", "x")

    file.write_text(
        CSV.replace("88,5", "80").replace("absent", "present")
        + CSV.splitlines()[1].replace("a,", "c,", 1)
    )
    code, _, err = spira("labels", "import", file, "--origin", "x")
    assert (code, err.count("the store has this version with another content")) == (2, 2)

    file.write_text(CSV.splitlines()[0] + "\n" + CSV.splitlines()[1].replace("2026", "2126"))
    code, _, err = spira("labels", "import", file, "--origin", "x")
    assert (code, "cannot be true (future)" in err) == (2, True)
    assert len(shown(spira, ANA)["versions"]) == 1


def test_a_person_works_the_worklist_off(spira: Run, tmp_path: Path) -> None:
    """Listed with all that is known and nobody's name; each decision needs a reason."""
    spira("labels", "policies")
    (tmp_path / "home").mkdir(exist_ok=True)
    database = Database.open(f"sqlite:///{tmp_path / 'home' / 'spira.db'}", what="away")
    database.migrate(["spira.intake", "spira.labels"])
    items = [asked(n, reason) for n, reason in enumerate(("impossible", "ambiguous"))]
    Worklist(Labels(database, lambda subject: subject)).put(items, datetime.now(UTC))

    table = spira("labels", "worklist", "list")[1].splitlines()
    assert table[1].startswith("1     impossible: a value that no device shows")
    assert table[2].startswith("2     ambiguous: it may be about several people")
    assert "hc/obs-1" in table[2]
    assert "unit %" in table[1]
    assert ANA in table[1]
    resolve = ("labels", "worklist", "resolve")
    assert spira(*resolve, "1", "--reason", "x")[0] == 2
    assert spira(*resolve, "1", "--discard", "--value", "93", "--reason", "x")[0] == 2
    assert spira(*resolve, "1", "--value", "93")[0] == 2
    assert (
        spira(*resolve, "1", "--subject", ANA, "--value", "91", "--reason", "share", "--by", "lia")[
            0
        ]
        == 0
    )
    assert spira(*resolve, "2", "--discard", "--reason", "a test", "--by", "lia")[0] == 0

    assert spira("labels", "worklist", "list")[1] == "Nothing is open.\n"
    decided = json.loads(spira("labels", "worklist", "list", "--all", "--json")[1])
    assert [(one["resolution"]["how"], one["resolution"]["why"]) for one in decided] == [
        ("corrected", "share"),
        ("discarded", "a test"),
    ]
    assert shown(spira, ANA)["decided"]["label"] == "present"
    assert [row[:3] for row in audited(spira)] == [
        ("lia", "worklist item corrected", "share"),
        ("lia", "worklist item discarded", "a test"),
    ]


def test_a_label_is_shown_with_its_reason_and_its_evidence(spira: Run) -> None:
    """In words; with a policy that is not known, the nearest one."""
    spira("labels", "add", ANA, "spo2", "93", "--at", TIME, "--breathing", "room_air")

    out = spira("labels", "show", ANA, "--policy", "spo2-v1", "--recorded-at", TIME)[1]
    uncertain = shown(spira, ANA, "--uncertainty-s", "3601")
    wrong = spira("labels", "show", ANA, "--policy", "spo2-v2", "--as-of", "now")

    assert out.startswith("unknown: SpO2 from 92 to below 95 % (between)\n  clinicians/spo2-")
    assert "spo2 93 room_air" in out
    assert uncertain["decided"]["label"] == "unknown"
    assert (wrong[0], "--as-of is not a time" in wrong[2]) == (2, True)
    assert "did you mean spo2-v1" in spira("labels", "show", ANA, "--policy", "spo2-v2")[2]


def test_a_person_is_shown_under_every_pseudonym_that_is_known(
    spira: Run, key: KeyRing, tmp_path: Path
) -> None:
    """By either and by the number that links them, also under a newer key; not before they were."""
    spira("labels", "add", ANA, "judgement", "present", "--at", TIME)
    before = datetime.now(UTC).isoformat()
    database = Database.open(f"sqlite:///{tmp_path / 'home' / 'spira.db'}", what="away")
    number = key.hash_record("hc", "123")
    come(database, ANA.partition("/")[2], number)
    come(database, ANOTHER, number)
    come(database, ANOTHER[:-1] + "3", key.hash_record("hc", "124"))
    key.rotate("records", "hc")
    other = f"participant:study/{ANOTHER}"

    told = [shown(spira, one) for one in (ANA, other)]
    told.append(shown(spira, "-", "--hospital", "hc", typed="123\n"))

    assert [one["decided"]["label"] for one in told] == ["present"] * 3
    assert {ANA, other, f"record:{number}"} == set(told[0]["subjects"]) == set(told[1]["subjects"])
    assert set(told[2]["subjects"]) > set(told[0]["subjects"])
    assert f"Also known as {ANA}\n" in spira("labels", "show", other)[1]
    assert shown(spira, other, "--as-of", before)["subjects"] == [other]


def test_policies_are_listed_with_their_reasons(spira: Run) -> None:
    """All of them, for people and programs."""
    listed = json.loads(spira("labels", "policies", "--json")[1])
    out = spira("labels", "policies")[1]

    assert [one["name"] for one in listed["policies"]] == list(POLICIES)
    assert all(name in out for name in (*POLICIES, *listed["reasons"]))
