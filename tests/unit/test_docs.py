"""The pages say what the code does: every name is walked in the code and looked up in the pages.

Each search for names states how many it expects at least, so that a search that finds nothing
fails too.
"""

import json
import pkgutil
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_args, get_origin

import click
import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from spira import cli
from spira.collection.balance import FEWEST, LIMIT
from spira.collection.balance import Verdict as BalanceVerdict
from spira.collection.hospitals.reading import Reason
from spira.collection.hospitals.settings import HospitalSettings
from spira.collection.hospitals.storing import REASONS as REASONS_OF_THE_WORKLIST
from spira.collection.hospitals.table import Mapped, read_mapped
from spira.datasets import cells, versions
from spira.datasets.summary import Collected
from spira.datasets.tables import ColumnMapping, read_mapping
from spira.delivery.promotion import Policy, load_policy
from spira.domain import errors
from spira.domain.answers import (
    EVIDENCE_SENTENCES,
    FINDING_SENTENCES,
    OUTCOME_SENTENCES,
    REFUSED_SENTENCES,
    Outcome,
)
from spira.domain.forms import Field
from spira.domain.label_policies import POLICIES, REASONS
from spira.domain.labels import POSSIBLE, ObservationKind
from spira.domain.recordings import FINDINGS, LABELS, SIDES, UTTERANCES, EvidenceLevel
from spira.domain.studies import Study
from spira.domain.vitals import VitalRule
from spira.evaluation.results import Verdict
from spira.intake.keys import Key
from spira.intake.receipts import Receipt
from spira.intake.tables import AUDIT
from spira.intake.words import PROBLEMS, REFUSALS
from spira.intake.words import STATES as SAID_OF_STATES
from spira.labels import worklist
from spira.labels.reading import COLUMNS
from spira.model.bundle import ModelManifest
from spira.model.prediction import NOT_SCORED
from spira.scheduling.asking import Body, Desk
from spira.scheduling.requests import STATES, Requests
from spira.scheduling.settings import SchedulingSettings
from spira.scheduling.stages import Cause
from spira.serving.answers import Answer
from spira.serving.api import Manifest, create_api
from spira.serving.api import shown as told_to_a_site
from spira.serving.forms import ASSESSMENT_1
from spira.serving.predictor import Metrics
from spira.serving.service import STOPPED_WITHIN_S
from spira.serving.settings import ServingSettings
from spira.serving.words import FAILURES
from spira.serving.words import STATES as SAID_OF_ASSESSMENTS
from spira.settings import Settings
from spira.synthetic.devices import DEVICE_NAMES
from spira.synthetic.records import SHORTCUTS
from spira.training.experiments import Experiment, parse_experiment
from spira.training.plan import STAGES

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")]
)
REFERENCE = (ROOT / "docs/reference.md").read_text(encoding="utf-8")
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


# ---- reading pages


def section(title: str, page: str = REFERENCE) -> str:
    """The text below a heading, up to the next heading of any level."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", page, re.M | re.S)
    assert found, f"no heading {title!r}"
    return found[1]


def table(title: str) -> dict[str, list[str]]:
    """The rows of a section's table by the name in their first cell, without code marks."""
    rows: dict[str, list[str]] = {}
    for line in section(title).splitlines():
        if line.startswith("| `"):
            first, *others = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            assert first not in rows, f"{title}: {first} stands twice"
            rows[first.strip("`")] = [cell.strip("`") for cell in others]
    return rows


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """(info string, text) of each fenced block."""
    yield from re.findall(
        r"^```(\S[^\n]*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S
    )


def commands(page: Path) -> Iterator[str]:
    """The commands of a page's console blocks; the other lines of a block are output."""
    for info, text in blocks(page):
        if info.split()[0] != "console":
            continue
        lines = text.replace("\\\n", " ").splitlines()
        prompted = [line[2:] for line in lines if line.startswith("$ ")]
        yield from prompted or [line for line in lines if line.strip()]


# ---- reference.md


def every_command(
    command: click.Command, path: tuple[str, ...]
) -> Iterator[tuple[str, click.Command]]:
    """(`spira dataset import`, the command) of the whole tree."""
    yield " ".join(path), command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from every_command(inner, (*path, name))


COMMANDS = dict(every_command(cli.spira, ("spira",)))


