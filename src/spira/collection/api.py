"""The Data Collection API (2): visits in, receipts out; what an app needs to ask for them.

`PUT /v1/collection/visits/{id}` is the whole conversation, as in Serving: it always answers the
present state, and the client repeats it until it holds a receipt. Nothing here tells a collector
which label is wanted, or what anybody's label is.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import Depends, FastAPI, Request, Response
from fastapi import Path as PathParameter
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import AfterValidator, Field, ValidationError
from sqlalchemy import Connection

from spira.collection.balance import wanted_today, weigh
from spira.collection.openapi import describe
from spira.collection.settings import CollectionSettings
from spira.collection.studies import Studies
from spira.collection.visits import (
    DOUBTS,
    Amended,
    Visits,
    Withdrawn,
    people_table,
    visit_table,
)
from spira.domain.answers import Sentence
from spira.domain.errors import InputError
from spira.domain.fingerprint import fingerprint
from spira.domain.forms import Filled, check, json_schema
from spira.domain.frozen import Frozen
from spira.domain.labels import Breathing, Entry, Observation, ObservationKind, doubt
from spira.domain.studies import Study, accepts
from spira.domain.submissions import (
    MOST_FILES,
    FormValues,
    Id,
    Moment,
    RecordingFile,
    StudyId,
    Submission,
    Visit,
    each_once,
)
from spira.intake import audit
from spira.intake.front import (
    RECORD_NUMBER,
    DeviceSecret,
    DeviceTime,
    Front,
    IdInPath,
    Reason,
    Refused,
    device_ahead,
    not_itself,
    owner_of,
    read,
    remarks,
    sealed,
    tagged,
)
from spira.intake.keys import KeyRing
from spira.intake.metrics import CountRefusals, FrontMetrics
from spira.intake.problems import problem
from spira.intake.settings import IntakeThresholds
from spira.intake.submissions import Intake
from spira.intake.tokens import Site, Tokens
from spira.intake.words import said
from spira.labels.store import Labels, VersionConflict

LABEL_WAITS = Sentence(
    pt="Guardado. Ainda não chegou visita deste participante; vale quando chegar.",
    en="Kept. No visit of this participant has come yet; it counts when one does.",
)
_AGREED = ("research_consent", "consent_form_version")
_SAID_ONCE = "1"  # the version of what a clinician says: another word has another id
_WHERE = {"impossible": "value", "code": "code", "future": "at"}  # what a doubt is about


class Manifest(Frozen):
    """What a device sends of a visit."""

    revision: int = Field(ge=1, le=1_000_000)
    visit: Visit
    form: FormValues
    recordings: Annotated[tuple[RecordingFile, ...], AfterValidator(each_once)] = Field(
        min_length=1, max_length=MOST_FILES
    )
    replaces: Id | None = None


class Amendment(Reason):
    """A form filled in anew, and why."""

    form: FormValues
    version: int = Field(ge=2, le=1_000_000)  # that it makes: one more than the last that was seen


class Withdrawal(Reason):
    """Who withdraws from which study, and why, if they say so."""

    study: StudyId


class Said(Frozen):
    """What a clinician says of a participant, as a label may rest on it."""

    id: Id  # made by the device: sent twice, it is said once
    study: StudyId
    participant: Id
    at: Moment
    kind: ObservationKind
    value: Annotated[float, Field(strict=True)] | None = None
    code: str | None = Field(default=None, max_length=64)
    breathing: Breathing | None = None
    method: Literal["pulse_oximetry", "arterial"] | None = None


@dataclass(frozen=True)
class Parts:
    """What the API is made of."""

    intake: Intake
    studies: Studies
    visits: Visits
    labels: Labels
    tokens: Tokens
    keys: KeyRing
    settings: CollectionSettings
    thresholds: IntakeThresholds


def create_api(parts: Parts) -> FastAPI:
    """The ASGI application."""
    app = FastAPI(
        title="SPIRA Data Collection API",
        description="Visits in, receipts out.",
        version="1",
        redirect_slashes=False,  # a client that followed would show its token elsewhere
        docs_url=None,
        redoc_url=None,
    )
    metrics = FrontMetrics()
    app.add_middleware(CountRefusals, refused=metrics.refused)
    front = Front(
        app,
        parts.intake,
        parts.tokens,
        parts.keys,
        parts.thresholds,
        answer_within_s=parts.settings.checking_answer_s,
        accepted=metrics.accepted,
    )
    Of = Annotated[Site, Depends(front.site)]  # types
    InPath = Annotated[StudyId, PathParameter()]

    @app.put("/v1/collection/visits/{id}")
    async def put(
        id: IdInPath, request: Request, site: Of, secret: DeviceSecret, at: DeviceTime = None
    ) -> Response:
        """Announce a visit, or hear how it stands; at last, its receipt."""
        owner, ahead = owner_of(site, secret), device_ahead(at)
        manifest = await read(request, Manifest)
        not_itself(id, manifest.replaces)
        visit, by = manifest.visit, f"token {site.token_id}"
        study = await to_thread.run_sync(_study, parts, visit.study, visit.study_version)
        hospital = _hospital(study, site)
        filled = _filled(study, manifest.form)

        def refuse_who_has_withdrawn() -> None:
            records = _records(parts, hospital, filled)
            parts.visits.require_present(visit.study, visit.participant, records, by=by)

        def refuse_what_may_not_be_taken() -> None:
            refuse_who_has_withdrawn()
            # What was accepted stays so, whatever becomes of an approval.
            if parts.visits.about(id, site.name) is None:
                _require_approval(parts, manifest, filled, ahead)

        await to_thread.run_sync(refuse_what_may_not_be_taken)
        submission = Submission(
            kind="visit",
            id=id,
            revision=manifest.revision,
            form=sealed(manifest.form, filled, owner),
            files=manifest.recordings,
            replaces=manifest.replaces,
            visit=visit,
        )
        try:
            return await front.take(
                submission,
                owner,
                filled,
                lambda records: parts.visits.taken(filled, records, by, study.protocol),
                device_ahead=ahead,
                hospital=hospital,
            )
        except Withdrawn:  # meanwhile; what that says of earlier visits is taken down
            await to_thread.run_sync(refuse_who_has_withdrawn)
            raise

    @app.get("/v1/collection/visits/{id}")
    async def get(id: IdInPath, request: Request, site: Of) -> Response:
        """A visit that was accepted: every version of its form, its recordings, what is missing,
        and what is in doubt."""

        def found() -> dict[str, Any]:
            visit = parts.visits.about(id, site.name)
            if visit is None:
                raise _no_visit()
            return shown(visit, _study(parts, visit["study"], visit["study_version"]))

        body = await to_thread.run_sync(found)
        return tagged(request, body, {"Cache-Control": "private, no-cache"})

    @app.post("/v1/collection/visits/{id}/form")
    async def amend(id: IdInPath, request: Request, site: Of) -> JSONResponse:
        """Fill in the form of an accepted visit anew: another version, beside what was sent."""
        wanted = await read(request, Amendment, blank="no_reason")

        def amended() -> dict[str, Any]:
            visit = parts.visits.about(id, site.name)
            if visit is None:
                raise _no_visit()
            study = _study(parts, visit["study"], visit["study_version"])
            filled = _filled(study, wanted.form, amended=True)
            if filled.refused:
                told = remarks(filled.refused)
                places = [{"where": one["name"], "what": one["sentence"]["en"]} for one in told]
                detail = "; ".join(f"{one['where']}: {one['what']}" for one in places)
                raise Refused("bad_manifest", 400, detail, places=places)
            if wanted.version > len(visit["forms"]):  # what is here stays so
                _require_agreed(parts, visit, filled)
            # Nobody can send back what the server does not tell: left out, it stays.
            records: Sequence[str] | None = None
            if RECORD_NUMBER in wanted.form.values:
                records = _records(parts, _hospital(study, site), filled)
            try:
                parts.visits.amend(
                    id,
                    site.name,
                    wanted.form,
                    filled,
                    records,
                    wanted.version,
                    why=wanted.reason,
                    by=f"token {site.token_id}",
                )
            except Amended as error:
                raise Refused("amended", 409, str(error)) from None
            return {"version": wanted.version, "marks": remarks(filled.marks)}

        return JSONResponse(await to_thread.run_sync(amended))

    @app.post("/v1/collection/participants/{id}/withdraw")
    async def withdraw(id: IdInPath, request: Request, site: Of) -> JSONResponse:
        """A participant withdraws: nothing of theirs is taken or used from now on."""
        wanted = await read(request, Withdrawal, blank="no_reason")

        def withdrawn() -> dict[str, Any]:
            _takes_part(parts, wanted.study, site)
            names = parts.visits.withdraw(
                wanted.study,
                id,
                why=wanted.reason,
                by=f"token {site.token_id}",
                role="site",
            )
            return {"participants": list(names)}

        return JSONResponse(await to_thread.run_sync(withdrawn))

    @app.post("/v1/collection/labels")
    async def say(request: Request, site: Of, at: DeviceTime) -> JSONResponse:
        """What a clinician says of a participant; said twice, it is there once."""
        # Nobody could say how wrong it is by a clock that is not told.
        ahead = device_ahead(at) or timedelta()
        wanted = await read(request, Said)

        def added() -> dict[str, Any]:
            _takes_part(parts, wanted.study, site)
            by = f"token {site.token_id}"
            parts.visits.require_present(wanted.study, wanted.participant, (), by=by)
            new = _add(parts, wanted, site, ahead, by)
            known = parts.visits.is_known(wanted.study, wanted.participant)
            sentence = None if known else LABEL_WAITS.model_dump()
            return {"added": new, "known": known, "sentence": sentence}

        return JSONResponse(await to_thread.run_sync(added))

    @app.get("/v1/collection/studies")
    async def studies(request: Request, site: Of) -> Response:
        """The studies in which the site takes part, each as its latest version is."""

        def found() -> list[dict[str, Any]]:
            latest = {one.study.id: one.study for one in parts.studies.list()}
            return [_told(study) for study in latest.values() if study.site(site.name) is not None]

        return tagged(request, {"studies": await to_thread.run_sync(found)})

    @app.get("/v1/collection/studies/{study}/today")
    async def today(study: InPath, site: Of) -> JSONResponse:
        """Whom a collector should look for: it never says which label is wanted."""

        def found() -> Sentence | None:
            of = _study(parts, study)
            _hospital(of, site)
            return wanted_today(of, people_table(parts.visits, study), site=site.name)

        said = await to_thread.run_sync(found)
        return JSONResponse({"sentence": None if said is None else said.model_dump()})

    @app.get("/v1/collection/studies/{study}/balance")
    async def balance(study: InPath, site: Of) -> JSONResponse:
        """Which strata are missing, and what is becoming a proxy for the label; for the lead."""
        if site.role != "lead":
            raise Refused("not_lead", 403, "a token of the study's lead is needed")

        def found() -> dict[str, Any]:
            of = _study(parts, study)
            _hospital(of, site)
            policy = parts.settings.balance_policy
            table = visit_table(parts.visits, parts.labels, study, policy)
            return weigh(of, table, policy).model_dump(mode="json")

        return JSONResponse(await to_thread.run_sync(found))

    @app.get("/metrics")
    async def scrape() -> Response:
        """For Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        """Database and objects answer too, and where spoken consents lie."""
        await to_thread.run_sync(parts.studies.list)
        await to_thread.run_sync(parts.intake.ask_stores)
        return JSONResponse({"ready": True})

    @app.exception_handler(Withdrawn)
    async def gone(_: Request, error: Withdrawn) -> JSONResponse:
        return problem(410, str(error), erase=True, **said("withdrawn"))

    bodies: Mapping[str, type[Frozen]] = {
        "PUT /v1/collection/visits/{id}": Manifest,
        "POST /v1/collection/visits/{id}/form": Amendment,
        "POST /v1/collection/participants/{id}/withdraw": Withdrawal,
        "POST /v1/collection/labels": Said,
    }
    app.openapi = lambda: describe(app, bodies)  # type: ignore[method-assign]
    return app


