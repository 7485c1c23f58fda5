"""Log one line per event on standard error, as JSON or for a terminal; journald keeps it.

Libraries' messages and tracebacks take the same way, which neither waits nor raises: see LogStream. Of a message that
a library repeats, one a minute is written, and of all libraries' messages LINES_MAX.
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
# Of all libraries, in REPEAT_S.
LINES_MAX = 100
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

    Messages are the same whose text before the insertion of values begins with the same line. `repeated` counts how
    often the message came since it was logged last; `left_out`: how many others were too many since the last event.
    """

    def __init__(self, log: FilteringBoundLogger) -> None:
        super().__init__()
        self._log = log
        # By logger and first line, the oldest first: when it was logged, and how often it came since.
        self._seen: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()
        # The lines of this period, and what came beyond LINES_MAX.
        self._period_at, self._lines, self._left_out = -REPEAT_S, 0, 0

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler. Never raises: what a library logs must not fail because of that."""
        try:
            self._emit(record)
        except Exception as error:  # noqa: BLE001 - the values of a message may raise anything
            self._log.warning("library", library=record.name, message=f"not shown: {type(error).__name__}")

    def _emit(self, record: logging.LogRecord) -> None:
        key, now = (record.name, _template(record).partition("\n")[0]), time.monotonic()
        logged_at, repeated = self._seen.get(key, (-REPEAT_S, 0))
        if now < logged_at + REPEAT_S:
            self._seen[key] = (logged_at, repeated + 1)
            return
        if not self._has_room(now):
            return
        self._seen[key] = (now, 0)
        self._seen.move_to_end(key)
        if len(self._seen) > MESSAGES_MAX:
            self._seen.popitem(last=False)
        more: dict[str, object] = {"repeated": repeated} if repeated else {}
        if self._left_out:
            more["left_out"], self._left_out = self._left_out, 0
        if record.exc_info and record.exc_info[1]:
            more["exception"] = "".join(traceback.format_exception(record.exc_info[1]))[-TEXT_LENGTH_MAX:]
        message = _message(record)[:TEXT_LENGTH_MAX]
        # A library may have levels of its own, in between.
        level = min(record.levelno // 10 * 10, logging.CRITICAL)
        self._log.log(level, "library", library=record.name, message=message, **more)

    def _has_room(self, now: float) -> bool:
        """Count a line of this period; return whether there may be one more. The first one too many is told at once."""
        if now >= self._period_at + REPEAT_S:
            self._period_at, self._lines = now, 0
        self._lines += 1
        if self._lines <= LINES_MAX:
            return True
        self._left_out += 1
        if self._lines == LINES_MAX + 1:
            why = f"more than {LINES_MAX} messages of libraries in {REPEAT_S:g} s; others are left out until then"
            self._log.warning("library_messages_left_out", why=why)
        return False


def _template(record: logging.LogRecord) -> str:
    """Return the message without its values; a name for one that cannot be shown."""
    try:
        return str(record.msg)
    except Exception as error:  # noqa: BLE001 - any object may be logged
        return f"not shown: {type(error).__name__}"


def _message(record: logging.LogRecord) -> str:
    """Return the message with its values, or without them where they cannot be shown."""
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - any object may be a value
        return _template(record)


def _processors(form: str, *, colours: bool) -> list[Processor]:
    renderer: Processor = structlog.processors.JSONRenderer()
    tracebacks: list[Processor] = [structlog.processors.format_exc_info]
    if form == "console":
        renderer, tracebacks = structlog.dev.ConsoleRenderer(colors=colours), []
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
