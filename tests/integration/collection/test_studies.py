"""The studies of a database: added, audited, and never changed."""

import json
import threading
from typing import Any

import pytest

from spira.collection.studies import Studies, default_study
from spira.documents import parse_document
from spira.domain.errors import InputError
from spira.domain.studies import Study
from spira.intake import audit
from spira.stores.database import Database


def study(**changes: Any) -> Study:
    """The study that ships, changed."""
    described = parse_document(default_study(), Study, where="default", words=True).model_dump()
    return Study.model_validate(described | changes)


def form(version: int, title: str) -> dict[str, Any]:
    """The form that ships, under another version and title."""
    return study().forms[0].model_dump() | {"version": version, "title": {"pt": title, "en": title}}


def audited(database: Database) -> list[dict[str, Any]]:
    """What the audit has, in order."""
    with database.reading() as tables:
        return [json.loads(line) for line in audit.export(tables)]


def test_a_study_comes_back_as_it_was_applied(database: Database) -> None:
    """Each version of it, the latest where none is named; applied twice it is there once."""
    studies = Studies(database)
    longer = study(version=3, title={"pt": "mais", "en": "more"})

    assert studies.apply(study(), by="ana")
    assert not studies.apply(study(), by="ana")
    assert studies.apply(longer, by="rui")
    assert not studies.apply(study(), by="ana")

    assert studies.study("spira") == longer
    assert studies.study("spira", 1) == study()
    assert [(one.study.id, one.study.version) for one in studies.list()] == [
        ("spira", 1),
        ("spira", 3),
    ]


def test_who_applied_a_study_is_audited(database: Database) -> None:
    """Once for each version; what changes nothing leaves no row."""
    studies = Studies(database)
    for version in (1, 1, 2):
        studies.apply(study(version=version), by=f"account-{version}")

    assert [(row["who"], row["what"], row["which"]) for row in audited(database)] == [
        ("account-1", "study applied", "spira 1"),
        ("account-2", "study applied", "spira 2"),
    ]


def test_a_form_that_changed_without_a_new_version_is_refused(database: Database) -> None:
    """And nothing is stored; under a version of its own it is taken, the old one stays."""
    studies = Studies(database)
    studies.apply(study(), by="ana")

    with pytest.raises(InputError) as refused:
        studies.apply(study(forms=(form(1, "outro"),)), by="ana")
    assert studies.apply(study(version=2, forms=(form(2, "outro"),)), by="ana")

    assert [mistake.partition(":")[2][:40] for mistake in refused.value.mistakes] == [
        " version 1 is applied already and cannot",
        " form visit, version 1, was applied with",
    ]
    assert studies.study("spira", 1) == study()
    assert len(audited(database)) == 2


def test_what_is_not_there_is_named_with_what_is(database: Database) -> None:
    """The nearest name, or the versions."""
    studies = Studies(database)
    studies.apply(study(), by="ana")

    with pytest.raises(InputError, match="study spiral: there is none; did you mean spira"):
        studies.study("spiral")
    with pytest.raises(InputError, match="study spira: no version 2; there are: 1"):
        studies.study("spira", 2)


def test_of_two_that_apply_at_once_the_second_sees_the_first(database: Database) -> None:
    """One version has one content, whoever comes first; the other one is told why not."""
    ready = threading.Barrier(4)
    applied: list[Study] = []
    refused: list[InputError] = []

    def apply(number: int) -> None:
        mine = study(title={"pt": f"título {number}", "en": "title"})
        ready.wait()
        try:
            Studies(database).apply(mine, by="ana")
        except InputError as error:
            refused.append(error)
        else:
            applied.append(mine)

    threads = [threading.Thread(target=apply, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(refused) == 3
    assert [Studies(database).study("spira")] == applied
