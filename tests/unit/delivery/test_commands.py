"""`spira model …` and `spira about`, with a registry that remembers and nothing else."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import click
import polars as pl
import pytest
from click.testing import CliRunner, Result

from spira.console import Console
from spira.delivery.commands import about, model
from spira.delivery.settings import DeliverySettings
from spira.domain.errors import InputError, IntegrityError, PolicyRefused, TransientError
from spira.domain.vitals import DEFAULT_VITAL_RULES, VitalRule, VitalRules
from spira.evaluation.results import EvaluationResult, read_operating_point, read_result
from spira.stores.registry import ChampionChange, ModelVersion

Registered = Callable[..., ModelVersion]
Evaluated = Callable[..., EvaluationResult]


class Remembering:
    """A registry in memory; the real one's tests are in tests/integration/stores."""

    def __init__(self, folder: Path, evaluation: EvaluationResult, *given: ModelVersion) -> None:
        self.folder, self.given = folder, {version.version: version for version in given}
        self.history: list[ChampionChange] = []
        self.away = False
        (folder / "metrics.json").write_text(evaluation.model_dump_json())

    def versions(self) -> list[ModelVersion]:
        if self.away:
            raise TransientError("the server does not answer")
        return sorted(self.given.values(), key=lambda version: -version.version)

    def get(self, reference: str) -> ModelVersion:
        for version in self.given.values():
            if reference == str(version.version) or reference in version.aliases:
                return version
        raise InputError(f"model {reference}: there is no such version")

    def download(self, version: ModelVersion, cache: Path) -> Path:
        return self.folder

    def champion_history(self) -> Sequence[ChampionChange]:
        return tuple(self.history)

    def move_champion(self, change: ChampionChange) -> None:
        self.history.append(change)
        for number, version in self.given.items():
            aliases = ("champion",) if number == change.version else ()
            self.given[number] = dataclasses.replace(version, aliases=aliases)


@pytest.fixture
def registry(tmp_path: Path, evaluated: Evaluated, registered: Registered) -> Remembering:
    """Two research models, the newer one challenger; good figures."""
    return Remembering(tmp_path, evaluated(), registered(1), registered(2, aliases=("challenger",)))


class Desk(Console):
    """What a command is handed, as far as these commands look."""

    def __init__(self, registry: Remembering, vital_rules: VitalRules) -> None:
        super().__init__()
        self.registry, self.home = registry, Path("/nowhere")
        serving = SimpleNamespace(vital_rules=vital_rules)
        self.settings = SimpleNamespace(delivery=DeliverySettings(), serving=serving)
        self.log = SimpleNamespace(info=lambda event, **values: None)
        self.console = self

    @property
    def json(self) -> bool:
        return self.as_json


def run(
    command: click.Command,
    registry: Remembering,
    *arguments: str,
    vital_rules: VitalRules = DEFAULT_VITAL_RULES,
) -> Result:
    """Run a command, with the fake registry; errors of the domain come out as they are."""
    result = CliRunner().invoke(command, arguments, obj=Desk(registry, vital_rules))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


SIGNED = ("--by", "A. Silva", "--by", "B. Souza", "--reason", "passed the study")


def test_the_list_shows_versions_aliases_and_figures(registry: Remembering) -> None:
    """Newest first, for people and for programs."""
    text = run(model, registry, "list").stdout
    document = json.loads(run(model, registry, "list", "--json").stdout)

    assert text.index("challenger") < text.index("\n1 ")
    assert "0.960" in text
    assert [version["version"] for version in document] == [2, 1]


def test_an_empty_registry_says_how_to_fill_it(tmp_path: Path, evaluated: Evaluated) -> None:
    """Not an empty table."""
    assert "spira train" in run(model, Remembering(tmp_path, evaluated()), "list").stdout


def test_show_names_the_report_and_every_figure(registry: Remembering, tmp_path: Path) -> None:
    """Where to read on."""
    text = run(model, registry, "show", "2").stdout

    assert str(tmp_path / "report.html") in text
    assert "noise_auroc" in text


def test_two_people_promote_and_it_is_recorded(registry: Remembering) -> None:
    """Who, why and under which policy; the strict policy unless told."""
    text = run(model, registry, "promote", "challenger", *SIGNED).stdout

    assert "Model 2 is champion now." in text
    (change,) = registry.history
    assert (change.version, change.previous, change.policy) == (2, None, "clinical 2")
    assert change.by == ("A. Silva", "B. Souza")
    assert change.reason == "passed the study"


def test_a_refusal_shows_its_table_and_moves_nothing(registry: Remembering) -> None:
    """The row that is not met stands out; the error names it."""
    with pytest.raises(PolicyRefused, match="clinical 2: people who decide"):
        run(model, registry, "promote", "2", "--by", "A. Silva", "--reason", "why")

    assert registry.history == []


def test_a_damaged_evaluation_is_not_taken_for_another_version(
    registry: Remembering, tmp_path: Path
) -> None:
    """Cut off is damage; missing is said to be missing."""
    metrics = tmp_path / "metrics.json"
    metrics.write_text(metrics.read_text()[:200])
    with pytest.raises(IntegrityError, match="no whole JSON"):
        run(model, registry, "promote", "2", *SIGNED)

    metrics.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        run(model, registry, "promote", "2", *SIGNED)


