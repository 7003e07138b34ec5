"""An HTTP API under attack: everything that its OpenAPI document allows and forbids is sent."""

from collections.abc import Mapping
from contextlib import suppress

import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

SEED = 5
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]

# Bytes of an upload are as they come.
schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")


def attack(
    api: FastAPI, token: str, known: Mapping[str, Mapping[str, str]], examples: int
) -> dict[str, set[int]]:
    """What each operation answers to so many requests as the document allows, and as many as it
    forbids; each answer is as the document says, and none is 500 or above.

    known     what is there, by the beginning of an address: its parameters
    """
    schema = schemathesis.openapi.from_asgi("/openapi.json", api)
    answered: dict[str, set[int]] = {}
    for found in schema.get_all_operations():
        operation = found.ok()
        begins = max((one for one in known if operation.path.startswith(one)), default="", key=len)
        there = {
            name: to
            for name, to in known.get(begins, {}).items()
            if f"{{{name}}}" in operation.path
        }
        cases = (
            operation.as_strategy(GenerationMode.POSITIVE),
            operation.as_strategy(GenerationMode.POSITIVE, path_parameters=there),
            operation.as_strategy(GenerationMode.NEGATIVE),
            operation.as_strategy(GenerationMode.NEGATIVE, path_parameters=there),
        )
        for which in cases:
            answered.setdefault(operation.label, set()).update(_ask(which, token, examples))
    return answered


def _ask(cases: SearchStrategy[Case], token: str, examples: int) -> set[int]:
    """Send so many requests; which statuses came back."""
    statuses = set()

    @seed(SEED)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def send(case: Case) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        statuses.add(case.call_and_validate(headers=headers, checks=CHECKS).status_code)

    with suppress(Unsatisfiable):  # nothing can be wrong where nothing can be said
        send()
    return statuses
