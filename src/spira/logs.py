"""Structured logs: one JSON object a line on standard error, for machines that watch SPIRA.

Ids in logs are pseudonyms and fingerprints; no form value, file name or number of a person.
"""

import logging
import sys

import structlog


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
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # as it is when it is used
    )
