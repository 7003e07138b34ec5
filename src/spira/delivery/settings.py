"""Settings of the delivery room."""

from spira.domain.frozen import Frozen


class DeliverySettings(Frozen):
    """How a model becomes champion."""

    # The policy of `spira model promote` where none is named: "demo", "clinical" or a file. The
    # strict one, so that leniency has to be asked for.
    policy: str = "clinical"