def _study(parts: Parts, id: str, version: int | None = None) -> Study:
    try:
        return parts.studies.study(id, version)
    except InputError:
        raise _unknown_study() from None


def _unknown_study() -> Refused:
    return Refused("unknown_study", 404, "there is no such study, or no such version of it")


def _hospital(study: Study, site: Site) -> str:
    """Whose record numbers the site has.

    raises    Refused where the site takes no part in the study
    """
    found = study.site(site.name)
    if found is None:
        detail = f"site {site.name} takes no part in study {study.id}, version {study.version}"
        raise Refused("unknown_study", 404, detail)
    return found.hospital


def _takes_part(parts: Parts, study: str, site: Site) -> None:
    """See that a site takes part in a study, or did: what it has of participants stays its own.

    raises    Refused
    """
    try:
        versions = parts.studies.versions(study)
    except InputError:
        raise _unknown_study() from None
    if all(one.site(site.name) is None for one in versions):
        _hospital(versions[-1], site)


def _filled(study: Study, form: FormValues, *, amended: bool = False) -> Filled:
    known = study.form(form.id, form.version)
    if known is None:
        detail = f"form {form.id} {form.version}: none of study {study.id} {study.version}"
        raise Refused("unknown_form", 400, detail)
    if amended:  # that nobody agreed to what is here has to be said
        fields = tuple(
            one.model_copy(update={"must_be_yes": False}) if one.name == _AGREED[0] else one
            for one in known.fields
        )
        known = known.model_copy(update={"fields": fields})
    return check(known, form.values)


