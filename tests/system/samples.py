"""The sample evaluation of the unit tests, for tests elsewhere."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType


def samples() -> ModuleType:
    """`make_result()` and `make_report(result)` of tests/unit/evaluation."""
    path = Path(__file__).parents[1] / "unit" / "evaluation" / "conftest.py"
    spec = spec_from_file_location("sample_evaluations", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
