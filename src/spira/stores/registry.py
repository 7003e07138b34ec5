"""Metadata Store E and Model Registry I: what SPIRA adds to MLflow, and nothing more.

A publish is three steps, each found again by the fingerprint that it carries:

    run       metrics, parameters and the bundle's files; its report first
    version   one entry of the registry, made when everything of the run is stored; its tags hold
              the digest of every file
    alias     `challenger` moves to the new version, once; or none is asked for, which is noted,
              and whoever asks for it later moves it then

A kill between any two is completed by the next attempt: a version exists only with its report,
and never twice. MLflow is imported when it is first needed (about 1.4 s), never before.
"""

import errno
import hashlib
import json
import logging
import math
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import urlsplit

import yaml

from spira.domain.errors import InputError, IntegrityError, SpiraError, TransientError
from spira.domain.frozen import Frozen
from spira.domain.recordings import EvidenceLevel
from spira.domain.suggestions import nearest
from spira.stores.locks import locked

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion
    from mlflow.entities.model_registry import RegisteredModel

    from spira.stores.settings import StoresSettings

Alias = Literal["challenger"]  # that a publish may ask for; only a decision moves `champion`

_NO_ALIAS = "none"  # value of the tag spira.alias of a version that was published without one
_NEEDED_FILES = ("model.onnx", "model.json", "report.html")
_FIRST_FILES = ("report.html", "card.md")  # a run that holds anything holds its report
_FOLDER = "model"  # of the run's artifacts
_HISTORY = "spira.champion."
_BATCH = 100  # parameters that MLflow takes in one request
_PARAMETER_CHARACTERS = 6000
_ANSWER_WITHIN_S = 5.0  # a server that does not answer a health question by then is away
_AWAY = (
    "model registry: the MLflow server named by setting stores.registry does not answer; "
    "start it or correct the setting, then run the same command again"
)


@dataclass(frozen=True)
class ModelVersion:
    """One entry of the Model Registry."""

    version: int
    aliases: tuple[str, ...]
    fingerprint: str
    evidence_level: EvidenceLevel
    created_at: datetime  # UTC
    metrics: Mapping[str, float]
    parameters: Mapping[str, str]
    tags: Mapping[str, str]  # those given at registration
    files: Mapping[str, str]  # name -> SHA-256, 64 hexadecimal digits
    run_id: str


class ChampionChange(Frozen):
    """One move of the alias `champion`: who, when, why, and under which rules."""

    action: Literal["promoted", "rolled back"]
    version: int
    previous: int | None
    by: tuple[str, ...]
    reason: str
    policy: str  # name and version, "clinical 1"; "none" for a rollback
    at: datetime


