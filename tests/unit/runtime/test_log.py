"""The log: what a library warns of is logged as events, and a flood of one message is counted."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
from typing import TYPE_CHECKING, Literal

import pytest

from kubesyncd.runtime import log as runtime_log
from kubesyncd.runtime.log import MESSAGES_MAX, TEXT_LENGTH_MAX, log_libraries, logger
from kubesyncd.settings import LogSettings

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What is written on standard error while libraries are logged."""
    root, written = logging.getLogger(), io.StringIO()
    before, level = root.handlers[:], root.level
    monkeypatch.setattr(sys, "stderr", written)
    log_libraries(logger(LogSettings()))
    yield written
    root.handlers[:] = before
    root.setLevel(level)


def logged(stderr: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stderr.getvalue().splitlines()]


async def test_an_uncaught_error_of_a_task_is_one_event_with_its_traceback(
    stderr: io.StringIO,
) -> None:
    error = ValueError("x" * 2 * TEXT_LENGTH_MAX)
    asyncio.get_running_loop().call_exception_handler({"message": "lost", "exception": error})
    (event,) = logged(stderr)
    assert {key: event[key] for key in ("level", "event", "library", "message")} == {
        "level": "error",
        "event": "library",
        "library": "asyncio",
        "message": "lost",
    }
    assert len(str(event["exception"])) == TEXT_LENGTH_MAX


def test_of_a_message_that_is_repeated_one_a_minute_is_logged_with_the_number_of_the_others(
    stderr: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(runtime_log.time, "monotonic", lambda: now[0])
    library = logging.getLogger("asyncio")
    for number in range(500):
        library.error("socket.accept() out of system resource\nsocket: %d", number)
    library.warning("another")
    library.info("of no interest")
    now[0] += runtime_log.REPEAT_S
    library.error("socket.accept() out of system resource\nsocket: %d", 500)
    assert [(event["message"], event.get("repeated", 0)) for event in logged(stderr)] == [
        ("socket.accept() out of system resource\nsocket: 0", 0),
        ("another", 0),
        ("socket.accept() out of system resource\nsocket: 500", 499),
    ]


def test_the_messages_remembered_are_limited(stderr: io.StringIO) -> None:
    library = logging.getLogger("library")
    for number in range(MESSAGES_MAX + 1):
        library.error("message %d", number)
    for number in (0, MESSAGES_MAX):
        library.error("message %d", number)
    assert [event["message"] for event in logged(stderr)][MESSAGES_MAX + 1 :] == ["message 0"]


def test_a_message_with_wrong_arguments_is_logged_as_it_is(stderr: io.StringIO) -> None:
    # pytest's own handler would refuse it.
    logging.getLogger().handlers[0].emit(
        logging.LogRecord("library", logging.ERROR, __file__, 1, "not %s enough %s", ("arguments",), None)
    )
    assert [event["message"] for event in logged(stderr)] == ["not %s enough %s"]


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_no_variable(
    form: Literal["json", "console"], monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(address: str) -> None:
        raise ValueError(f"{len(address)} letters")

    monkeypatch.setattr(sys, "stderr", written := io.StringIO())
    password = "hunter2"
    try:
        connect(f"redis://:{password}@r")
    except ValueError:
        logger(LogSettings(format=form)).exception("reconciler_failed", why="a bug")
    assert "letters" in written.getvalue()
    assert password not in written.getvalue()