def _records(parts: Parts, hospital: str, filled: Filled) -> Sequence[str]:
    """The hashes of the record number of a form, under every key; none where it has none."""
    number = filled.identifying.get(RECORD_NUMBER)
    return () if number is None else parts.keys.record_hashes(hospital, number)


def _require_approval(
    parts: Parts, manifest: Manifest, filled: Filled, ahead: timedelta | None
) -> None:
    """raises Refused where the study may not take this in"""
    times = [one.recorded_at.astimezone(UTC) for one in manifest.recordings]
    for recorded_at in (min(times), max(times)):
        at = min(recorded_at - (ahead or timedelta()), datetime.now(UTC))
        _require_accepted(parts, manifest.visit.study, at, manifest.visit.synthetic, filled)


def _require_agreed(parts: Parts, visit: Mapping[str, Any], filled: Filled) -> None:
    """See that a yes to research that was not there before is one to a text that is approved.

    raises    Refused
    """
    before = json.loads(visit["forms"][-1]["used"])
    changed = any(before.get(name) != filled.values.get(name) for name in _AGREED)
    if changed and filled.values.get(_AGREED[0]) is True:
        at = datetime.fromisoformat(visit["recorded_at"])
        _require_accepted(parts, visit["study"], at, visit["synthetic"], filled)


