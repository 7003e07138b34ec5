"""Settings of the training room: the machine, never the science (that is the experiment's)."""

from typing import Literal

from pydantic import Field

from spira.domain.frozen import Frozen


class TrainingSettings(Frozen):
    """Where and how training computes. Threads and accelerator enter the fingerprint of `train`."""

    accelerator: Literal["cpu", "cuda"] = "cpu"
    # One thread beside the thread that prepares features is as fast as two on two cores, and the
    # result then agrees between machines that differ only in their number of cores.
    threads: int = Field(default=1, ge=1, le=256)
    checkpoint_every_s: float = Field(default=5.0, ge=0)  # a kill costs at most this much work
    jobs: int = Field(default=2, ge=1, le=64)  # processes that decode, threads that score