class Registry:
    """The registry of one model name on one MLflow store.

    uri         `sqlite:////folder/mlflow.db`, or `http(s)://…` of an MLflow server; credentials of
                a server stay in MLflow's own environment variables
    artifacts   folder for the files of runs; a server has its own place for them
    lock        a file; one writer at a time on one machine
    """

    def __init__(self, uri: str, *, artifacts: Path, model_name: str = "spira", lock: Path) -> None:
        scheme = urlsplit(uri).scheme
        if scheme not in ("sqlite", "http", "https"):
            raise InputError(
                f"setting stores.registry: {scheme or 'a plain path'!r} is not known; "
                "write sqlite:////folder/mlflow.db or the http(s) address of an MLflow server"
            )
        self._uri = uri
        self._database = None
        if scheme == "sqlite":
            self._database = Path(uri.removeprefix("sqlite:///")).expanduser().resolve()
            self._uri = f"sqlite:///{self._database}"
        self._artifacts = artifacts.resolve()
        self._name = model_name
        self._lock = lock

    @classmethod
    def open(cls, settings: "StoresSettings", *, home: Path) -> "Registry":
        """The registry that the settings name; by default MLflow on SQLite in the data folder."""
        uri = settings.registry or f"sqlite:///{home / 'mlflow' / 'mlflow.db'}"
        # Files lie beside the database that names them, so that the two are moved together.
        embedded = urlsplit(uri).scheme == "sqlite"
        beside = Path(uri.removeprefix("sqlite:///")).parent if embedded else home / "mlflow"
        return cls(uri, artifacts=beside / "artifacts", lock=home / "locks" / "registry")

    def register(
        self,
        fingerprint: str,
        bundle: Path,
        *,
        evidence_level: EvidenceLevel,
        metrics: Mapping[str, float],
        parameters: Mapping[str, str],
        tags: Mapping[str, str] | None = None,
        alias: Alias | None = "challenger",
    ) -> ModelVersion:
        """Publish a bundle: once for one fingerprint, however often this is called or killed.

        Files that the registry's own folder has lost or damaged are stored again.

        fingerprint   of everything the bundle was made from, 64 hexadecimal digits
        bundle        folder with at least model.onnx, model.json and report.html
        metrics       finite figures; others are left out, the report says why they are missing
        tags          kept with the version; names may not begin with "spira."
        alias         moves to the version when it is first asked for, and never again by this call
        raises        InputError for a bundle without its files, TransientError when the registry
                      does not answer
        """
        files = _digests(bundle)
        self._prepare()
        with _translated(), locked(self._lock):
            if self._database is not None:
                self._follow_files(self._database)
            version = self._version_of(fingerprint)
            if version is None:
                run = self._run_of(fingerprint)
                self._log(run, metrics, parameters)
                signature = self._store_files(run, bundle, files)
                version = self._create_version(
                    run, fingerprint, evidence_level, files | signature, dict(tags or {})
                )
            elif self._database is not None:
                self._repair(version, bundle, files)
            given = version.tags.get("spira.alias")  # None: not complete yet
            if given is None or (given == _NO_ALIAS and alias is not None):
                if alias is not None:
                    self._client.set_registered_model_alias(self._name, alias, version.version)
                self._client.set_model_version_tag(
                    self._name, version.version, "spira.alias", alias or _NO_ALIAS
                )
        return self.get(str(version.version))

    def holds(self, fingerprint: str, *, alias: Alias | None = "challenger") -> bool:
        """Whether this publish is complete here, its files undamaged; MLflow is not imported.

        alias     None: complete with or without one; else this alias has been given to it, though
                  it may be another version's by now

        Only a SQLite registry can tell so quickly. False also means that nobody knows: `register`
        finds out, and does what is left to do.
        """
        found = self._published(fingerprint, alias)
        if found is None:
            return False
        _, run_id, files = found
        return _damaged(self._stored(run_id), json.loads(files)) is None

    def number(self, fingerprint: str) -> int | None:
        """The version that this publish is; None where there is none, or only MLflow could tell."""
        found = self._published(fingerprint, None)
        return None if found is None else found[0]

    def _published(self, fingerprint: str, alias: Alias | None) -> tuple[int, str, str] | None:
        """(version, run, its files as JSON) of a publish in a SQLite registry, without MLflow."""
        if self._database is None or not self._database.exists():
            return None
        import sqlite3

        question = """
            SELECT version, version.run_id, files.value
            FROM model_versions AS version
            JOIN model_version_tags AS mark USING (name, version)
            JOIN model_version_tags AS files USING (name, version)
            JOIN model_version_tags AS alias USING (name, version)
            WHERE name = ? AND mark.key = 'spira.fingerprint' AND mark.value = ?
              AND files.key = 'spira.files' AND alias.key = 'spira.alias'
              AND alias.value = coalesce(?, alias.value)
        """
        values = (self._name, _checked(fingerprint), alias)
        try:
            with closing(sqlite3.connect(f"{self._database.as_uri()}?mode=ro", uri=True)) as tables:
                row = tables.execute(question, values).fetchone()
        except sqlite3.Error:
            return None
        return None if row is None else (int(row[0]), str(row[1]), str(row[2]))

    def versions(self) -> list[ModelVersion]:
        """Every version that SPIRA registered, newest first."""
        with self._reading():
            model = self._model()
            if model is None:
                return []
            found: list[MlflowVersion] = []
            token = None
            while True:
                page = self._client.search_model_versions(
                    f"name = '{self._name}'", page_token=token
                )
                found += page
                token = page.token
                if not token:
                    break
            ours = [version for version in found if "spira.fingerprint" in version.tags]
            return sorted(
                (self._described(version, model) for version in ours),
                key=lambda version: -version.version,
            )

    def get(self, reference: str) -> ModelVersion:
        """The version with this alias ("champion") or number ("3").

        raises    InputError that says how to get one, where there is none
        """
        with self._reading():
            model = self._model()
            if model is None:
                raise InputError(
                    f"model {reference}: no model is registered yet; train and publish one "
                    "(spira train EXPERIMENT --data DATASET, or spira demo)"
                )
            aliases = {alias: int(version) for alias, version in model.aliases.items()}
            if reference.isdecimal():
                number = int(reference)
            elif reference in aliases:
                number = aliases[reference]
            elif reference == "champion":
                raise InputError(
                    "model champion: no version has been promoted yet; look at "
                    "`spira model list`, then `spira model promote VERSION --policy …`, "
                    "or name a version"
                )
            else:
                raise InputError(
                    f"model {reference}: no version has this alias{nearest(reference, aliases)}; "
                    f"known: {', '.join(sorted(aliases)) or 'none'}, or a version's number"
                )
            found = self._version(number)
            if found is None:
                raise InputError(
                    f"model {reference}: there is no such version; `spira model list` shows them"
                )
            if "spira.fingerprint" not in found.tags:
                raise InputError(f"model {reference}: version {number} is not one of SPIRA's")
            return self._described(found, model)

    def download(self, version: ModelVersion, cache: Path) -> Path:
        """A local folder with the version's files, each compared with its digest.

        cache     folder of downloaded versions; a whole one is not fetched again
        raises    IntegrityError when the registry's bytes are missing or damaged
        """
        contents = hashlib.sha256(json.dumps(version.files, sort_keys=True).encode()).hexdigest()
        folder = cache / f"{self._name}-{version.version}-{contents[:12]}"
        if _damaged(folder, version.files) is None:
            return folder
        self._prepare()
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="fetching-") as scratch:
            with _translated():
                fetched = self._fetch(version, Path(scratch))
            damaged = _damaged(fetched, version.files)
            if damaged is not None:
                raise IntegrityError(
                    f"model {version.version}/{damaged}: its bytes in the registry do not match "
                    "their digest; it must not answer; run `spira stage publish` of its experiment "
                    "again, or promote another version"
                )
            with locked(cache / ".lock"):  # of two fetchers the second one's copy stays
                shutil.rmtree(folder, ignore_errors=True)
                fetched.rename(folder)
        return folder

    def move_champion(self, change: ChampionChange) -> None:
        """Record the change, then let `champion` point at its version.

        A version that becomes champion is challenger no longer. A kill between record and move
        leaves a record that `previous_champion` sees through; running again completes it.

        raises    TransientError when the champion is no longer `change.previous`
        """
        self._prepare()
        with _translated(), locked(self._lock):
            model = self._model()
            aliases = {} if model is None else model.aliases
            current = aliases.get("champion")
            if (None if current is None else int(current)) != change.previous:
                raise TransientError(
                    f"the champion is version {current or 'none'} by now, not {change.previous}; "
                    "look again and repeat the command"
                )
            number = 1 + sum(
                key.startswith(_HISTORY) for key in ({} if model is None else model.tags)
            )
            key = f"{_HISTORY}{number:06d}.{change.at:%Y%m%dT%H%M%S}"
            self._client.set_registered_model_tag(self._name, key, change.model_dump_json())
            self._client.set_registered_model_alias(self._name, "champion", str(change.version))
            if "challenger" in aliases and int(aliases["challenger"]) == change.version:
                self._client.delete_registered_model_alias(self._name, "challenger")

    def champion_history(self) -> tuple[ChampionChange, ...]:
        """Every recorded change of the champion, oldest first."""
        with self._reading():
            model = self._model()
            tags = {} if model is None else model.tags
            return tuple(
                ChampionChange.model_validate_json(tags[key])
                for key in sorted(tags)
                if key.startswith(_HISTORY)
            )

    # Below: one question to MLflow at a time, always inside `_translated`.

    @cached_property
    def _client(self) -> "MlflowClient":
        _quiet_mlflow()
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)

    def _prepare(self) -> None:
        """Make sure that there is something to talk to; quick to say when there is not."""
        if "_client" in self.__dict__:
            return
        if self._database is None:
            _ask_health(self._uri)
        elif not _has_bytes(self._database):
            with _translated(), locked(self._lock):
                if not _has_bytes(self._database):
                    _create_database(self._database)
        with _translated():
            self._client  # noqa: B018  opens the store, once

    def _follow_files(self, database: Path) -> None:
        """MLflow keeps absolute paths: where the data folder was moved or copied, tell it the new
        ones before anything is written to the old.
        """
        import sqlalchemy

        place = {"name": self._name, "here": self._artifacts.as_uri()}
        engine = sqlalchemy.create_engine(f"sqlite:///{database}")
        with engine.begin() as connection:
            place["was"] = connection.scalar(
                sqlalchemy.text("SELECT artifact_location FROM experiments WHERE name = :name"),
                place,
            )
            if place["was"] not in (None, place["here"]):
                for change in (
                    "UPDATE experiments SET artifact_location = :here WHERE name = :name",
                    "UPDATE runs SET artifact_uri = :here || substr(artifact_uri, length(:was) + 1)"
                    " WHERE substr(artifact_uri, 1, length(:was)) = :was",
                ):
                    connection.execute(sqlalchemy.text(change), place)
        engine.dispose()

    def _stored(self, run_id: str) -> Path:
        """Where a run's files lie on this machine, whatever path MLflow remembers."""
        return self._artifacts / run_id / "artifacts" / _FOLDER

    @contextmanager
    def _reading(self) -> Iterator[None]:
        self._prepare()
        with _translated():
            yield

    def _model(self) -> "RegisteredModel | None":
        found = self._client.search_registered_models(f"name = '{self._name}'")
        return self._client.get_registered_model(self._name) if found else None

    def _version(self, number: int) -> "MlflowVersion | None":
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_model_version(self._name, str(number))
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def _version_of(self, fingerprint: str) -> "MlflowVersion | None":
        """The version that carries the fingerprint; the first, where two machines raced."""
        found = self._client.search_model_versions(
            f"name = '{self._name}' and tags.`spira.fingerprint` = '{_checked(fingerprint)}'"
        )
        return min(found, key=lambda version: int(version.version), default=None)

    def _run_of(self, fingerprint: str) -> "Run":
        """The run that carries the fingerprint, from an earlier attempt or new."""
        client = self._client
        experiment = client.get_experiment_by_name(self._name)
        if experiment is None:
            # A server puts the files of runs where its operator decided.
            place = None if self._database is None else self._artifacts.resolve().as_uri()
            identity = client.create_experiment(self._name, artifact_location=place)
        else:
            identity = experiment.experiment_id
        found = client.search_runs(
            [identity], f"tags.`spira.fingerprint` = '{_checked(fingerprint)}'"
        )
        if found:
            return min(found, key=lambda run: (run.info.start_time, run.info.run_id))
        return client.create_run(
            identity,
            run_name=f"publish {fingerprint[:12]}",
            tags={"spira.fingerprint": fingerprint},
        )

    def _log(self, run: "Run", metrics: Mapping[str, float], parameters: Mapping[str, str]) -> None:
        """All figures and parameters, in as few requests as MLflow allows (40 times faster)."""
        from mlflow.entities import Metric, Param

        logged_at = run.info.start_time  # the same at every attempt, so that nothing is doubled
        figures = [
            Metric(name, value, logged_at, 0)
            for name, value in metrics.items()
            if math.isfinite(value)
        ]
        settings = [Param(name, _shortened(value)) for name, value in parameters.items()]
        for start in range(0, max(len(figures), len(settings)), _BATCH):
            chunk = slice(start, start + _BATCH)
            self._client.log_batch(run.info.run_id, metrics=figures[chunk], params=settings[chunk])

    def _store_files(self, run: "Run", bundle: Path, files: Mapping[str, str]) -> dict[str, str]:
        """Copy the bundle into the run, report first; returns the digest of what was added."""
        for name in sorted(files, key=lambda name: (name not in _FIRST_FILES, name)):
            folder = str(PurePosixPath(_FOLDER, name).parent)
            self._client.log_artifact(run.info.run_id, str(bundle / name), folder)
        with tempfile.TemporaryDirectory() as scratch:
            described = Path(scratch, "MLmodel")
            described.write_bytes(_mlmodel(bundle / "model.onnx", run, self._name))
            self._client.log_artifact(run.info.run_id, str(described), _FOLDER)
            digest = _sha256(described)
        self._client.set_terminated(run.info.run_id)
        return {"MLmodel": digest}

    def _repair(self, version: "MlflowVersion", bundle: Path, files: Mapping[str, str]) -> None:
        """Store a published bundle's files once more where the registry's folder lost them."""
        run = self._client.get_run(str(version.run_id))
        stored = self._stored(run.info.run_id)
        promised: dict[str, str] = json.loads(version.tags["spira.files"])
        if _damaged(stored, promised) is not None and files.items() <= promised.items():
            self._store_files(run, bundle, files)

    def _fetch(self, version: ModelVersion, scratch: Path) -> Path:
        if self._database is not None:
            if not self._stored(version.run_id).is_dir():
                raise _gone(version)
            return Path(shutil.copytree(self._stored(version.run_id), scratch / _FOLDER))
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        place = f"{self._client.get_run(version.run_id).info.artifact_uri}/{_FOLDER}"
        try:
            # Not `client.download_artifacts`, which calls a full disk a missing file.
            return Path(download_artifacts(place, dst_path=str(scratch), tracking_uri=self._uri))
        except (OSError, MlflowException) as error:
            gone = getattr(error, "errno", 0) in (None, errno.ENOENT)
            if not gone and getattr(error, "error_code", "") != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise _gone(version) from error

    def _create_version(
        self,
        run: "Run",
        fingerprint: str,
        evidence_level: EvidenceLevel,
        files: Mapping[str, str],
        tags: Mapping[str, str],
    ) -> "MlflowVersion":
        if self._model() is None:
            self._client.create_registered_model(self._name)
        made = self._client.create_model_version(
            self._name,
            source=f"runs:/{run.info.run_id}/{_FOLDER}",
            run_id=run.info.run_id,
            tags={
                **tags,
                "spira.fingerprint": fingerprint,
                "spira.evidence_level": evidence_level,
                "spira.files": json.dumps(files, sort_keys=True),
            },
        )
        # The lock holds on one machine. Where another machine published the same model on the
        # same server in this very moment, both see both, and the later one withdraws.
        first = self._version_of(fingerprint)
        if first is not None and first.version != made.version:
            self._client.delete_model_version(self._name, made.version)
            return first
        return made

    def _described(self, version: "MlflowVersion", model: "RegisteredModel") -> ModelVersion:
        assert version.run_id is not None  # it carries our fingerprint, so we gave it one
        run = self._client.get_run(version.run_id)
        number = int(version.version)
        return ModelVersion(
            version=number,
            aliases=tuple(
                sorted(alias for alias, at in model.aliases.items() if int(at) == number)
            ),
            fingerprint=version.tags["spira.fingerprint"],
            evidence_level=cast(EvidenceLevel, version.tags["spira.evidence_level"]),
            created_at=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC),
            metrics=dict(run.data.metrics),
            parameters=dict(run.data.params),
            tags={
                key: value for key, value in version.tags.items() if not key.startswith("spira.")
            },
            files=json.loads(version.tags["spira.files"]),
            run_id=version.run_id,
        )


