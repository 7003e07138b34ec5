"""Which network, in words: read by experiments, without torch."""

from typing import Annotated, Literal

from pydantic import Field

from spira.domain.frozen import Frozen

SPIRA_CONV_FRAMES = 60  # of a window at least: what its convolutions look at, once


class SpiraConvV2(Frozen):
    """The published network: four convolutions along time, two dense layers.

    source    Casanova et al., Findings of ACL 2021
    """

    kind: Literal["spira_conv_v2"] = "spira_conv_v2"
    dropout_conv: float = Field(default=0.7, ge=0, lt=1)
    dropout_dense: float = Field(default=0.7, ge=0, lt=1)
    standardise: bool = False  # coefficients by training statistics; not published


class Compact(Frozen):
    """Depthwise-separable convolutions over the coefficients, pooled over time; ours."""

    kind: Literal["compact"] = "compact"
    width: int = Field(default=48, ge=8, multiple_of=8)
    dropout_conv: float = Field(default=0.1, ge=0, lt=1)
    dropout_dense: float = Field(default=0.3, ge=0, lt=1)
    standardise: bool = True


Network = Annotated[SpiraConvV2 | Compact, Field(discriminator="kind")]
