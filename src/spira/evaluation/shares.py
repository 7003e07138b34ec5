"""How sure an answer is: of the people who got it in the test, the share that has RI."""

import math
from pathlib import Path

from spira.domain.answers import Outcome
from spira.evaluation.results import read_result
from spira.model.prediction import PresentShare

_PREVALENCE = 0.10  # CLINICAL.md: "if 10 in 100 have it"


def present_shares(bundle: Path) -> dict[Outcome, PresentShare]:
    """What the test says of people with each answer, in the conditions of the operating point.

    Empty where the bundle holds no evaluation; nothing is then said about how sure.
    """
    metrics = bundle / "metrics.json"
    if not metrics.is_file():
        return {}
    result = read_result(metrics)
    noisy = result.operating_point.condition in ("noise", "both")
    people = [found for found in result.conditions if found.level == "participant"]
    people.sort(key=lambda found: (found.condition == "noise") != noisy)
    for value in people[0].predictive_values if people else ():
        if not math.isclose(value.prevalence, _PREVALENCE):
            continue
        shares: dict[Outcome, PresentShare] = {}
        positive, negative = value.positive, value.negative
        if positive.value is not None:
            shares["positive"] = PresentShare(
                value=positive.value,
                low=positive.low,
                high=positive.high,
                prevalence=value.prevalence,
            )
        if negative.value is not None:
            shares["negative"] = PresentShare(
                value=1 - negative.value,
                low=None if negative.high is None else 1 - negative.high,
                high=None if negative.low is None else 1 - negative.low,
                prevalence=value.prevalence,
            )
        return shares
    return {}
