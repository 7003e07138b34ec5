"""The safety file says what is dangerous and which test proves its control."""

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
HAZARDS: list[dict[str, Any]] = yaml.safe_load((ROOT / "docs/safety/hazards.yaml").read_text())


def test_there_are_about_fifteen_hazards_each_with_its_own_id() -> None:
    """The file is read, and nothing is in it twice."""
    ids = [hazard["id"] for hazard in HAZARDS]

    assert len(ids) >= 15
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("hazard", HAZARDS, ids=lambda hazard: str(hazard["id"]))
def test_every_hazard_names_cause_control_and_a_test_that_exists(hazard: dict[str, Any]) -> None:
    """A control without a test that proves it is a wish."""
    assert {"id", "hazard", "severity", "cause", "control", "tests"} == set(hazard)
    assert hazard["tests"]
    for test in hazard["tests"]:
        file, _, name = test.partition("::")
        functions = [
            node.name
            for node in ast.walk(ast.parse((ROOT / file).read_text()))
            if isinstance(node, ast.FunctionDef)
        ]
        assert name in functions, test
