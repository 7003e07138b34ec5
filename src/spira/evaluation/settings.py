"""Settings of the evaluation room: limits and minimum counts, to be signed by a clinician.

The aim and the inconclusive share of the operating point belong to the experiment.
"""

from pydantic import Field

from spira.domain.frozen import Frozen


class EvaluationSettings(Frozen):
    """What an audit must show, and how many people a figure must rest on."""

    # Ten people in a hundred whose answer changes with the ward's noise is what a site would
    # notice; the whole 95 % bound must stay under it, which takes at least 25 people a class.
    noise_change_limit: float = Field(default=0.10, gt=0, lt=1)
    # The noise of the noise audit: the audit's own, so that no experiment can make it easier.
    noise_excerpts: int = Field(default=3, ge=1)
    noise_snr_db_low: float = 10.0
    noise_snr_db_high: float = 25.0
    # An AUROC of 0.65 still calls the two classes apart barely better than a coin; the whole
    # 95 % bound must stay under it, which takes at least 20 people a class.
    auroc_limit: float = Field(default=0.65, gt=0.5, lt=1)
    # People of each class in a subgroup. With ten, even ten right answers only show 0.69.
    subgroup_minimum: int = Field(default=10, ge=1)
    resamples: int = Field(default=2000, ge=200)  # of people, for each bootstrap interval