def _gone(version: ModelVersion) -> IntegrityError:
    return IntegrityError(
        f"model {version.version}: its files are gone from the registry; run `spira stage publish` "
        "of its experiment again"
    )


def _has_bytes(database: Path) -> bool:
    return database.exists() and database.stat().st_size > 0


def _checked(fingerprint: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", fingerprint):
        raise InputError(f"{fingerprint!r} is not a fingerprint of 64 hexadecimal digits")
    return fingerprint


def _shortened(value: str) -> str:
    """MLflow keeps 6,000 characters of a parameter; the whole experiment is in the bundle."""
    return (
        value if len(value) <= _PARAMETER_CHARACTERS else value[: _PARAMETER_CHARACTERS - 1] + "…"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digests(bundle: Path) -> dict[str, str]:
    """Name -> SHA-256 of every file of a bundle; InputError names what is missing of it."""
    missing = [name for name in _NEEDED_FILES if not (bundle / name).is_file()]
    if missing:
        raise InputError(f"model bundle {bundle.name}: {', '.join(missing)} missing")
    return {
        path.relative_to(bundle).as_posix(): _sha256(path)
        for path in sorted(bundle.rglob("*"))
        if path.is_file()
    }


def _damaged(folder: Path, files: Mapping[str, str]) -> str | None:
    """The first file that is missing or has other bytes than it should; None where all is well."""
    for name, digest in files.items():
        path = folder / name
        if not path.is_file() or _sha256(path) != digest:
            return name
    return None


def _mlmodel(network: Path, run: "Run", name: str) -> bytes:
    """MLflow's description of an ONNX model, with its signature, so that its users find both.

    Written here because `mlflow.onnx` and `mlflow.models.ModelSignature` need pandas, which
    the small MLflow for workers leaves out. A full MLflow reads it (`get_model_info`,
    `mlflow.onnx.load_model`, `mlflow.pyfunc.load_model`).
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        network.read_bytes(), options, providers=["CPUExecutionProvider"]
    )

    def schema(nodes: Any) -> str:
        return json.dumps(
            [
                {
                    "name": node.name,
                    "type": "tensor",
                    "tensor-spec": {
                        "dtype": "float32",
                        "shape": [size if isinstance(size, int) else -1 for size in node.shape],
                    },
                }
                for node in nodes
            ]
        )

    document = {
        "artifact_path": _FOLDER,
        "flavors": {
            "onnx": {
                "data": network.name,
                "providers": ["CPUExecutionProvider"],
            },
            "python_function": {
                "loader_module": "mlflow.onnx",
                "data": network.name,
                "python_version": platform.python_version(),
            },
        },
        "run_id": run.info.run_id,
        "signature": {
            "inputs": schema(session.get_inputs()),
            "outputs": schema(session.get_outputs()),
        },
    }
    return yaml.safe_dump(document, sort_keys=True).encode()


def _quiet_mlflow() -> None:
    """What must hold before MLflow is imported: it sends nothing anywhere, and does not chat."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    for name, value in {
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds; 120 unless told
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # 7 unless told: minutes before a word is said
        "MLFLOW_LOGGING_LEVEL": "CRITICAL",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.ERROR)


def _ask_health(uri: str) -> None:
    """A short question to the server, so that an absent one is known in seconds."""
    import requests

    try:
        requests.get(f"{uri.rstrip('/')}/health", timeout=_ANSWER_WITHIN_S)
    except requests.RequestException as error:
        raise TransientError(_AWAY) from error


def _create_database(database: Path) -> None:
    """MLflow's tables, whole or not at all: made beside the place and then renamed into it."""
    import sqlalchemy
    from mlflow.store.db.utils import _initialize_tables

    database.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=database.parent, prefix="making-") as scratch:
        fresh = Path(scratch, database.name)
        engine = sqlalchemy.create_engine(f"sqlite:///{fresh}")
        _initialize_tables(engine)  # type: ignore[no-untyped-call]
        engine.dispose()
        fresh.rename(database)


