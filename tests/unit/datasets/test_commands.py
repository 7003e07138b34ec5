"""`spira dataset`: its help tells the truth."""

import re
from typing import Any

import pytest
from click.testing import CliRunner

from spira.datasets.commands import dataset
from spira.synthetic.records import SHORTCUTS, Hospital


def help_of(command: str) -> str:
    """The help of a subcommand, on one line."""
    result = CliRunner().invoke(dataset, [command, "--help"])
    assert result.exit_code == 0
    return " ".join(result.output.split())


@pytest.mark.parametrize(
    ("flag", "field"),
    [
        ("participants", "participants"),
        ("seed", "seed"),
        ("effect", "effect"),
        ("prevalence", "prevalence"),
        ("sites", "sites"),
        ("noise-per-site", "noise_per_site"),
    ],
)
def test_help_states_the_defaults_of_the_hospital(flag: str, field: str) -> None:
    """They stand in the help as text, so that help need not import the hospital."""
    default: Any = Hospital.model_fields[field].default

    stated = re.search(rf"--{flag} \w+ [^()]*\(([^)]*)\)", help_of("synthesize"))

    assert stated is not None
    assert float(stated[1]) == default


def test_help_names_every_shortcut() -> None:
    """One that nobody is told of is as good as none."""
    assert f"({', '.join(SHORTCUTS)})" in help_of("synthesize")
