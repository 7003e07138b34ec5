"""The Data Collection API (2): visits in, receipts out; what an app needs to ask for them.

`PUT /v1/collection/visits/{id}` is the whole conversation, as in Serving: it always answers the
present state, and the client repeats it until it holds a receipt. Nothing here tells a collector
which label is wanted, or what anybody's label is.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import AfterValidator, AwareDatetime, Field, ValidationError

from spira.collection.balance import wanted_today, weigh
from spira.collection.openapi import describe
from spira.collection.settings import CollectionSettings
from spira.collection.studies import Studies
from spira.collection.visits import Visits, Withdrawn, visit_table
from spira.domain.answers import Sentence
from spira.domain.errors import InputError
from spira.domain.forms import Filled, check, json_schema
from spira.domain.frozen import Frozen
from spira.domain.labels import (
    Breathing,
    Entry,
    Observation,
    ObservationKind,
)
from spira.domain.studies import Study, accepts
from spira.domain.submissions import (
    MOST_FILES,
    FormValues,
    Id,
    RecordingFile,
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


class Withdrawal(Reason):
    """Who withdraws from which study, and why, if they say so."""

    study: str = Field(min_length=1, max_length=32)


class Said(Frozen):
    """What a clinician says of a participant, as a label may rest on it."""

    id: Id  # made by the device: sent twice, it is said once
    study: str = Field(min_length=1, max_length=32)
    participant: Id
    at: AwareDatetime
    kind: ObservationKind
    value: float | None = None
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
    Of = Annotated[Site, Depends(front.site)]  # a type

    @app.put("/v1/collection/visits/{id}")
    async def put(
        id: IdInPath, request: Request, site: Of, secret: DeviceSecret, at: DeviceTime = None
    ) -> Response:
        """Announce a visit, or hear how it stands; at last, its receipt."""
        owner, ahead = owner_of(site, secret), device_ahead(at)
        manifest = await read(request, Manifest)
        visit = manifest.visit
        study = await to_thread.run_sync(_study, parts, visit.study, visit.study_version)
        hospital = _hospital(study, site)
        filled = _filled(study, manifest.form)
        number = filled.identifying.get(RECORD_NUMBER)

        def refuse_what_may_not_be_taken() -> None:
            records = () if number is None else parts.keys.record_hashes(hospital, number)
            parts.visits.require_present(visit.study, visit.participant, records)
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
        by = f"token {site.token_id}"
        return await front.take(
            submission,
            owner,
            filled,
            lambda records: parts.visits.taken(filled, records, by),
            device_ahead=ahead,
            hospital=hospital,
        )

    @app.get("/v1/collection/visits/{id}")
    async def get(id: IdInPath, request: Request, site: Of) -> Response:
        """A visit that was accepted: every version of its form, and its recordings."""
        found = await to_thread.run_sync(parts.visits.about, id, site.name)
        if found is None:
            raise _no_visit()
        return tagged(request, _shown(found), {"Cache-Control": "private, no-cache"})

    @app.post("/v1/collection/visits/{id}/form")
    async def amend(id: IdInPath, request: Request, site: Of) -> JSONResponse:
        """Fill in the form of an accepted visit anew: another version, beside what was sent."""
        wanted = await read(request, Amendment, blank="no_reason")

        def amended() -> dict[str, Any]:
            visit = parts.visits.about(id, site.name)
            if visit is None:
                raise _no_visit()
            study = _study(parts, visit["study"], visit["study_version"])
            filled = _filled(study, wanted.form)
            if filled.refused:
                told = remarks(filled.refused)
                places = [{"where": one["name"], "what": one["sentence"]["en"]} for one in told]
                detail = "; ".join(f"{one['where']}: {one['what']}" for one in places)
                raise Refused("bad_manifest", 400, detail, places=places)
            number = filled.identifying.get(RECORD_NUMBER)
            hospital = _hospital(study, site)
            records = () if number is None else parts.keys.record_hashes(hospital, number)
            version = parts.visits.amend(
                id,
                site.name,
                wanted.form,
                filled,
                records,
                why=wanted.reason,
                by=f"token {site.token_id}",
            )
            return {"version": version, "marks": remarks(filled.marks)}

        return JSONResponse(await to_thread.run_sync(amended))

    @app.post("/v1/collection/participants/{id}/withdraw")
    async def withdraw(id: IdInPath, request: Request, site: Of) -> JSONResponse:
        """A participant withdraws: nothing of theirs is taken or used from now on."""
        wanted = await read(request, Withdrawal, blank="no_reason")

        def withdrawn() -> dict[str, Any]:
            _hospital(_study(parts, wanted.study), site)
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
    async def say(request: Request, site: Of) -> JSONResponse:
        """What a clinician says of a participant; said twice, it is there once."""
        wanted = await read(request, Said)

        def added() -> dict[str, Any]:
            _hospital(_study(parts, wanted.study), site)
            return {"added": bool(_add(parts, wanted, site))}

        return JSONResponse(await to_thread.run_sync(added))

    @app.get("/v1/collection/studies")
    async def studies(request: Request, site: Of) -> Response:
        """The studies in which the site takes part, each as its latest version is."""

        def found() -> list[dict[str, Any]]:
            latest = {one.study.id: one.study for one in parts.studies.list()}
            return [_told(study) for study in latest.values() if study.site(site.name) is not None]

        return tagged(request, {"studies": await to_thread.run_sync(found)})

    @app.get("/v1/collection/studies/{study}/today")
    async def today(study: str, site: Of) -> JSONResponse:
        """Whom a collector should look for: it never says which label is wanted."""

        def found() -> Sentence | None:
            of = _study(parts, study)
            _hospital(of, site)
            return wanted_today(of, _table(parts, study), site=site.name)

        said = await to_thread.run_sync(found)
        return JSONResponse({"sentence": None if said is None else said.model_dump()})

    @app.get("/v1/collection/studies/{study}/balance")
    async def balance(study: str, site: Of) -> JSONResponse:
        """Which strata are missing, and what is becoming a proxy for the label; for the lead."""
        if site.role != "lead":
            raise Refused("not_lead", 403, "a token of the study's lead is needed")

        def found() -> dict[str, Any]:
            of = _study(parts, study)
            return weigh(of, _table(parts, study)).model_dump(mode="json")

        return JSONResponse(await to_thread.run_sync(found))

    @app.get("/metrics")
    async def scrape() -> Response:
        """For Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        """Database and objects answer too."""
        await to_thread.run_sync(parts.studies.list)
        await to_thread.run_sync(parts.intake.uploads.offset, "readyz")
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
    except InputError as error:
        raise Refused("unknown_study", 404, str(error)) from None


