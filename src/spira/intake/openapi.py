"""An API to a machine: its OpenAPI document, with everything it is asked and answers.

FastAPI knows paths, parameters and who needs a token. Said here are the bodies, every answer with
its headers, and uploads, which are no routes of FastAPI's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from spira.domain.answers import Sentence
from spira.intake.words import PROBLEMS

_REFS = "#/components/schemas/{model}"
_JSON = "application/json"
_PROBLEM = "application/problem+json"

_PROBLEMS: Mapping[int, str] = {
    400: "Something in the request is not as it should be; `detail` names every place.",
    401: "No token of a site was shown, or it is void.",
    403: "Not for this token, or the study may not take it; `why` says which rule.",
    404: "There is none at this site.",
    408: "The body did not come in time.",
    409: "Already here with other content, or at another offset or version.",
    410: "The participant has withdrawn: erase what is here of them.",
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


ASKED = (400, 401, 503, 507)  # problems of every route that asks for a token
BODY = (*ASKED, 408, 413)  # and of one that reads a body


def describe(
    app: FastAPI,
    bodies: Mapping[str, type[BaseModel]],
    answers: Mapping[str, Mapping[str, Any]],
    schemas: Mapping[str, Any],
    told: Sequence[type[BaseModel]] = (),
) -> dict[str, Any]:
    """The document.

    bodies    what an operation is sent, by its name (`PUT /v1/…`)
    answers   what it answers, beside what every such API does
    schemas   that the answers name
    told      models that the answers name
    """
    found = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    models: list[Any] = [(model, "validation") for model in bodies.values()]
    models += [(model, "serialization") for model in (Sentence, *told)]
    _, defined = models_json_schema(models, ref_template=_REFS)
    found["components"]["schemas"] = {**defined["$defs"], **_schemas(), **schemas}
    of_all = {**_of_every_api(), **answers}
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            name = f"{method.upper()} {path}"
            operation["responses"] = of_all[name]
            if name in bodies:
                schema = ref(bodies[name].__name__)
                operation["requestBody"] = {
                    "required": True,
                    "content": {_JSON: {"schema": schema}},
                }
    found["paths"]["/v1/uploads/{upload}"] = _uploads()
    return found


def of_a_submission() -> dict[str, Any]:
    """What a manifest is answered."""
    return {
        "200": answer("How it stands, or its receipt.", ref("Standing")),
        "202": answer("It is being checked; come again.", ref("Checking"), *_RETRY),
        **problems(*BODY, 404, 409, 429),
    }


def unchanged() -> dict[str, Any]:
    """An answer to who has it already."""
    return {"304": {"description": "As it was under this ETag.", **_with("ETag")}}


def _of_every_api() -> dict[str, Any]:
    return {
        "GET /v1/thresholds": {
            "200": answer(
                "By name.",
                obj(version={"type": "string"}, thresholds={"type": "object"}),
                "ETag",
            ),
            **unchanged(),
        },
        "GET /v1/keys": {
            "200": answer("JWKS (RFC 7517).", obj(keys=array({"type": "object"})), "ETag"),
            **unchanged(),
            **problems(503),
        },
        "GET /healthz": {"200": answer("It answers.", obj(well={"const": True}))},
        "GET /readyz": {
            "200": answer("All answers.", obj(ready={"const": True})),
            **problems(503, 507),
        },
        "GET /metrics": {
            "200": {
                "description": "For Prometheus.",
                "content": {"text/plain": {"schema": {"type": "string"}}},
            },
            **problems(503, 507),
        },
    }


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
                **problems(401, 404, 412, 503, 507),
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
                **problems(400, 401, 404, 409, 412, 413, 415, 503, 507),
            },
        },
        "options": {
            "summary": "Which version of tus",
            "operationId": "options_upload",
            "responses": {"204": {"description": "This.", **_with("Tus-Resumable", "Tus-Version")}},
        },
    }


def _schemas() -> dict[str, Any]:
    sentence, text = ref("Sentence"), {"type": "string"}
    recording: tuple[dict[str, Any], ...] = (
        obj(
            id=text,
            state={"const": "needed"},
            upload_url=text,
            n_bytes={"type": "integer"},
            offset={"type": "integer"},
        ),
        obj(id=text, state={"const": "complete"}),
        obj(id=text, state={"enum": ["dropped", "refused"]}, reason=text, sentence=sentence),
    )
    remarks = array(ref("Remark"))
    return {
        "Remark": obj(name=text, reason=text, sentence=sentence),
        "Standing": {"oneOf": [ref("Incomplete"), ref("Accepted")]},
        "Incomplete": obj(
            state={"const": "incomplete"},
            revision={"type": "integer"},
            sentence=sentence,
            recordings=array({"oneOf": list(recording)}),
            fields=remarks,
            marks=remarks,
        ),
        "Accepted": obj(
            state={"const": "accepted"}, sentence=sentence, receipt=text, marks=remarks
        ),
        "Checking": obj(state={"const": "checking"}, sentence=sentence),
        "Problem": {
            "type": "object",
            "description": "RFC 9457; `code` is for a program, `sentence` for a person.",
            "required": ["type", "title", "status", "detail"],
            "properties": {
                "type": text,
                "title": text,
                "status": {"type": "integer"},
                "detail": text,
                "code": {"enum": sorted(PROBLEMS)},
                "sentence": sentence,
                "places": array(obj(where=text, what=text)),
                "differs": array(text),
                "revision": {"type": "integer"},
                "why": sentence,
                "erase": {"const": True},
            },
            "additionalProperties": False,
        },
    }


def problems(*statuses: int) -> dict[str, Any]:
    """Answers of these statuses."""
    return {
        str(status): {
            "description": _PROBLEMS[status],
            "content": {_PROBLEM: {"schema": ref("Problem")}},
            **_with(*_HEADERS_OF.get(status, ())),
        }
        for status in sorted(statuses)
    }


def answer(description: str, schema: Mapping[str, Any], *headers: str) -> dict[str, Any]:
    """An answer in JSON."""
    return {
        "description": description,
        "content": {_JSON: {"schema": schema}},
        **_with(*headers),
    }


def _with(*headers: str) -> dict[str, Any]:
    return {"headers": {name: _HEADERS[name] for name in headers}} if headers else {}


def _header(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": True, "schema": schema}


def obj(**properties: Any) -> dict[str, Any]:
    """All of these and nothing else: what is answered beside it is found by a test."""
    return {
        "type": "object",
        "required": [*properties],
        "properties": properties,
        "additionalProperties": False,
    }


def array(items: Mapping[str, Any]) -> dict[str, Any]:
    """Any number of these."""
    return {"type": "array", "items": items}


def or_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    """This, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def time() -> dict[str, Any]:
    """A moment, RFC 3339."""
    return {"type": "string", "format": "date-time"}


def ref(name: str) -> dict[str, str]:
    """A schema of the document, by name."""
    return {"$ref": _REFS.format(model=name)}
