"""The pydantic base of every value: immutable, and an unknown key is an error."""

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """An immutable value; unknown keys are refused, numbers must be finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Faults(ValueError):
    """What a rule about a whole value finds wrong in it, all at once.

    faults    (keys that lead there, what is wrong); a document tells each with its own line
    """

    def __init__(self, faults: Iterable[tuple[tuple[str | int, ...], str]]) -> None:
        self.faults = tuple(faults)
        super().__init__(
            "; ".join(f"{'.'.join(map(str, keys))}: {said}" for keys, said in self.faults)
        )