@contextmanager
def _translated() -> Iterator[None]:
    """MLflow's errors in our words, without the address, which may hold a password."""
    _quiet_mlflow()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise _in_our_words(error) from error


def _in_our_words(error: Exception) -> SpiraError:
    code = str(getattr(error, "error_code", ""))
    text = str(error)
    if getattr(error, "errno", None) == errno.ENOSPC or "disk is full" in text:
        return TransientError(
            "model registry: the disk is full; free some space and run the same command again"
        )
    if code in ("UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED"):
        return InputError(
            "model registry: the server refuses these credentials; set MLFLOW_TRACKING_TOKEN, or "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    if "API request" in text or isinstance(error, ConnectionError):
        return TransientError(_AWAY)
    if "not a database" in text or "malformed" in text:
        return IntegrityError(
            "model registry: mlflow.db is damaged; restore it from a backup, or move it away and "
            "publish again"
        )
    if "out-of-date database schema" in text:
        return InputError(
            "model registry: mlflow.db was made by another version of MLflow; back it up and run "
            "`mlflow db upgrade` on it"
        )
    if isinstance(error, OSError) or "readonly" in text or "unable to open" in text:
        where = getattr(error, "filename", None) or "its folder"
        return InputError(f"model registry: {where} cannot be read or written")
    return TransientError(
        f"model registry: MLflow failed ({code or type(error).__name__}); run again"
    )