def test_every_command_is_found() -> None:
    """The search sees the whole tree."""
    assert len(COMMANDS) >= 32
    assert sum(len(command.params) for command in COMMANDS.values()) >= 90


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_and_option_is_listed(path: str) -> None:
    """Each command has a heading, and its table has its arguments and options and no others."""
    named = {
        parameter.opts[0]
        if isinstance(parameter, click.Option)
        else parameter.make_metavar(click.Context(COMMANDS[path])).strip("[]").removesuffix("...")
        for parameter in COMMANDS[path].params
    }
    everywhere = {"--help"} if path == "spira" else {"--help", "--json"}

    assert set(table(path)) == named - everywhere


def test_the_page_says_which_commands_speak_json() -> None:
    """All that do something, but those that tell their story while they are at it."""
    silent = {
        path
        for path, command in COMMANDS.items()
        if not (isinstance(command, click.Group) and not command.invoke_without_command)
        and all("--json" not in parameter.opts for parameter in command.params)
    }

    served = {f"spira serve{part}" for part in ("", " api", " relay", " predictor")}
    others = {"spira demo", "spira schedule up", "spira schedule endpoint", "spira audit export"}
    others |= {"spira collect", "spira hospital simulate"}
    assert silent == others | served | {"spira study export-default"}
    (sentence,) = re.findall(r"after every command but (.*)\.", section("Commands"))
    assert set(re.findall(r"`([^`]+)`", sentence)) == silent


def test_everything_of_labels_is_listed() -> None:
    """Policies, reasons with their labels' meaning, kinds with their ranges, columns, worklist."""
    assert set(table("Label policies")) == set(POLICIES)
    assert set(table("Reasons of a label")) == set(REASONS)
    assert set(table("A table of entries")) == set(COLUMNS)
    assert {why: row[0].rstrip(".").lower() for why, row in table("The worklist").items()} == {
        why: meaning.lower() for why, meaning in worklist.REASONS.items()
    }
    kinds = table("Observations")
    assert set(kinds) == set(get_args(ObservationKind))
    for kind, (_, possible) in kinds.items():
        low, high = POSSIBLE.get(kind, (None, None))
        assert possible == ("" if low is None else f"{low:g} to {high:g}")


def test_everything_of_hospitals_is_listed() -> None:
    """What a hospital is set up with, and what is asked about, with where that is listed."""
    rows = table("A hospital")
    assert set(rows) == set(HospitalSettings.model_fields)
    for name, (default, _) in rows.items():
        field = copy(HospitalSettings.model_fields[name])
        if field.default_factory is not None:
            field.default, field.default_factory = field.default_factory(), None  # type: ignore[call-arg]
        assert default == shown(field), name
    asked = table("What hospitals are asked about")
    assert set(asked) == set(get_args(Reason))
    for why, (listed, _) in asked.items():
        assert listed == REASONS_OF_THE_WORKLIST.get(why, "unreadable"), why