def _hospital(study: Study, site: Site) -> str:
    """Whose record numbers the site has.

    raises    Refused where the site takes no part in the study
    """
    found = study.site(site.name)
    if found is None:
        detail = f"site {site.name} takes no part in study {study.id}, version {study.version}"
        raise Refused("unknown_study", 404, detail)
    return found.hospital


def _filled(study: Study, form: FormValues) -> Filled:
    known = study.form(form.id, form.version)
    if known is None:
        detail = f"form {form.id} {form.version}: none of study {study.id} {study.version}"
        raise Refused("unknown_form", 400, detail)
    return check(known, form.values)


def _require_approval(
    parts: Parts, manifest: Manifest, filled: Filled, ahead: timedelta | None
) -> None:
    """raises Refused where the study may not take this in"""
    latest = parts.studies.study(manifest.visit.study)
    recorded_at = max(one.recorded_at for one in manifest.recordings)
    agreed = filled.values.get("consent_form_version")
    why = accepts(
        latest,
        min(recorded_at.astimezone(UTC) - (ahead or timedelta()), datetime.now(UTC)),
        synthetic=manifest.visit.synthetic,
        consent_version=None if agreed is None else str(agreed),
    )
    if why is not None:
        raise Refused("not_approved", 403, why.en, why=why.model_dump())


def _add(parts: Parts, wanted: Said, site: Site) -> int:
    now = datetime.now(UTC)
    try:
        observation = Observation(
            kind=wanted.kind,
            at=wanted.at,
            value=wanted.value,
            code=wanted.code,
            breathing=wanted.breathing,
            method=wanted.method,
        )
        entry = Entry(
            source="clinician",
            origin=site.name,
            name=wanted.id,
            version="1",
            subject=f"participant:{wanted.study}/{wanted.participant}",
            issued=min(now, wanted.at.astimezone(UTC)),
            observation=observation,
            evidence=f"token {site.token_id}",
        )
        return parts.labels.add(
            [entry],
            now,
            also=lambda tables: audit.note(
                tables,
                at=now,
                who=f"token {site.token_id}",
                role="site",
                what="label entry added",
                which=wanted.id,
            ),
        )
    except VersionConflict as error:
        raise Refused("conflict", 409, str(error)) from None
    except (ValidationError, InputError) as error:
        detail = " ".join(str(error).split())
        raise Refused("bad_manifest", 400, detail) from None


def _table(parts: Parts, study: str) -> Any:
    return visit_table(parts.visits, parts.labels, study, parts.settings.balance_policy)


def _no_visit() -> Refused:
    return Refused("not_found", 404, "there is no such visit at this site")


def _shown(visit: Mapping[str, Any]) -> dict[str, Any]:
    """A visit as its site sees it; a record number's hash is nobody's business."""
    named = ("id", "study", "study_version", "participant", "replaces", "recorded_at")
    return {
        **{name: visit[name] for name in named},
        "accepted_at": visit["accepted_at"],
        "doubt": visit["doubt"],
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
