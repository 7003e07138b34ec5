"""The Data Collection API to a machine: what it answers of visits and studies."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from spira.collection.balance import Balance
from spira.intake import openapi
from spira.intake.openapi import (
    ASKED,
    BODY,
    answer,
    array,
    obj,
    of_a_submission,
    or_null,
    problems,
    ref,
    time,
    unchanged,
)


def describe(app: FastAPI, bodies: Mapping[str, type[BaseModel]]) -> dict[str, Any]:
    """The document.

    bodies    what `PUT /v1/collection/visits/{id}` and others are sent, by their operation
    """
    return openapi.describe(app, bodies, _answers(), _schemas(), [Balance])


def _answers() -> Mapping[str, Mapping[str, Any]]:
    text = {"type": "string"}
    put = of_a_submission()
    return {
        "PUT /v1/collection/visits/{id}": put | problems(403, 410),
        "GET /v1/collection/visits/{id}": {
            "200": answer("The visit.", ref("VisitTaken"), "ETag"),
            **unchanged(),
            **problems(*ASKED, 404),
        },
        "POST /v1/collection/visits/{id}/form": {
            "200": answer(
                "Another version of the form.",
                obj(version={"type": "integer"}, marks=array(ref("Remark"))),
            ),
            **problems(*BODY, 403, 404, 409, 410),
        },
        "POST /v1/collection/participants/{id}/withdraw": {
            "200": answer("Every pseudonym of that person.", obj(participants=array(text))),
            **problems(*BODY, 404),
        },
        "POST /v1/collection/labels": {
            "200": answer(
                "Whether it was new, and whether a visit of the participant is here.",
                obj(
                    added={"type": "boolean"},
                    known={"type": "boolean"},
                    sentence=or_null(ref("Sentence")),
                ),
            ),
            **problems(*BODY, 404, 409, 410),
        },
        "GET /v1/collection/studies": {
            "200": answer("Of the site.", obj(studies=array(ref("StudyTold"))), "ETag"),
            **unchanged(),
            **problems(*ASKED),
        },
        "GET /v1/collection/studies/{study}/today": {
            "200": answer("Whom to look for.", obj(sentence=or_null(ref("Sentence")))),
            **problems(*ASKED, 404),
        },
        "GET /v1/collection/studies/{study}/balance": {
            "200": answer("How the study stands.", ref("Balance")),
            **problems(*ASKED, 403, 404),
        },
    }


def _schemas() -> Mapping[str, Any]:
    sentence, text, at = ref("Sentence"), {"type": "string"}, time()
    number = {"type": "integer"}
    return {
        "VisitTaken": obj(
            id=text,
            study=text,
            study_version=number,
            participant=text,
            replaces=or_null(text),
            recorded_at=at,
            accepted_at=at,
            doubts=array(obj(reason=text, sentence=sentence)),
            missing=array(text),
            forms=array(
                obj(
                    version=number,
                    form=obj(id=text, version=number),
                    values={"type": "object"},
                    at=at,
                    why=or_null(text),
                )
            ),
            recordings=array(
                obj(
                    id=text,
                    utterance=text,
                    sha256=text,
                    mismatches=array(text),
                    findings=array(text),
                )
            ),
        ),
        "StudyTold": obj(
            id=text,
            version=number,
            title=sentence,
            language=text,
            sites=array(obj(name=text, title=sentence)),
            protocol=array({"type": "object"}),
            forms=array({"type": "object"}),
            consents=array({"type": "object"}),
        ),
    }
