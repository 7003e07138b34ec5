"""The Client API to a machine: its OpenAPI document, with everything it is asked and answers.

FastAPI knows paths, parameters and who needs a token. Said here are the bodies, every answer with
its headers, and uploads, which are no routes of FastAPI's.
"""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from spira.domain.answers import Sentence
from spira.serving.answers import Answer
from spira.serving.forms import FORMS

_REFS = "#/components/schemas/{model}"
_JSON = "application/json"
_PROBLEM = "application/problem+json"
_STATES = ("received", "queued", "completed", "failed")

_PROBLEMS: Mapping[int, str] = {
    400: "Something in the request is not as it should be; `detail` names every place.",
    401: "No token of a site was shown, or it is void.",
    404: "There is none at this site.",
    408: "The body did not come in time.",
    409: "Already here with other content, or at another offset.",
    412: "Another version of tus.",
    413: "More bytes than are taken.",
    415: "Another content type.",
    429: "Too many of this site are being checked; try again.",
    503: "Not now; try again.",
    507: "No space left.",
}
_RETRY = ("Retry-After",)
_HEADERS_OF = {401: ("WWW-Authenticate",), 429: _RETRY, 503: _RETRY, 507: _RETRY}
_HEADERS: Mapping[str, Mapping[str, Any]] = {
    "ETag": {"description": "Of what is answered.", "schema": {"type": "string"}},
    "Retry-After": {
        "description": "Seconds to wait for.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "Tus-Resumable": {"description": "The version spoken.", "schema": {"const": "1.0.0"}},
    "Tus-Version": {"description": "Versions that are spoken.", "schema": {"const": "1.0.0"}},
    "Upload-Offset": {
        "description": "How many bytes are here.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "Upload-Length": {
        "description": "How many bytes were announced.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "WWW-Authenticate": {"description": "How to show a token.", "schema": {"type": "string"}},
}


def describe(app: FastAPI, bodies: Mapping[str, type[BaseModel]]) -> dict[str, Any]:
    """The document.

    bodies    what `PUT /v1/assessments/{id}` and others are sent, by the name of their operation
    """
    found = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    models = [(model, "validation") for model in bodies.values()]
    _, defined = models_json_schema(
        [*models, (Answer, "serialization"), (Sentence, "serialization")],  # type: ignore[list-item]
        ref_template=_REFS,
    )
    schemas = found["components"]["schemas"] = {**defined["$defs"], **_schemas()}
    ids, versions = zip(*FORMS, strict=True)
    schemas["FormValues"]["properties"] |= {
        "id": {"enum": sorted({*ids})},
        "version": {"enum": sorted({*versions})},
    }
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            name = f"{method.upper()} {path}"
            operation["responses"] = _answers_of(name)
            if name in bodies:
                schema = _ref(bodies[name].__name__)
                operation["requestBody"] = {
                    "required": True,
                    "content": {_JSON: {"schema": schema}},
                }
    found["paths"]["/v1/uploads/{upload}"] = _uploads()
    return found


def _answers_of(name: str) -> dict[str, Any]:
    asked = (400, 401, 503, 507)  # of every route that asks for a token
    body = (*asked, 408, 413)
    answers: Mapping[str, dict[str, Any]] = {
        "PUT /v1/assessments/{id}": {
            "200": _json("How it stands, or its receipt.", _ref("Standing")),
            "202": _json("It is being checked; come again.", _ref("Checking"), *_RETRY),
            **_problems(*body, 404, 409, 429),
        },
        "GET /v1/assessments/{id}": {
            "200": _json("The assessment.", _ref("Assessment"), "ETag"),
            "304": {"description": "As it was under this ETag.", **_with("ETag")},
            **_problems(*asked, 404),
        },
        "GET /v1/assessments": {
            "200": _json(
                "In the order of their last change.",
                _object(
                    assessments=_array(_ref("Assessment")), next={"type": "integer", "minimum": 0}
                ),
            ),
            **_problems(*asked),
        },
        "POST /v1/assessments/search": {
            "200": _json("The latest first.", _object(assessments=_array(_ref("Assessment")))),
            **_problems(*body),
        },
        "POST /v1/assessments/{id}/void": {
            "200": _json("The assessment, struck through.", _ref("Assessment")),
            **_problems(*body, 404),
        },
        "GET /v1/forms/assessment": {"200": _json("JSON Schema.", {"type": "object"})},
        "GET /v1/thresholds": {
            "200": _json(
                "By name.", _object(version={"type": "string"}, thresholds={"type": "object"})
            )
        },
        "GET /v1/keys": {
            "200": _json("JWKS (RFC 7517).", _object(keys=_array({"type": "object"})))
        },
        "GET /v1/about": {
            "200": _json(
                "What it is for.",
                _object(
                    version={"type": "string"},
                    model=_or_null({"type": "string"}),
                    sections=_array({"type": "object"}),
                ),
            ),
            **_problems(503, 507),
        },
        "GET /healthz": {"200": _json("It answers.", _object(well={"const": True}))},
        "GET /readyz": {
            "200": _json("All answers.", _object(ready={"const": True})),
            **_problems(503, 507),
        },
        "GET /metrics": {
            "200": {
                "description": "For Prometheus.",
                "content": {"text/plain": {"schema": {"type": "string"}}},
            },
            **_problems(503, 507),
        },
    }
    return answers[name]


def _uploads() -> dict[str, Any]:
    """The core of tus; that is, of what spira.intake.tus answers."""
    version = _header("Tus-Resumable", {"const": "1.0.0"})
    told = {"Tus-Resumable", "Upload-Offset"}
    secured: Mapping[str, Any] = {"security": [{"HTTPBearer": []}]}
    return {
        "parameters": [
            {
                "name": "upload",
                "in": "path",
                "required": True,
                "description": "As `upload_url` has it.",
                "schema": {"type": "string", "pattern": "^[0-9a-f]{40}$"},
            }
        ],
        "head": {
            "summary": "How much of a recording is here",
            "operationId": "head_upload",
            "parameters": [version],
            **secured,
            "responses": {
                "200": {"description": "So much.", **_with(*sorted(told), "Upload-Length")},
                **_problems(401, 404, 412, 503, 507),
            },
        },
        "patch": {
            "summary": "Add bytes from an offset on",
            "operationId": "patch_upload",
            "parameters": [
                version,
                _header("Upload-Offset", {"type": "integer", "minimum": 0}),
            ],
            **secured,
            "requestBody": {
                "required": True,
                "content": {
                    "application/offset+octet-stream": {
                        "schema": {"type": "string", "format": "binary"}
                    }
                },
            },
            "responses": {
                "204": {"description": "They are here.", **_with(*sorted(told))},
                **_problems(400, 401, 404, 409, 412, 413, 415, 503, 507),
            },
        },
        "options": {
            "summary": "Which version of tus",
            "operationId": "options_upload",
            "responses": {"204": {"description": "This.", **_with("Tus-Resumable", "Tus-Version")}},
        },
    }


def _schemas() -> dict[str, Any]:
    sentence, text, time = _ref("Sentence"), {"type": "string"}, _time()
    recording: tuple[dict[str, Any], ...] = (
        _object(
            id=text,
            state={"const": "needed"},
            upload_url=text,
            n_bytes={"type": "integer"},
            offset={"type": "integer"},
        ),
        _object(id=text, state={"const": "complete"}),
        _object(id=text, state={"enum": ["dropped", "refused"]}, reason=text, sentence=sentence),
    )
    return {
        "Standing": {"oneOf": [_ref("Incomplete"), _ref("Accepted")]},
        "Incomplete": _object(
            state={"const": "incomplete"},
            revision={"type": "integer"},
            sentence=sentence,
            recordings=_array({"oneOf": list(recording)}),
            fields=_array(_object(name=text, reason=text, sentence=sentence)),
        ),
        "Accepted": _object(state={"const": "accepted"}, receipt=text),
        "Checking": _object(state={"const": "checking"}, sentence=sentence),
        "Assessment": _object(
            id=text,
            state={"enum": list(_STATES)},
            sentence=sentence,
            why=_or_null(text),
            banner=_or_null(sentence),
            answer=_or_null(_ref("Answer")),
            recorded_at=time,
            answered_at=_or_null(time),
            stale_after=time,
            stale=_or_null(sentence),
            voided=_or_null(_object(at=time, sentence=sentence)),
            replaces=_or_null(text),
        ),
        "Problem": {
            "type": "object",
            "description": "RFC 9457; `sentence` is for a person.",
            "required": ["type", "title", "status", "detail"],
            "properties": {
                "type": text,
                "title": text,
                "status": {"type": "integer"},
                "detail": text,
                "sentence": sentence,
                "places": _array(_object(where=text, what=text)),
                "differs": _array(text),
                "revision": {"type": "integer"},
            },
            "additionalProperties": False,
        },
    }


def _problems(*statuses: int) -> dict[str, Any]:
    return {
        str(status): {
            "description": _PROBLEMS[status],
            "content": {_PROBLEM: {"schema": _ref("Problem")}},
            **_with(*_HEADERS_OF.get(status, ())),
        }
        for status in sorted(statuses)
    }


def _json(description: str, schema: Mapping[str, Any], *headers: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {_JSON: {"schema": schema}},
        **_with(*headers),
    }


def _with(*headers: str) -> dict[str, Any]:
    return {"headers": {name: _HEADERS[name] for name in headers}} if headers else {}


def _header(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": True, "schema": schema}


def _object(**properties: Any) -> dict[str, Any]:
    """All of these and nothing else: what is answered beside it is found by a test."""
    return {
        "type": "object",
        "required": [*properties],
        "properties": properties,
        "additionalProperties": False,
    }


def _array(items: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _or_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _time() -> dict[str, Any]:
    return {"type": "string", "format": "date-time"}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": _REFS.format(model=name)}
