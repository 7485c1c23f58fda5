"""Log one line per event on standard error, as JSON or for a terminal; journald keeps it."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from kubesyncd.settings import LogSettings


def logger(log: LogSettings) -> FilteringBoundLogger:
    """Create the logger that the settings ask for."""
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    tracebacks: list[structlog.typing.Processor] = [structlog.processors.format_exc_info]
    if log.format == "console":
        renderer, tracebacks = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()), []
    made: FilteringBoundLogger = structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *tracebacks,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[log.level.upper()]
        ),
        cache_logger_on_first_use=True,
    )
    return made