def _require_accepted(
    parts: Parts, study: str, at: datetime, synthetic: bool, filled: Filled
) -> None:
    agreed = filled.values.get("consent_form_version")
    why = accepts(
        parts.studies.study(study),
        at,
        synthetic=synthetic,
        consent_version=None if agreed is None else str(agreed),
    )
    if why is not None:
        raise Refused("not_approved", 403, why.en, why=why.model_dump())


def _add(parts: Parts, wanted: Said, site: Site, ahead: timedelta, by: str) -> bool:
    """Add what a clinician says; False where that is here already.

    raises    Refused where it cannot be true, or something else is here under its id; Withdrawn
    """
    # Times are corrected by a clock that is asked each time: what is compared is what was sent.
    digest = fingerprint(wanted.model_dump(mode="json"))
    before = parts.labels.evidence(site.name, wanted.id, _SAID_ONCE)
    if before is None:
        try:
            _add_new(parts, wanted, site, ahead, by, digest)
        except VersionConflict:  # somebody was quicker
            before = parts.labels.evidence(site.name, wanted.id, _SAID_ONCE)
        else:
            return True
    if before is None or not before.endswith(digest):
        detail = "something else was said under this id; say this one under a new id"
        raise Refused("conflict", 409, detail)
    return False


def _add_new(
    parts: Parts, wanted: Said, site: Site, ahead: timedelta, by: str, digest: str
) -> None:
    now = datetime.now(UTC)
    try:
        observation = Observation(
            kind=wanted.kind,
            at=wanted.at.astimezone(UTC) - ahead,
            value=wanted.value,
            code=wanted.code,
            breathing=wanted.breathing,
            method=wanted.method,
        )
    except ValidationError as error:
        said = error.errors(include_input=False)[0]["msg"]
        raise _untrue("kind", said.removeprefix("Value error, ")) from None
    entry = Entry(
        source="clinician",
        origin=site.name,
        name=wanted.id,
        version=_SAID_ONCE,
        subject=f"participant:{wanted.study}/{wanted.participant}",
        issued=now,
        observation=observation,
        evidence=f"{by} {digest}",
    )
    why = doubt(entry, now)
    if why is not None:
        raise _untrue(_WHERE[why], f"cannot be true ({why})")

    def also(tables: Connection) -> None:
        parts.visits.keep_present(tables, wanted.study, wanted.participant)
        what = "label entry added"
        audit.note(tables, at=now, who=by, role="site", what=what, which=wanted.id)

    parts.labels.add([entry], now, also=also)


