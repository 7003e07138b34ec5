"""Every error SPIRA raises on purpose, split by what the caller does next.

SpiraError
├── InputError            wrong input: correct it and run again (exit 2)
│   └── RecordingRefused  one recording cannot be used; a batch goes on without it
├── PolicyRefused         a rule said no; nothing is broken (exit 3)
├── IntegrityError        stored bytes are not what was stored (exit 70)
└── TransientError        nothing wrong with the input: try again later (exit 75)
    └── StorageFull       a disk or a store has no space left

Exit codes follow sysexits(3) where it has one. A message says where, what was wrong, the value,
and what would be right. It never holds a person's data.
"""

from typing import ClassVar, Literal

RefusalReason = Literal[
    "missing",
    "damaged",
    "not_audio",
    "undecodable",
    "truncated",
    "empty",
    "zeros",
    "not_finite",
    "out_of_scale",
    "too_short",
    "too_long",
    "duplicate",
]


class SpiraError(Exception):
    """The root of the tree."""

    exit_code: ClassVar[int] = 1


class InputError(SpiraError):
    """Wrong input. `mistakes` lists every fault found, so that one run reports them all."""

    exit_code = 2

    def __init__(self, *mistakes: str) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class RecordingRefused(InputError):
    """One recording cannot be used, and why."""

    def __init__(self, reason: RefusalReason, message: str) -> None:
        super().__init__(message)
        self.reason: RefusalReason = reason

    def __reduce__(self) -> tuple[type["RecordingRefused"], tuple[RefusalReason, str]]:
        return type(self), (self.reason, str(self))  # two arguments survive a process pool


class PolicyRefused(SpiraError):
    """A promotion policy or an audit said no."""

    exit_code = 3


class IntegrityError(SpiraError):
    """Stored bytes do not match their digest."""

    exit_code = 70


class TransientError(SpiraError):
    """A disk is full, a server is away: the same command may succeed later."""

    exit_code = 75


class StorageFull(TransientError):
    """A disk or a store has no space left; nothing is half-stored."""
