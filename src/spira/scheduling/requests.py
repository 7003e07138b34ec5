"""Requests: who asked for which experiment on which dataset version, and what became of it.

This table is the truth; Dagster is the courier. A request is open until its pipeline is complete,
refused by an audit, failed for good, or cancelled. Each run of it is one attempt:

    asked -> open, attempt 1 -> run -> complete | refused | failed | cancelled
                     ^           |
                     +-----------+  the run ended through no fault of the request

At most one request is open for a dataset version and an experiment (its whole document, seed
included): whoever asks for the same joins it. Every asking has a key; the same key asked again
gets the same request, so that a client that heard nothing may repeat itself.
"""

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

import sqlalchemy as sa

from spira.domain.errors import InputError, TransientError
from spira.domain.fingerprint import fingerprint
from spira.stores.database import Database, iso

State = Literal["open", "complete", "refused", "failed", "cancelled"]
STATES: tuple[State, ...] = get_args(State)
Kind = Literal["retrain", "redesign"]
_LONGEST = 500  # characters of what a person writes

_tables = sa.MetaData()
_requests = sa.Table(
    "spira_requests",
    _tables,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("dataset", sa.Text, nullable=False),
    sa.Column("experiment", sa.Text, nullable=False),
    sa.Column("seed", sa.Integer, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("challenger", sa.Boolean, nullable=False),
    sa.Column("registering", sa.Boolean),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("first_attempt", sa.Integer, nullable=False),
    sa.Column("run_id", sa.Text),
    sa.Column("asked_at", sa.Text, nullable=False),
    sa.Column("not_before", sa.Text, nullable=False),
    sa.Column("ended_at", sa.Text),
    sa.Column("outcome", sa.Text),
    sa.Column("stage", sa.Text),
    sa.Column("told_at", sa.Text),
    sa.Index(
        "spira_one_open_request",
        "dataset",
        "digest",
        unique=True,
        sqlite_where=sa.text("state = 'open'"),
        postgresql_where=sa.text("state = 'open'"),
    ),
    sa.Index("spira_requests_by_state", "state", "asked_at"),
)
_askings = sa.Table(
    "spira_askings",
    _tables,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("request", sa.Text, sa.ForeignKey("spira_requests.id"), nullable=False, index=True),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("sweep", sa.Text, index=True),
)
_events = sa.Table(
    "spira_request_events",
    _tables,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("request", sa.Text, sa.ForeignKey("spira_requests.id"), nullable=False, index=True),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("what", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
)


class KeyUsed(InputError):
    """A key was used before, for something else."""


@dataclass(frozen=True)
class Request:
    """One row of the table. Times are ISO 8601, UTC."""

    id: str
    dataset: str  # digest of the dataset version
    experiment: str  # name
    seed: int
    document: str  # the whole experiment as YAML, as it was when it was asked for
    digest: str  # of the document
    kind: Kind  # an experiment that was complete before, or another one
    challenger: bool  # whether the model becomes challenger; a sweep's does not
    registering: bool | None  # what the run took `challenger` to be when it registered the model
    state: State
    attempt: int  # counted from 1
    first_attempt: int  # since it was asked for, or resumed
    run_id: str | None  # of this attempt, once the courier has it
    asked_at: str
    not_before: str
    ended_at: str | None
    outcome: str | None  # in one sentence
    stage: str | None  # that it failed at
    told_at: str | None  # when the notice of a permanent failure went out

    @property
    def tries(self) -> int:
        """Attempts since it was asked for, or resumed."""
        return self.attempt - self.first_attempt + 1

    @property
    def ending(self) -> str:
        """How it ended, and at which stage it failed; empty while it is open."""
        return (f"{self.stage}: " if self.stage else "") + (self.outcome or "")


@dataclass(frozen=True)
class Asking:
    """Somebody asked."""

    key: str
    by: str
    reason: str
    at: str
    sweep: str | None


@dataclass(frozen=True)
class Event:
    """Something happened to a request; events are never changed."""

    at: str
    what: str
    detail: str


@dataclass(frozen=True)
class Asked:
    """The answer to an asking."""

    request: Request
    joined: bool  # it was open already, for somebody else
    repeated: bool  # this key had been used for the same before


class Requests:
    """The table of requests on SQLite or PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, url: str) -> "Requests":
        """The table at `sqlite:////folder/file.db` or `postgresql://user@host/database`."""
        return cls(
            Database.open(
                url,
                what="requests: the database does not answer, or is not there yet; see to it that "
                "it runs and `spira schedule up` has been started once, then try again",
            )
        )

    def create(self) -> None:
        """Make the tables where they are not there."""
        self._database.create(_tables)

    def ask(
        self,
        *,
        key: str,
        body: Mapping[str, Any],
        by: str,
        reason: str,
        dataset: str,
        experiment: str,
        seed: int,
        document: str,
        challenger: bool = True,
        sweep: str | None = None,
        run_id: str | None = None,
    ) -> Asked:
        """Open a request, or join the open one for the same dataset version and experiment.

        key       chosen by whoever asks; the same key and body get the same request again
        body      what was asked for, as it was written
        run_id    of a run that is there already (started from the web page)
        raises    KeyUsed when the key was used with another body; InputError for a reason or a
                  name that is missing or too long; TransientError when the database is away
        """
        _check_words(key=key, by=by, reason=reason)
        digest = fingerprint({"document": document})
        for _ in range(10):  # of two that open the same at once, the second one joins
            try:
                with self._database.writing() as tables:
                    known = self._known(tables, key, body)
                    if known is not None:
                        return known
                    found = tables.execute(
                        sa.select(_requests)
                        .where(
                            _requests.c.dataset == dataset,
                            _requests.c.digest == digest,
                            _requests.c.state == "open",
                        )
                        .with_for_update()  # nobody may end it while we join
                    ).first()
                    now = _now()
                    if found is None:
                        request_id = f"r-{secrets.token_hex(6)}"
                        tables.execute(
                            _requests.insert().values(
                                id=request_id,
                                dataset=dataset,
                                experiment=experiment,
                                seed=seed,
                                document=document,
                                digest=digest,
                                kind=_kind(tables, experiment),
                                challenger=challenger,
                                state="open",
                                attempt=1,
                                first_attempt=1,
                                run_id=run_id,
                                asked_at=now,
                                not_before="",
                            )
                        )
                    else:
                        request_id = found.id
                        if challenger and not found.challenger:
                            tables.execute(_this(request_id).values(challenger=True))
                    tables.execute(
                        _askings.insert().values(
                            key=key,
                            request=request_id,
                            body=fingerprint(dict(body)),
                            by=by,
                            reason=reason,
                            at=now,
                            sweep=sweep,
                        )
                    )
                    _note(tables, request_id, "asked" if found is None else "joined", by)
                    return Asked(_get(tables, request_id), found is not None, repeated=False)
            except sa.exc.IntegrityError:
                continue
        raise TransientError("requests: many ask for the same at once; ask again")

    def known(self, key: str, body: Mapping[str, Any]) -> Asked | None:
        """The request that this key got before.

        raises    KeyUsed when it was for something else
        """
        with self._database.reading() as tables:
            return self._known(tables, key, body)

    def get(self, request_id: str) -> Request:
        """The request with this id.

        raises    InputError when there is none
        """
        with self._database.reading() as tables:
            return _get(tables, request_id)

    def list(self, *, state: State | None = None, limit: int = 1000) -> Sequence[Request]:
        """Requests, the latest first; open ones are listed in the order they were asked for."""
        query = sa.select(_requests).limit(limit)
        if state is not None:
            query = query.where(_requests.c.state == state)
        by_time = _requests.c.asked_at
        query = query.order_by(by_time if state == "open" else by_time.desc(), _requests.c.id)
        with self._database.reading() as tables:
            return [_request(row) for row in tables.execute(query)]

    def latest(self, experiment: str, datasets: Collection[str]) -> Request | None:
        """The latest request for an experiment of this name, however it stands; no sweep's.

        datasets  digests of dataset versions; requests on others do not count
        """
        mine = (_requests.c.experiment == experiment) & _requests.c.dataset.in_(datasets)
        query = (
            sa.select(_requests)
            .where(mine, _requests.c.challenger)
            .order_by(_requests.c.asked_at.desc())
        )
        with self._database.reading() as tables:
            row = tables.execute(query).first()
            return None if row is None else _request(row)

    def askings(self, request_id: str) -> Sequence[Asking]:
        """Who asked, when and why; the first opened the request, the others joined it."""
        query = sa.select(_askings).where(_askings.c.request == request_id).order_by(_askings.c.at)
        with self._database.reading() as tables:
            rows = tables.execute(query).all()
        return [Asking(row.key, row.by, row.reason, row.at, row.sweep) for row in rows]

    def events(self, request_id: str) -> Sequence[Event]:
        """What happened to a request, in order."""
        query = sa.select(_events).where(_events.c.request == request_id).order_by(_events.c.number)
        with self._database.reading() as tables:
            return [Event(row.at, row.what, row.detail) for row in tables.execute(query)]

    def history(self, request_id: str) -> dict[str, Any]:
        """Who asked and what happened, as a document."""
        return {
            "asked": [asdict(asking) for asking in self.askings(request_id)],
            "events": [asdict(event) for event in self.events(request_id)],
        }

    def due(self, limit: int = 100) -> Sequence[Request]:
        """Open requests that wait for a run, in the order they were asked for."""
        waiting = (_requests.c.state == "open") & _requests.c.run_id.is_(None)
        now, time = datetime.now(UTC), _requests.c.not_before
        # Nobody waits for an hour: such a time was written while the clock was wrong.
        come = (time <= iso(now)) | (time > iso(now + timedelta(hours=1)))
        query = (
            sa.select(_requests)
            .where(waiting, come)
            .order_by(_requests.c.asked_at, _requests.c.id)
            .limit(limit)
        )
        with self._database.reading() as tables:
            return [_request(row) for row in tables.execute(query)]

    def counts(self) -> Mapping[State, int]:
        """How many requests are in which state."""
        query = sa.select(_requests.c.state, sa.func.count()).group_by(_requests.c.state)
        with self._database.reading() as tables:
            return {row[0]: row[1] for row in tables.execute(query)}

    def on_its_way(self, request_id: str, attempt: int, run_id: str) -> bool:
        """The courier has this attempt: its run. False where the table has moved on."""
        mine = (_requests.c.attempt == attempt) & (_requests.c.state == "open")
        return self._change(
            request_id,
            mine & _requests.c.run_id.is_(None),
            {"run_id": run_id},
            "run",
            f"attempt {attempt}: run {run_id}",
        )

    def register_as(self, request_id: str) -> bool:
        """Ask, as a run about to register its model, whether it becomes challenger."""
        with self._database.writing() as tables:
            wanted = _get(tables, request_id).challenger
            tables.execute(_this(request_id).values(registering=wanted))
            return wanted

    def again(self, request_id: str, attempt: int, why: str, *, after_s: float = 0.0) -> bool:
        """The attempt ended through no fault of the request: the next one is due."""
        later = datetime.now(UTC) + timedelta(seconds=after_s)
        return self._change(
            request_id,
            (_requests.c.attempt == attempt) & (_requests.c.state == "open"),
            {
                "attempt": attempt + 1,
                "run_id": None,
                "registering": None,
                "not_before": iso(later),
            },
            "next attempt",
            why,
        )

    def end(
        self,
        request_id: str,
        attempt: int,
        state: State,
        outcome: str,
        *,
        stage: str | None = None,
    ) -> bool:
        """The request has ended. False where the table has moved on.

        A request that somebody joined to have its model as challenger, after the run had
        registered it without, is not complete yet: it gets another attempt.
        """
        mine = (_requests.c.attempt == attempt) & (_requests.c.state == "open")
        if state == "complete":
            late = _requests.c.challenger & _requests.c.registering.is_(sa.false())
            if self._change(
                request_id,
                mine & late,
                {"attempt": attempt + 1, "run_id": None, "registering": None},
                "next attempt",
                "it is to become challenger after all",
            ):
                return True
        return self._change(
            request_id,
            mine,
            {"state": state, "ended_at": _now(), "outcome": outcome, "stage": stage},
            state,
            outcome,
        )

    def cancel(self, request_id: str, by: str) -> Request:
        """End an open request; its run is stopped by whoever sees that.

        raises    InputError when there is none, or it has ended
        """
        _check_words(by=by)
        request = self.get(request_id)
        if not self._change(
            request_id,
            _requests.c.state == "open",
            {"state": "cancelled", "ended_at": _now(), "outcome": "cancelled"},
            "cancelled",
            by,
        ):
            raise InputError(f"request {request_id}: it has ended ({request.state})")
        return self.get(request_id)

    def resume(self, request_id: str, by: str) -> Request:
        """Open a request again that failed, was refused or cancelled; done stages stay done.

        raises    InputError when it is open or complete, or another one is open for the same
        """
        _check_words(by=by)
        request, following = self.get(request_id), _requests.c.attempt + 1
        try:
            changed = self._change(
                request_id,
                _requests.c.state.in_(("failed", "refused", "cancelled")),
                {
                    "state": "open",
                    "attempt": following,
                    "first_attempt": following,
                    "run_id": None,
                    "registering": None,
                    "not_before": "",
                    "ended_at": None,
                    "outcome": None,
                    "stage": None,
                    "told_at": None,
                },
                "resumed",
                by,
            )
        except sa.exc.IntegrityError as error:
            raise InputError(
                f"request {request_id}: another one is open for the same dataset version and "
                "experiment; follow that one (spira schedule runs)"
            ) from error
        if not changed:
            raise InputError(f"request {request_id}: nothing to resume, it is {request.state}")
        return self.get(request_id)

    def untold(self) -> Sequence[Request]:
        """Requests that failed or were refused, of which no notice went out yet, as they ended."""
        query = (
            sa.select(_requests)
            .where(_requests.c.state.in_(("failed", "refused")), _requests.c.told_at.is_(None))
            .order_by(_requests.c.ended_at, _requests.c.id)
        )
        with self._database.reading() as tables:
            return [_request(row) for row in tables.execute(query)]

    def told(self, request_id: str) -> None:
        """The notice went out."""
        with self._database.writing() as tables:
            tables.execute(_this(request_id).values(told_at=_now()))

    def prune(self, before: datetime) -> Sequence[str]:
        """Forget requests that ended before a moment; returns their ids."""
        with self._database.writing() as tables:
            ended = _requests.c.ended_at.is_not(None) & (_requests.c.ended_at < iso(before))
            gone = tables.scalars(
                sa.select(_requests.c.id).where(ended, _requests.c.state != "open")
            ).all()
            for table in (_events, _askings):
                tables.execute(table.delete().where(table.c.request.in_(gone)))
            tables.execute(_requests.delete().where(_requests.c.id.in_(gone)))
        return gone

    def _change(
        self,
        request_id: str,
        condition: sa.ColumnElement[bool],
        values: dict[str, Any],
        what: str,
        detail: str,
    ) -> bool:
        """Change the row if the condition holds of it, and write down that it was changed."""
        with self._database.writing() as tables:
            changed = tables.execute(_this(request_id).where(condition).values(values)).rowcount
            if changed:
                _note(tables, request_id, what, detail)
        return bool(changed)

    def _known(self, tables: sa.Connection, key: str, body: Mapping[str, Any]) -> Asked | None:
        row = tables.execute(sa.select(_askings).where(_askings.c.key == key)).first()
        if row is None:
            return None
        if row.body != fingerprint(dict(body)):
            raise KeyUsed(
                f"key {key}: it was used before for something else (request {row.request}); "
                "use another key"
            )
        return Asked(_get(tables, row.request), joined=False, repeated=True)


def _this(request_id: str) -> sa.Update:
    return _requests.update().where(_requests.c.id == request_id)


def _get(tables: sa.Connection, request_id: str) -> Request:
    row = tables.execute(sa.select(_requests).where(_requests.c.id == request_id)).first()
    if row is None:
        raise InputError(f"request {request_id}: there is none; `spira schedule runs` lists them")
    return _request(row)


def _request(row: sa.Row[Any]) -> Request:
    return Request(**{field.name: getattr(row, field.name) for field in fields(Request)})


def _kind(tables: sa.Connection, experiment: str) -> Kind:
    query = sa.select(_requests.c.id).where(
        _requests.c.experiment == experiment, _requests.c.state == "complete"
    )
    return "redesign" if tables.execute(query).first() is None else "retrain"


def _note(tables: sa.Connection, request_id: str, what: str, detail: str) -> None:
    tables.execute(_events.insert().values(request=request_id, at=_now(), what=what, detail=detail))


def _check_words(**words: str) -> None:
    mistakes = [
        f"{name}: 1 to {_LONGEST} characters are needed, these are {len(text.strip())}"
        for name, text in words.items()
        if not 1 <= len(text.strip()) <= _LONGEST
    ]
    mistakes += [
        f"{name}: holds a control character; write it on one line"
        for name, text in words.items()
        if text.strip() and not text.isprintable()
    ]
    if mistakes:
        raise InputError(*mistakes)


def _now() -> str:
    return iso(datetime.now(UTC))