def _untrue(where: str, what: str) -> Refused:
    places = [{"where": where, "what": what}]
    return Refused("bad_manifest", 400, f"{where}: {what}", places=places)


def _no_visit() -> Refused:
    return Refused("no_visit", 404, "there is no such visit at this site")


def shown(visit: Mapping[str, Any], study: Study) -> dict[str, Any]:
    """A visit as its site sees it; a record number's hash is nobody's business.

    study     the version that was followed
    """
    named = ("id", "study", "study_version", "participant", "replaces", "recorded_at")
    there = {one["utterance"] for one in visit["recordings"]}
    steps = [one.utterance for one in study.protocol if one.required]
    return {
        **{name: visit[name] for name in named},
        "accepted_at": visit["accepted_at"],
        "doubts": [
            {"reason": one, "sentence": DOUBTS[one].model_dump()} for one in visit["doubts"]
        ],
        "missing": [one for one in steps if one not in there],
        "forms": [
            {
                "version": one["version"],
                "form": {"id": one["form"], "version": one["form_version"]},
                "values": json.loads(one["kept"]),
                "at": one["at"],
                "why": one["why"],
            }
            for one in visit["forms"]
        ],
        "recordings": [
            {
                "id": one["id"],
                "utterance": one["utterance"],
                "sha256": one["sha256"],
                "mismatches": json.loads(one["mismatches"]),
                "findings": []
                if one["described"] is None
                else json.loads(one["described"])["findings"],
            }
            for one in visit["recordings"]
        ],
    }


def _told(study: Study) -> dict[str, Any]:
    """A study as an app needs it: what is asked, said and recorded; never whom it is to find."""
    return {
        "id": study.id,
        "version": study.version,
        "title": study.title.model_dump(),
        "language": study.language,
        "sites": [{"name": one.name, "title": one.title.model_dump()} for one in study.sites],
        "protocol": [step.model_dump(mode="json") for step in study.protocol],
        "forms": [json_schema(form) for form in study.forms],
        "consents": [text.model_dump(mode="json") for text in study.consents],
    }
