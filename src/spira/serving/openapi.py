"""The Client API to a machine: what it answers of assessments."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

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
from spira.serving.answers import Answer
from spira.serving.forms import FORMS

_STATES = ("received", "queued", "completed", "failed")


def describe(app: FastAPI, bodies: Mapping[str, type[BaseModel]]) -> dict[str, Any]:
    """The document.

    bodies    what `PUT /v1/assessments/{id}` and others are sent, by the name of their operation
    """
    found = openapi.describe(app, bodies, _answers(), _schemas(), [Answer])
    ids, versions = zip(*FORMS, strict=True)
    found["components"]["schemas"]["FormValues"]["properties"] |= {
        "id": {"enum": sorted({*ids})},
        "version": {"enum": sorted({*versions})},
    }
    return found


def _answers() -> Mapping[str, Mapping[str, Any]]:
    return {
        "PUT /v1/assessments/{id}": of_a_submission(),
        "GET /v1/assessments/{id}": {
            "200": answer("The assessment.", ref("Assessment"), "ETag"),
            **unchanged(),
            **problems(*ASKED, 404),
        },
        "GET /v1/assessments": {
            "200": answer(
                "In the order of their last change.",
                obj(assessments=array(ref("Assessment")), next={"type": "integer", "minimum": 0}),
            ),
            **problems(*ASKED),
        },
        "POST /v1/assessments/search": {
            "200": answer("The latest first.", obj(assessments=array(ref("Assessment")))),
            **problems(*BODY),
        },
        "POST /v1/assessments/{id}/void": {
            "200": answer("The assessment, struck through.", ref("Assessment")),
            **problems(*BODY, 404),
        },
        "GET /v1/forms/assessment": {
            "200": answer("JSON Schema.", {"type": "object"}, "ETag"),
            **unchanged(),
        },
        "GET /v1/about": {
            "200": answer(
                "What it is for.",
                obj(
                    version={"type": "string"},
                    model=or_null({"type": "string"}),
                    sections=array({"type": "object"}),
                ),
            ),
            **problems(503, 507),
        },
    }


def _schemas() -> Mapping[str, Any]:
    sentence, text, at = ref("Sentence"), {"type": "string"}, time()
    return {
        "Assessment": obj(
            id=text,
            state={"enum": list(_STATES)},
            sentence=sentence,
            why=or_null(text),
            banner=or_null(sentence),
            marks=array(ref("Remark")),
            answer=or_null(ref("Answer")),
            recorded_at=at,
            answered_at=or_null(at),
            stale_after=at,
            stale=or_null(sentence),
            voided=or_null(obj(at=at, sentence=sentence)),
            replaces=or_null(text),
            replaced_by=or_null(obj(id=text, sentence=sentence)),
        ),
    }