def leaves(
    model: type[BaseModel], at: str = "", given: Any = None
) -> Iterator[tuple[str, FieldInfo]]:
    """(dotted name, field) of everything in a model that is no model itself.

    given     the value that holds it, where its defaults may differ from the model's own
    """
    for name, field in model.model_fields.items():
        default = field.default if given is None else getattr(given, name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            inner = default if isinstance(default, BaseModel) else None
            yield from leaves(field.annotation, f"{at}{name}.", inner)
        else:
            found = copy(field)
            found.default = default
            yield f"{at}{name}", found


def shown(field: FieldInfo) -> str | None:
    """How a page writes a field's default; None where it has other words for it."""
    if field.is_required():
        return "required"
    if field.default_factory is not None:
        return None
    if (
        isinstance(field.default, tuple)
        and field.default
        and isinstance(field.default[0], VitalRule)
    ):
        return None  # told in words
    if field.default == "":
        return "(empty)"
    if isinstance(field.default, BaseModel):
        return f"kind `{field.default.kind}"  # type: ignore[attr-defined]
    return (
        str(field.default) if isinstance(field.default, str | Path) else json.dumps(field.default)
    )


def test_every_setting_is_listed_with_its_default() -> None:
    """The table has every setting and no other."""
    rows = table("Settings")
    known = dict(leaves(Settings))

    assert len(known) >= 40
    assert set(rows) == set(known)
    for name, field in known.items():
        default, _, reason = rows[name]
        assert shown(field) in (default, None), name
        assert reason, name


def strategies(model: type[BaseModel], at: str = "") -> Iterator[tuple[str, dict[str, FieldInfo]]]:
    """(heading, dotted name -> field) of an experiment and of each strategy that it may choose."""
    plain: dict[str, FieldInfo] = {}
    chosen: list[tuple[str, type[BaseModel]]] = []
    for name, field in leaves(model):
        members = members_of(field.annotation)
        if members and name != "evaluation.noise":  # the members of `noise` again
            chosen += [(name, member) for member in members]
        else:
            plain[at + name] = field
    yield "The experiment", plain
    for name, member in chosen:
        fields = {f"{name}.{key}": field for key, field in leaves(member) if key != "kind"}
        yield f"{name}, kind {member.model_fields['kind'].default}", fields


def members_of(annotation: Any) -> list[type[BaseModel]]:
    """The models of a tagged union; none for anything else."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is Literal:
        return []
    return [member for argument in get_args(annotation) for member in members_of(argument)]


def test_every_experiment_key_is_listed_with_its_default() -> None:
    """Below its own heading, or that of the strategy that has it; and no other key is."""
    found = dict(strategies(Experiment))

    assert len(found) >= 14
    assert sum(map(len, found.values())) >= 55
    for title, fields in found.items():
        rows = table(title)
        assert set(rows) == set(fields), title
        for name, field in fields.items():
            assert rows[name][0] == shown(field), name


def test_strategies_that_are_chosen_unless_told_are_said_to_be() -> None:
    """The default kind of each tagged union is named as such."""
    for name, field in leaves(Experiment):
        if isinstance(field.default, BaseModel) and name != "evaluation.noise":
            kind = field.default.kind  # type: ignore[attr-defined]
            assert "the default kind" in section(f"{name}, kind {kind}"), name


def nested(model: type[BaseModel]) -> set[str]:
    """Dotted names of a model's keys, those of the models inside it too."""
    return {
        path
        for name, field in model.model_fields.items()
        for path in (
            name,
            *(
                f"{name}.{key}"
                for inner in members_of(field.annotation)
                for key in inner.model_fields
            ),
        )
    }


@pytest.mark.parametrize(
    ("title", "model", "least"),
    [
        ("Mapping keys", ColumnMapping, 20),
        ("Policy keys", Policy, 14),
        ("Study keys", Study, 35),
        ("Fields of a form", Field, 25),
        ("A hospital's table", Mapped, 16),
    ],
)
def test_every_key_of_files_written_by_hand_is_listed(
    title: str, model: type[BaseModel], least: int
) -> None:
    """Those inside its parts too."""
    assert len(nested(model)) >= least
    assert set(table(title)) == nested(model)


def subclasses(error: type[Exception]) -> Iterator[type[Exception]]:
    """The tree below an error."""
    for below in error.__subclasses__():
        if below.__module__ == errors.__name__:
            yield below
            yield from subclasses(below)


def test_every_error_is_listed_with_its_parent_and_exit_code() -> None:
    """The table is the tree."""
    tree = [errors.SpiraError, *subclasses(errors.SpiraError)]

    assert len(tree) >= 6
    rows = {name: cells_[:2] for name, cells_ in table("Errors").items()}
    assert rows == {
        error.__name__: [error.__base__.__name__, str(error.exit_code)]  # type: ignore[attr-defined]
        for error in tree
    }


def test_every_exit_code_is_listed() -> None:
    """Those of errors, of success and of an interruption, as `spira --help` lists them."""
    listed = re.findall(r"(\d+) [a-z]", (cli.spira.help or "").partition("Exit codes:")[2])
    raised = {str(error.exit_code) for error in subclasses(errors.SpiraError)}  # type: ignore[attr-defined]

    assert len(listed) >= 7
    assert set(table("Exit codes")) == set(listed) >= raised


def test_every_reason_to_refuse_a_file_is_listed() -> None:
    """The table has every reason and no other."""
    reasons = get_args(errors.RefusalReason)

    assert len(reasons) >= 9
    assert list(table("Why a file is refused")) == list(reasons)


def test_every_finding_is_listed_with_its_words() -> None:
    """In Portuguese and English, exactly as they are said."""
    rows = table("Findings")

    assert list(rows) == list(FINDINGS)
    for finding, (_, words) in rows.items():
        said = FINDING_SENTENCES[finding]  # type: ignore[index]
        assert words == f"«{said.pt}» · {said.en}"


@pytest.mark.parametrize(
    ("title", "columns", "least"),
    [("recordings.parquet", versions.RECORDINGS, 27), ("noise.parquet", versions.NOISE, 12)],
)
def test_every_column_of_a_dataset_is_listed(
    title: str, columns: Mapping[str, Any], least: int
) -> None:
    """In the order of the table."""
    assert len(columns) >= least
    assert list(table(title)) == list(columns)


def test_everything_that_a_snapshot_says_is_listed() -> None:
    """In the order of the code."""
    assert list(table("A snapshot of the stores")) == list(Collected.model_fields)


def test_every_key_of_a_models_manifest_is_listed() -> None:
    """In the order of the code."""
    assert list(table("A bundle")) == list(ModelManifest.model_fields)


def test_stages_are_named_as_they_are() -> None:
    """In the text of `spira stage`, and in the table of artifacts."""
    artifacts = set(re.findall(r"^\| `([a-z-]+)` \| `", section("Artifacts"), re.M))

    assert all(f"`{stage}`" in section("spira stage") for stage in STAGES)
    assert artifacts == {"dataset", "features-shard", *STAGES}


def test_every_state_of_a_request_and_every_cause_is_listed() -> None:
    """A request's end is told in these words, and a stage's in those."""
    assert list(table("States of a request")) == list(STATES)
    assert set(table("What a stage's end means")) == set(get_args(Cause))


def test_the_endpoint_is_listed_with_all_it_asks_and_answers(tmp_path: Path) -> None:
    """Routes, keys of a body, keys of a request as it is answered; tags and notices of one."""
    from spira.scheduling.endpoint import create_endpoint
    from spira.scheduling.notices import notice
    from spira.scheduling.runs import BY, RUN, tags

    requests = Requests.open(f"sqlite:///{tmp_path / 'requests.db'}")
    requests.create()
    asked = requests.ask(
        key="k", body={}, by="b", reason="r", dataset="d", experiment="e", seed=1, document="e"
    ).request
    desk = Desk(store=None, requests=requests, settings=SchedulingSettings())  # type: ignore[arg-type]
    endpoint = create_endpoint(desk, "token", SimpleNamespace(instance=None))  # type: ignore[arg-type]
    paths = endpoint.openapi()["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    (follow,) = [r.endpoint for r in endpoint.routes if getattr(r, "name", "") == "run"]  # type: ignore[attr-defined]
    answer = follow(asked.id)
    failed = replace(asked, state="failed")

    assert len(routes) >= 4
    assert set(table("The endpoint")) == routes
    assert list(table("The body of a request")) == list(Body.model_fields)
    assert list(table("A request as it is answered")) == [*answer, "joined"]
    assert list(table("Notices")) == list(notice(failed))
    assert list(table("Tags of a run")) == [*tags(asked), BY, RUN]


def test_the_client_api_is_listed_with_all_it_asks_and_answers() -> None:
    """Routes, keys of a manifest, and of an assessment and its answer as they are told."""
    none = dict.fromkeys(("assessments", "tokens", "keys", "thresholds"))
    intake, settings = SimpleNamespace(uploads=None), ServingSettings()
    api = create_api(SimpleNamespace(intake=intake, settings=settings, **none))  # type: ignore[arg-type]
    routes = {
        f"{method} {route.path}"  # type: ignore[attr-defined]
        for route in api.routes
        for method in getattr(route, "methods", None) or ()
        if getattr(route, "name", "") != "openapi"
    }
    row = {
        "id": "i",
        "state": "queued",
        "attempt": 0,
        "about": '{"values": {}, "site": "ward"}',
        "recorded_at": "2026-03-01T12:00:00+00:00",
        "accepted_at": "2026-03-01T12:00:00+00:00",
        "answer": None,
        "answered_at": None,
        "voided_at": None,
        "replaces": None,
        "replaced_by": None,
        "change": 1,
    }

    assert len(routes) >= 13
    assert set(table("The Client API")) == routes
    assert set(table("The manifest")) == nested(Manifest)
    assert list(table("An assessment as it is answered")) == list(
        told_to_a_site(SimpleNamespace(**row), None, ServingSettings(), datetime.now(UTC))
    )
    assert list(table("An answer")) == list(Answer.model_fields)


def test_every_field_of_the_form_is_listed_with_its_ranges() -> None:
    """In the order in which an app asks."""
    rows = table("The form of an assessment")

    assert len(rows) >= 18
    assert list(rows)[: len(ASSESSMENT_1.fields)] == [field.name for field in ASSESSMENT_1.fields]
    for field in ASSESSMENT_1.fields:
        _, required, title, _, plausible, possible, rules = rows[field.name]
        assert (required == "yes", title) == (field.required, field.title.pt), field.name
        for told, span in ((plausible, field.plausible), (possible, field.possible)):
            assert told == ("" if span is None else f"{span.low:g} to {span.high:g}"), field.name
        choices = [choice.value for choice in field.choices]
        assert not choices or re.findall(r"\w[\w-]*", rules) == choices, field.name


def test_keys_receipts_audit_and_metrics_are_listed() -> None:
    """Field by field."""
    metrics = {
        sample.name
        for metric in Metrics().registry.collect()
        for sample in metric.samples
        if sample.name.startswith("spira_") and not sample.name.endswith("_created")
    } | {"spira_predictor_answers_total", "spira_predictor_setbacks_total"}
    histogram = {f"spira_predictor_seconds_{part}" for part in ("bucket", "count", "sum")}

    assert list(table("Receipts")) == list(Receipt.model_fields)
    assert list(table("The audit")) == list(AUDIT.c.keys())
    assert {*Key.model_fields, "secret", "sha256"} <= set(table("Keys"))
    assert set(table("Metrics of a predictor")) == metrics - histogram | {"spira_predictor_seconds"}


def test_every_verdict_about_a_nuisance_is_listed() -> None:
    """With what it takes."""
    rows = table("Balance")

    assert list(rows) == list(get_args(BalanceVerdict))
    assert f"{LIMIT:.0%}".replace("%", " %") in rows["proxy"][0]
    assert f"Under {FEWEST} people" in rows["not enough data"][0]


def test_the_page_says_how_long_a_stop_of_serving_may_take() -> None:
    """Longer than requests in hand may."""
    assert f"where they have not ended {STOPPED_WITHIN_S} s later" in section("Serving")


def test_words_have_the_values_that_the_code_knows() -> None:
    """One row a word."""
    rows = re.findall(r"^\| ([^|`]+?(?:`[^`]+`)?) \| (`.+) \|$", section("Words"), re.M)
    listed = {word: re.findall(r"`([^`]+)`", values) for word, values in rows}

    assert listed == {
        "utterance": list(UTTERANCES),
        "label": list(LABELS),
        "side": list(SIDES),
        "outcome": list(get_args(Outcome)),
        "evidence level": list(get_args(EvidenceLevel)),
        "verdict of an audit": list(get_args(Verdict)),
        "device of the synthetic hospital": list(DEVICE_NAMES),
        "nuisance of `--shortcut`": list(SHORTCUTS),
    }


def test_words_of_a_table_are_those_that_are_recognised() -> None:
    """Every word of the importer's vocabularies stands in its row."""
    rows = table("Words of a table")
    vocabularies: dict[str, Mapping[str, Any]] = {
        "label": cells.LABEL_WORDS,
        "sex": cells.SEX_WORDS,
        "split": cells.SIDE_WORDS,
    }
    for cell, vocabulary in vocabularies.items():
        listed = re.findall(r"[a-z0-9]+", re.sub(r"\w+: ", "", rows[cell][0].lower()))
        assert sorted(listed) == sorted(vocabulary), cell
    assert all(word in rows["utterance"][0] for word in ("frase", "parlenda", "vogal", "outro"))


# ---- every page


def test_pages_are_found() -> None:
    """The search sees them."""
    assert {
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "docs/tutorial.md",
        "docs/how-to.md",
        "docs/reference.md",
        "docs/explanation.md",
        "docs/safety/README.md",
    } <= set(NAMES)


def anchors(page: Path) -> set[str]:
    """What a link into a page may name, made of its headings as GitHub makes it."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_relative_link_leads_somewhere(name: str) -> None:
    """To a file of the repository, and to a heading of it where one is named."""
    page = ROOT / name
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def test_commands_in_pages_are_found() -> None:
    """The search sees them."""
    assert len([line for page in PAGES for line in commands(page)]) >= 50


@pytest.mark.parametrize("name", NAMES)
def test_every_command_in_a_page_exists(name: str) -> None:
    """`spira` commands with their arguments and options, `make` targets; nothing is run."""
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    for line in commands(ROOT / name):
        program, *words = shlex.split(re.sub(r"^(\w+=\S+ )+", "", line), comments=True) or [""]
        if program == "spira":
            understood(words)
        elif program == "make":
            assert set(words) <= set(targets), line


def understood(words: Sequence[str]) -> None:
    """Parse the arguments of `spira` as if they were to be run; a mistake raises."""
    command: click.Command = cli.spira
    rest = list(words)
    while isinstance(command, click.Group):
        context = click.Context(command)
        _, rest, _ = command.make_parser(context).parse_args(rest)
        if not rest:
            return  # `spira --help`
        name, *rest = rest
        inner = command.get_command(context, name)
        assert inner is not None, name
        command = inner
    command.make_context("spira", rest, obj=SimpleNamespace(console=SimpleNamespace()))


def test_files_in_pages_are_found() -> None:
    """The search sees them."""
    infos = [info for page in PAGES for info, _ in blocks(page)]
    assert sum(info.startswith("yaml experiment") for info in infos) >= 3
    assert sum(info.startswith("yaml mapping") for info in infos) >= 2
    assert sum(info.startswith("yaml policy") for info in infos) >= 1


@pytest.mark.parametrize("name", NAMES)
def test_every_file_shown_in_a_page_is_valid(name: str, tmp_path: Path) -> None:
    """Each block says what it is, and what it is is read by the code that reads such files."""
    for info, text in blocks(ROOT / name):
        language, *kind = info.split()
        file = tmp_path / "file"
        file.write_text(text, encoding="utf-8")
        match (language, *kind[:1]):
            case ("yaml", "experiment"):
                parse_experiment(text, where=name)
            case ("yaml", "mapping"):
                read_mapping(file)
            case ("yaml", "table"):
                read_mapped(file)
            case ("yaml", "policy"):
                load_policy(str(file))
            case ("toml", "settings"):
                Settings.model_validate(tomllib.loads(text))
            case ("console" | "text" | "python", *_):
                pass  # commands and examples have tests of their own
            case _:
                pytest.fail(f"{name}: a block of no known kind: {info}")


def test_every_sentence_quoted_from_an_answer_is_said_so() -> None:
    """Words in guillemets are clinical controls: a page repeats them exactly."""
    sentences = [
        *OUTCOME_SENTENCES.values(),
        *FINDING_SENTENCES.values(),
        *EVIDENCE_SENTENCES.values(),
        *REFUSED_SENTENCES.values(),
        NOT_SCORED,
        *SAID_OF_STATES.values(),
        *SAID_OF_ASSESSMENTS.values(),
        *FAILURES.values(),
        *REFUSALS.values(),
        *PROBLEMS.values(),
    ]
    said = {sentence.pt for sentence in sentences}
    quoted = [
        " ".join(quote.split())
        for page in PAGES
        for quote in re.findall(r"«([^»]+)»", page.read_text(encoding="utf-8"))
    ]

    assert len(quoted) >= 10
    assert set(quoted) <= said


def test_names_of_code_in_pages_exist() -> None:
    """Modules, and what is in them."""
    said = {
        name
        for page in PAGES
        for name in re.findall(r"`(spira(?:\.\w+)+)`", page.read_text(encoding="utf-8"))
    } - {"spira.db"}

    for name in said:
        assert pkgutil.resolve_name(name)
    assert len(said) >= 5


@pytest.mark.parametrize("name", NAMES)
def test_pages_name_no_machine(name: str) -> None:
    """No absolute path of somebody's machine."""
    assert not re.search(r"(?<![\w.~])/(home|root|work|tmp|Users)/", (ROOT / name).read_text())
