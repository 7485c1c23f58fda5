"""Log one line per event on standard error, as JSON or for a terminal; journald keeps it.

Libraries' messages and tracebacks take the same way, which neither waits nor raises: see LogStream. Of a message that
a library repeats, one a minute is written.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, TextIO, cast

import structlog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from structlog.typing import FilteringBoundLogger, Processor

    from kubesyncd.runtime.log_stream import LogStream
    from kubesyncd.settings import LogSettings

REPEAT_S = 60.0
MESSAGES_MAX = 64
TEXT_LENGTH_MAX = 4000


def logger(log: LogSettings, stream: LogStream | None = None) -> FilteringBoundLogger:
    """Create the logger that the settings ask for; `stream`: where to, in place of `sys.stderr`."""
    file = sys.stderr if stream is None else cast("TextIO", stream)
    processors = _processors(log.format, colours=file.isatty())
    if stream is not None:
        stream.lost_line = partial(_lost_line, processors)
    made: FilteringBoundLogger = structlog.wrap_logger(
        structlog.WriteLogger(file),
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[log.level.upper()]
        ),
        cache_logger_on_first_use=True,
    )
    return made


def log_libraries(log: FilteringBoundLogger) -> None:
    """Have `log` take what libraries, asyncio among them, warn of."""
    root = logging.getLogger()
    root.handlers[:] = [LibraryMessages(log)]
    root.setLevel(logging.WARNING)


class LibraryMessages(logging.Handler):
    """Log a library's message as one event, cut to TEXT_LENGTH_MAX; the same one once in REPEAT_S.

    `repeated` counts how often the message came since it was logged last.
    """

    def __init__(self, log: FilteringBoundLogger) -> None:
        super().__init__()
        self._log = log
        # By logger and first line, the oldest first: when it was logged, and how often it came since.
        self._seen: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        text = _message(record)
        key, now = (record.name, text.partition("\n")[0]), time.monotonic()
        logged_at, repeated = self._seen.get(key, (-REPEAT_S, 0))
        if now < logged_at + REPEAT_S:
            self._seen[key] = (logged_at, repeated + 1)
            return
        self._seen[key] = (now, 0)
        self._seen.move_to_end(key)
        if len(self._seen) > MESSAGES_MAX:
            self._seen.popitem(last=False)
        more: dict[str, object] = {"repeated": repeated} if repeated else {}
        if record.exc_info and record.exc_info[1]:
            more["exception"] = "".join(traceback.format_exception(record.exc_info[1]))[-TEXT_LENGTH_MAX:]
        self._log.log(record.levelno, "library", library=record.name, message=text[:TEXT_LENGTH_MAX], **more)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):
        return str(record.msg)


def _processors(form: str, *, colours: bool) -> list[Processor]:
    renderer: Processor = structlog.processors.JSONRenderer()
    tracebacks: list[Processor] = [structlog.processors.format_exc_info]
    if form == "console":
        # Its own choice shows each function's variables, and with them passwords.
        plain = structlog.dev.plain_traceback
        renderer = structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=plain)
        tracebacks = []
    return [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *tracebacks,
        renderer,
    ]


def _lost_line(processors: Sequence[Processor], lines: int, why: str) -> str:
    """Return the line that tells of lost lines of the log."""
    event: object = {"lines": lines, "why": f"the log: {why}", "event": "log_lines_lost"}
    for processor in processors:
        event = processor(None, "warning", cast("dict[str, object]", event))
    return f"{event}\n"