def test_a_dry_run_moves_nothing(registry: Remembering) -> None:
    """The table, and no champion."""
    text = run(model, registry, "promote", "2", "--dry-run", *SIGNED).stdout

    assert "sensitivity, clean" in text
    assert "was not moved" in text
    assert registry.history == []


def test_a_decision_for_programs_holds_every_row(registry: Remembering) -> None:
    """Criterion, required, observed, interval, met."""
    document = json.loads(run(model, registry, "promote", "2", "--json", *SIGNED).stdout)

    assert document["outcome"] == "promoted"
    assert {"criterion", "required", "observed", "interval", "met"} == set(document["rows"][0])


def test_the_demo_records_its_own_reason(
    tmp_path: Path, evaluated: Evaluated, registered: Registered
) -> None:
    """Whatever somebody writes, a demonstration was promoted for demonstration."""
    registry = Remembering(tmp_path, evaluated(), registered(1, "synthetic"))

    run(model, registry, "promote", "1", "--policy", "demo", "--reason", "it is ready for patients")

    assert registry.history[0].reason == "demo"


def test_promoting_the_champion_again_does_nothing(registry: Remembering) -> None:
    """And says so."""
    run(model, registry, "promote", "2", *SIGNED)

    assert "champion already" in run(model, registry, "promote", "2").stdout
    assert len(registry.history) == 1


def test_a_champion_is_replaced_after_a_comparison_on_the_same_people(
    registry: Remembering, tmp_path: Path
) -> None:
    """Refused while the predictions are not there; here both models answer alike."""
    run(model, registry, "promote", "1", *SIGNED)
    with pytest.raises(PolicyRefused, match="against champion 1"):
        run(model, registry, "promote", "2", *SIGNED)

    people = [
        {
            "participant_id": f"p{number}",
            "placed": "test",
            "condition": "clean",
            "label": "present" if number % 2 else "absent",
            "probability": 0.9 if number % 2 else 0.1,
        }
        for number in range(160)
    ]
    pl.DataFrame(people).write_parquet(tmp_path / "predictions.parquet")
    run(model, registry, "promote", "2", *SIGNED)

    assert registry.get("champion").version == 2


def test_a_champion_of_an_older_version_can_be_replaced(tmp_path: Path) -> None:
    """Its evaluation cannot be read any more; of it only the operating point is needed."""
    point = {
        "threshold": 0.5,
        "band_low": 0.4,
        "band_high": 0.6,
        "temperature": 1,
        "prevalence": 0.5,
    }
    metrics = tmp_path / "metrics.json"
    metrics.write_text(json.dumps({"format_version": 1, "operating_point": point, "old": True}))

    assert read_operating_point(metrics).threshold == 0.5
    with pytest.raises(InputError, match="of another version"):
        read_result(metrics)


def test_rollback_goes_back_and_is_recorded(registry: Remembering, registered: Registered) -> None:
    """To the champion before, once; then there is nowhere to go."""
    for version, previous in ((1, None), (2, 1)):
        registry.move_champion(
            ChampionChange(
                action="promoted",
                version=version,
                previous=previous,
                by=("A. Silva",),
                reason="…",
                policy="clinical 2",
                at=registered(1).created_at,
            )
        )
    signed = ("--by", "A. Silva", "--reason", "complaints from site 2")

    text = run(model, registry, "rollback", *signed).stdout

    assert "Model 1 is champion again" in text
    assert registry.get("champion").version == 1
    assert registry.history[-1].reason == "complaints from site 2"
    with pytest.raises(InputError, match="no champion is recorded before version 1"):
        run(model, registry, "rollback", *signed)


def test_a_rollback_has_an_author(registry: Remembering) -> None:
    """Nobody rolls back namelessly."""
    with pytest.raises(InputError, match="who"):
        run(model, registry, "rollback", "--reason", "complaints")


def test_about_says_what_it_is_not(registry: Remembering) -> None:
    """Intended use, warnings and status, in both languages, with the model that answers."""
    run(model, registry, "promote", "2", *SIGNED)

    text = run(about, registry).stdout

    assert "nunca um diagnóstico" in text
    assert "never a diagnosis" in text
    assert "Não regularizado na Anvisa" in text
    assert "Modelo: 2. Uso em pesquisa." in text
    assert "Só sabe o que lhe declaram" in text  # it promises no more than it can keep


def test_about_tells_the_vital_signs_that_raise_a_banner_here(registry: Remembering) -> None:
    """Those of the site's settings, or it would promise a banner that never comes."""
    rule = VitalRule(sign="spo2", comparison="<", limit=88.5)
    rules = VitalRules(version="ward-7", rules=(rule,))

    default = run(about, registry).stdout
    ours = " ".join(run(about, registry, vital_rules=rules).stdout.split())

    said = "alterados (SpO₂ abaixo de 92 %, FR de 30 irpm ou mais, FC de 130 bpm ou mais)"
    assert said in " ".join(default.split())
    assert "Sinais vitais alterados (SpO₂ abaixo de 88,5 %): avalie o paciente agora." in ours
    assert "Abnormal vital signs (SpO₂ below 88.5%): assess the patient now." in ours


def test_about_can_be_read_when_the_registry_is_away(registry: Remembering) -> None:
    """Warnings must not depend on a server."""
    registry.away = True

    text = run(about, registry).stdout

    assert "model registry not available" in text
    assert "Intended use" in text
