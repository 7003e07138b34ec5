"""`spira study`: what the study's lead types and reads."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from spira import cli
from spira.collection import visits

Run = Callable[..., tuple[int, str, str]]
MakeVisits = Callable[[Sequence[dict[str, Any]]], pl.DataFrame]


@pytest.fixture
def spira(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Run `spira study …` in a data folder; exit code, standard output and error."""
    monkeypatch.setenv("SPIRA_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["study", *map(str, arguments)])
        said = capfd.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def test_a_study_is_exported_applied_listed_and_shown(spira: Run, tmp_path: Path) -> None:
    """What is shown is a file that can be applied again, and changes nothing."""
    assert spira("export-default", "mine.yaml")[0] == 0
    assert spira("export-default")[1] == (tmp_path / "mine.yaml").read_text(encoding="utf-8")
    assert spira("list")[1].startswith("No study yet")

    first = spira("apply", "mine.yaml", "--by", "ana")
    (tmp_path / "again.yaml").write_text(spira("show", "spira")[1], encoding="utf-8")
    second = json.loads(spira("apply", "again.yaml", "--json")[1])
    listed = json.loads(spira("list", "--json")[1])

    assert first[:2] == (
        0,
        "spira, version 1: applied\n"
        "A study without an ethics approval on record: it accepts synthetic data only.\n",
    )
    assert second == {"id": "spira", "version": 1, "applied": False}
    assert [(one["id"], one["version"], one["accepts_people"]) for one in listed] == [
        ("spira", 1, False)
    ]
    assert "synthetic data" in spira("list")[1]
    assert json.loads(spira("show", "spira", "--version", 1, "--json")[1])["id"] == "spira"


def test_a_file_that_is_there_is_not_written_over(spira: Run, tmp_path: Path) -> None:
    """It may be somebody's study."""
    (tmp_path / "mine.yaml").write_text("mine")

    code, _, said = spira("export-default", "mine.yaml")

    assert (code, (tmp_path / "mine.yaml").read_text()) == (2, "mine")
    assert "mine.yaml: is there already" in said


def test_a_bad_file_is_refused_with_every_mistake(spira: Run, tmp_path: Path) -> None:
    """Exit code 2, a line each; nothing is applied."""
    text = (
        spira("export-default")[1].replace("people: 5", "people: x").replace("id: spira", "id: S")
    )
    (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")

    code, _, said = spira("apply", "bad.yaml")

    assert code == 2
    assert said.count("spira: bad.yaml, line ") == 2
    assert spira("list")[1].startswith("No study yet")


def test_a_changed_file_needs_another_version(spira: Run, tmp_path: Path) -> None:
    """The sentence says which."""
    spira("export-default", "mine.yaml")
    spira("apply", "mine.yaml")
    file = tmp_path / "mine.yaml"
    file.write_text(file.read_text("utf-8").replace("minimum_s: 4", "minimum_s: 5"), "utf-8")

    code, _, said = spira("apply", "mine.yaml")

    assert code == 2
    assert "cannot be changed (protocol); give this one version: 2" in said


def test_targets_and_balance_of_a_study_are_told(
    spira: Run, tmp_path: Path, make_visits: MakeVisits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As text, as JSON, and as a page; by stratum who is wanted, there and missing."""
    table = make_visits(
        [{"n": 22, "device": "phone"}, {"n": 21, "device": "tablet", "label": "absent"}]
    )
    spira("export-default", "mine.yaml")
    spira("apply", "mine.yaml")
    monkeypatch.setenv("SPIRA_COLLECTION__BALANCE_POLICY", "spo2-v1")
    monkeypatch.setattr(visits, "visit_table", lambda *_: table)

    targets = spira("targets", "spira")[1].splitlines()
    strata = json.loads(spira("targets", "spira", "--json")[1])
    code, said, _ = spira("balance", "spira", "--html", "page.html")
    weighed = json.loads(spira("balance", "spira", "--json")[1])

    assert len(targets) == 1 + len(strata) == 49
    (older,) = [row for row in targets if row.startswith("women aged 60 to 79, Ward A, with RI ")]
    assert older.split()[-3:] == ["5", "22", "0"]
    assert sum(one["missing"] for one in strata) == 230
    assert code == 0
    assert "43 people, 22 with RI, 21 without, 0 unlabelled, by spo2-v1" in said
    assert "230 people missing, in 46 of 48 strata" in said
    assert "proxy: Device: goes with the label. phone: 22 of 22" in said
    assert "Collectors at site-2 read: Today, look for: women aged 18 to 39, Ward B." in said
    assert "Equilíbrio da coleta" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert weighed["label_policy"] == "spo2-v1"
    assert [one["verdict"] for one in weighed["nuisances"]][:2] == ["none seen", "proxy"]


def test_a_study_without_visits_is_told_about(spira: Run) -> None:
    """Everybody is missing; of an unknown study nothing is; nor is anything written nowhere."""
    spira("export-default", "mine.yaml")
    spira("apply", "mine.yaml")

    assert "0 people, 0 with RI" in spira("balance", "spira")[1]
    for words in (("export-default", "none/a"), ("balance", "spira", "--html", "none/a")):
        code, _, said = spira(*words)
        assert (code, said) == (2, "spira: none/a: cannot be written, there is no folder none\n")
    assert spira("targets", "spiro")[2] == (
        "spira: study spiro: there is none; did you mean spira?\n"
    )
