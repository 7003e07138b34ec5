"""The studies of a database: every version that was ever applied, and none of them changed."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
import yaml

from spira.collection.tables import STUDIES
from spira.documents import read_document
from spira.domain.errors import InputError
from spira.domain.fingerprint import canonical_json
from spira.domain.studies import Study, forbidden_changes
from spira.domain.suggestions import nearest
from spira.intake import audit
from spira.stores.database import Database, iso


class Applied(NamedTuple):
    """One version of a study, and since when it has been there."""

    study: Study
    applied_at: datetime


class Studies:
    """The table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def apply(self, study: Study, *, by: str) -> bool:
        """Add a version of a study, audited; False where it is there already, word for word.

        by        whose account
        raises    InputError listing everything that an applied version forbids to change
        """
        now = datetime.now(UTC)
        with self._database.writing() as tables:
            if not self._database.on_sqlite:  # of two that come at once, the second sees the first
                tables.exec_driver_sql(f"LOCK TABLE {STUDIES.name} IN EXCLUSIVE MODE")
            earlier = [one.study for one in _read(tables, STUDIES.c.id == study.id)]
            if study in earlier:
                return False
            if mistakes := forbidden_changes(study, earlier):
                raise InputError(*mistakes)
            tables.execute(
                STUDIES.insert().values(
                    id=study.id,
                    version=study.version,
                    document=canonical_json(_plain(study)).decode(),
                    applied_at=iso(now),
                )
            )
            audit.note(
                tables,
                at=now,
                who=by,
                role="study lead",
                what="study applied",
                which=f"{study.id} {study.version}",
            )
        return True

    def study(self, study_id: str, version: int | None = None) -> Study:
        """One version of a study, the latest unless told.

        raises    InputError where there is none, with the nearest name
        """
        found = self.versions(study_id)
        if version is None:
            return found[-1]
        for study in found:
            if study.version == version:
                return study
        versions = ", ".join(str(study.version) for study in found)
        raise InputError(f"study {study_id}: no version {version}; there are: {versions}")

    def versions(self, study_id: str) -> Sequence[Study]:
        """Every version of a study, the oldest first.

        raises    InputError where there is none, with the nearest name
        """
        with self._database.reading() as tables:
            found = [one.study for one in _read(tables, STUDIES.c.id == study_id)]
        if not found:
            known = [one.study.id for one in self.list()]
            raise InputError(f"study {study_id}: there is none{nearest(study_id, known)}")
        return found

    def list(self) -> list[Applied]:
        """Every version of every study, by name, the oldest version first."""
        with self._database.reading() as tables:
            return _read(tables, sa.true())


def read_study(path: Path) -> Study:
    """Read a study's YAML file, every value as it is written.

    raises    InputError listing every mistake: line, key, what would be right
    """
    return read_document(path, Study, words=True)


def compose(study: Study) -> str:
    """A study as the YAML that `read_study` reads."""
    return yaml.safe_dump(_plain(study), sort_keys=False, allow_unicode=True, width=100)


def default_study() -> str:
    """The SPIRA protocol as a YAML file with comments, to begin from."""
    return (files("spira.collection") / "studies" / "spira.yaml").read_text(encoding="utf-8")


def _read(tables: sa.Connection, which: sa.ColumnElement[bool]) -> list[Applied]:
    rows = tables.execute(sa.select(STUDIES).where(which).order_by(STUDIES.c.id, STUDIES.c.version))
    return [Applied(_parsed(row.document), datetime.fromisoformat(row.applied_at)) for row in rows]


@lru_cache(maxsize=128)  # versions: they never change, and a visit asks for several
def _parsed(document: str) -> Study:
    return Study.model_validate_json(document)


def _plain(study: Study) -> dict[str, Any]:
    # What was not said is left out, so that it stays the same when there is more to say one day.
    return study.model_dump(mode="json", exclude_defaults=True)
