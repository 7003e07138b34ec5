"""Structured logs: one JSON object a line on standard error, for machines that watch SPIRA.

Ids in logs are pseudonyms and fingerprints; no form value, file name or number of a person.
"""

import logging
import sys
from contextlib import suppress

import structlog


class _StandardError:
    """Standard error as it is when it is used; a line that a full disk does not take is lost, and
    what it told of goes on."""

    def write(self, text: str) -> None:
        with suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()


def configure_logs(level: str) -> None:
    """Log from `level` up ("debug", "info", "warning", "error")."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=lambda *_: structlog.PrintLogger(_StandardError()),  # type: ignore[arg-type]
    )
