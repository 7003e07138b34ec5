"""The Client API (6): assessments in, receipts and answers out.

`PUT /v1/assessments/{id}` is the whole conversation: it always answers the present state, and the
client repeats it until it holds a receipt. Bytes travel by tus (spira.intake.tus).
"""

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import AfterValidator, Field, StringConstraints

from spira import __version__
from spira.delivery.about import sections
from spira.domain.answers import EVIDENCE_SENTENCES
from spira.domain.forms import Filled, check, json_schema
from spira.domain.frozen import Frozen
from spira.domain.submissions import FormValues, Id, RecordingFile, Submission, each_once
from spira.intake.front import (
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
from spira.intake.keys import LONGEST_NUMBER, KeyRing
from spira.intake.metrics import CountRefusals
from spira.intake.settings import IntakeThresholds
from spira.intake.submissions import Intake
from spira.intake.tokens import Site, Tokens
from spira.serving.answers import About
from spira.serving.assessments import Assessments
from spira.serving.forms import FORMS
from spira.serving.metrics import Metrics
from spira.serving.openapi import describe
from spira.serving.settings import ServingSettings
from spira.serving.taking import taken
from spira.serving.words import NO_MODELS_ANSWER, STATES, stale

_LARGEST_PAGE = 200


class Recording(RecordingFile):
    """A recording of an assessment: never one of spoken consent, which holds a name."""

    utterance: Literal["sentence", "rhyme", "vowel", "ambient_before", "ambient_after"]


class Manifest(Frozen):
    """What a device sends of an assessment."""

    revision: int = Field(ge=1, le=1_000_000)
    form: FormValues
    recordings: Annotated[tuple[Recording, ...], AfterValidator(each_once)] = Field(
        min_length=1, max_length=4
    )
    replaces: Id | None = None


def _numbers(text: str) -> str:
    if not any(map(str.isalnum, unicodedata.normalize("NFKC", text))):
        raise ValueError("has no letter or digit; write the number as it is on the chart")
    return text


class Search(Frozen):
    """A record number, in a body so that it stands in no address or log."""

    record_number: Annotated[
        str, StringConstraints(min_length=1, max_length=LONGEST_NUMBER), AfterValidator(_numbers)
    ] = Field(repr=False)


@dataclass(frozen=True)
class Parts:
    """What the API is made of."""

    intake: Intake
    assessments: Assessments
    tokens: Tokens
    keys: KeyRing
    settings: ServingSettings
    thresholds: IntakeThresholds


def create_api(parts: Parts) -> FastAPI:
    """The ASGI application."""
    app = FastAPI(
        title="SPIRA Client API",
        description="Assessments in, receipts and answers out.",
        version="1",
        redirect_slashes=False,  # a client that followed would show its token elsewhere
        docs_url=None,
        redoc_url=None,
    )
    metrics = Metrics(parts.assessments)
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

    async def told(rows: Sequence[Any]) -> list[dict[str, Any]]:
        model = await to_thread.run_sync(parts.assessments.model)
        return [shown(row, model, parts.settings, datetime.now(UTC)) for row in rows]

    @app.put("/v1/assessments/{id}")
    async def put(
        id: IdInPath, request: Request, site: Of, secret: DeviceSecret, at: DeviceTime = None
    ) -> Response:
        """Announce an assessment, or hear how it stands; at last, its receipt."""
        owner, ahead = owner_of(site, secret), device_ahead(at)
        manifest = await read(request, Manifest)
        not_itself(id, manifest.replaces)
        filled = _filled(manifest.form)
        submission = Submission(
            kind="assessment",
            id=id,
            revision=manifest.revision,
            form=sealed(manifest.form, filled, owner),
            # Plain, as whoever checks them in a child knows them.
            files=tuple(RecordingFile(**dict(one)) for one in manifest.recordings),
            replaces=manifest.replaces,
        )
        rules, by = parts.settings.vital_rules, f"token {site.token_id}"
        return await front.take(
            submission,
            owner,
            filled,
            lambda records: taken(rules, filled, records, by),
            device_ahead=ahead,
            hospital=site.name,
        )

    @app.get("/v1/assessments/{id}")
    async def get(id: IdInPath, request: Request, site: Of) -> Response:
        """One assessment: its state, and its answer once there is one."""
        row = await to_thread.run_sync(parts.assessments.about, id)
        if row is None or row.site != site.name:
            raise Refused("not_found", 404, "there is no such assessment at this site")
        (found,) = await told([row])
        return tagged(request, found, {"Cache-Control": "private, no-cache"})

    @app.get("/v1/assessments")
    async def changes(
        site: Of,
        after: Annotated[int, Query(ge=0, le=2**62)] = 0,
        limit: Annotated[int, Query(ge=1, le=_LARGEST_PAGE)] = 100,
    ) -> JSONResponse:
        """The site's assessments in the order of their last change; go on from `next`."""
        rows = await to_thread.run_sync(parts.assessments.changed_after, site.name, after, limit)
        following = rows[-1].change if rows else after
        body = {"assessments": await told(rows), "next": following}
        return JSONResponse(body, headers={"Cache-Control": "private, no-cache"})

    @app.post("/v1/assessments/search")
    async def search(request: Request, site: Of) -> JSONResponse:
        """The site's assessments of a record number, the latest first; audited."""
        wanted = await read(request, Search)

        def found() -> Sequence[Any]:
            records = parts.keys.record_hashes(site.name, wanted.record_number)
            by = f"token {site.token_id}"
            return parts.assessments.search(site.name, records, by, _LARGEST_PAGE)

        rows = await to_thread.run_sync(found)
        return JSONResponse({"assessments": await told(rows)})

    @app.post("/v1/assessments/{id}/void")
    async def void(id: IdInPath, request: Request, site: Of) -> JSONResponse:
        """It was recorded on the wrong patient: never to be used, and still there to be seen."""
        why = (await read(request, Reason, blank="no_reason")).reason
        by = f"token {site.token_id}"
        row = await to_thread.run_sync(parts.assessments.void, id, site.name, why, by)
        if row is None:
            raise Refused("not_found", 404, "there is no such assessment at this site")
        return JSONResponse((await told([row]))[0])

    @app.get("/v1/forms/assessment")
    def form(request: Request) -> Response:
        """The form in force, as JSON Schema with both languages."""
        latest = max((key for key in FORMS if key[0] == "assessment"), key=lambda key: key[1])
        return tagged(request, json_schema(FORMS[latest]))

    @app.get("/v1/about")
    async def about() -> JSONResponse:
        """What it is for, what it must not be used for, and which model answers."""
        return JSONResponse(
            {
                "version": __version__,
                "model": await to_thread.run_sync(parts.assessments.model),
                "sections": [one.model_dump() for one in sections(parts.settings.vital_rules)],
            }
        )

    @app.get("/metrics")
    async def scrape() -> Response:
        """For Prometheus."""
        return Response(await to_thread.run_sync(metrics.text), media_type=CONTENT_TYPE_LATEST)

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        """Database and objects answer too."""
        await to_thread.run_sync(parts.assessments.oldest_open)
        await to_thread.run_sync(parts.intake.ask_stores)
        return JSONResponse({"ready": True})

    bodies: dict[str, type[Frozen]] = {
        "PUT /v1/assessments/{id}": Manifest,
        "POST /v1/assessments/search": Search,
        "POST /v1/assessments/{id}/void": Reason,
    }
    app.openapi = lambda: describe(app, bodies)  # type: ignore[method-assign]
    return app


def shown(row: Any, model: str | None, settings: ServingSettings, now: datetime) -> dict[str, Any]:
    """An assessment as its site sees it.

    model      that answers; None where there is none
    """
    about = About.model_validate_json(row.about)
    answer = None if row.answer is None else json.loads(row.answer)
    if answer is not None:
        answer.pop("scored", None)  # never a bare probability
        if answer["evidence"] is None:
            answer |= _evidence(settings.demo)
    # Without a model nobody can be asked, and no attempt begins.
    waits = row.state == "queued" and row.attempt == 0 and model is not None
    waiting = STATES["no_model" if model is None else "queued"]
    recorded_at, accepted_at = map(datetime.fromisoformat, (row.recorded_at, row.accepted_at))
    fresh_for = timedelta(hours=settings.stale_after_h)
    answered = answer is not None and answer["outcome"] is not None
    old = stale(recorded_at, accepted_at, now, after=fresh_for, answered=answered)
    stale_after = min(recorded_at, accepted_at) + fresh_for  # whatever a device's clock says
    return {
        "id": row.id,
        "state": "received" if waits else row.state,
        "sentence": waiting.model_dump() if answer is None else answer["sentence"],
        "why": "no model" if answer is None and model is None else None,
        "banner": None if about.banner is None else about.banner.model_dump(),
        "marks": remarks(about.marks),
        "answer": answer,
        "recorded_at": row.recorded_at,
        "answered_at": row.answered_at,
        "stale_after": stale_after.isoformat(timespec="seconds"),
        "stale": None if old is None else old.model_dump(),
        "voided": None
        if row.voided_at is None
        else {"at": row.voided_at, "sentence": STATES["voided"].model_dump()},
        "replaces": row.replaces,
        "replaced_by": None
        if row.replaced_by is None
        else {"id": row.replaced_by, "sentence": STATES["replaced"].model_dump()},
    }


def _evidence(demo: bool) -> dict[str, Any]:
    """What an answer that no model gave says of its evidence."""
    if not demo:
        return {"evidence": NO_MODELS_ANSWER.model_dump()}
    sentence = EVIDENCE_SENTENCES["synthetic"].model_dump()
    return {"evidence_level": "synthetic", "evidence": sentence}


def _filled(form: FormValues) -> Filled:
    known = FORMS.get((form.id, form.version))
    if known is None:
        raise Refused("unknown_form", 400, f"form {form.id} {form.version}: unknown")
    return check(known, form.values)
