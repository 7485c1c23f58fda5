"""The log: what a library warns of is logged as events, and a flood of one message is counted."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
from typing import TYPE_CHECKING

import pytest

from kubesyncd.runtime import log as runtime_log
from kubesyncd.runtime.log import LINES_MAX, MESSAGES_MAX, TEXT_LENGTH_MAX, log_libraries, logger
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


def test_a_message_with_other_values_is_the_same_one(stderr: io.StringIO) -> None:
    for number in range(200):
        logging.getLogger("library").error("cannot connect to peer %d", number)
    assert [event["message"] for event in logged(stderr)] == ["cannot connect to peer 0"]


def test_the_messages_remembered_are_limited(stderr: io.StringIO) -> None:
    library = logging.getLogger("library")
    messages = [f"message {number}" for number in range(MESSAGES_MAX + 1)]
    for message in (*messages, messages[0], messages[-1]):
        library.error(message)
    assert [event["message"] for event in logged(stderr)][MESSAGES_MAX + 1 :] == ["message 0"]


def test_the_lines_of_all_libraries_are_limited_and_the_others_counted(
    stderr: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(runtime_log.time, "monotonic", lambda: now[0])
    for number in range(LINES_MAX + 50):
        logging.getLogger(f"library{number % 7}").error(f"values are part of message {number}")
    events = logged(stderr)
    assert [event["event"] for event in events] == ["library"] * LINES_MAX + ["library_messages_left_out"]
    assert "more than 100 messages of libraries in 60 s" in str(events[-1]["why"])
    now[0] += runtime_log.REPEAT_S
    logging.getLogger("library").error("one more")
    logging.getLogger("library").error("and one")
    assert [event.get("left_out") for event in logged(stderr)[-2:]] == [50, None]


class Unshowable:
    """A value that raises an error where it is to be shown."""

    def __str__(self) -> str:
        raise RuntimeError("closed")


@pytest.mark.parametrize(
    ("message", "values", "shown"),
    [
        ("not %s enough %s", ("arguments",), "not %s enough %s"),
        ("%(a)s", ({"b": 1},), "%(a)s"),
        ("value: %s", (Unshowable(),), "value: %s"),
        (Unshowable(), (), "not shown: RuntimeError"),
    ],
)
def test_a_message_that_cannot_be_shown_does_not_reach_its_caller(
    stderr: io.StringIO, message: object, values: tuple[object, ...], shown: str
) -> None:
    # pytest's own handler would refuse it.
    record = logging.LogRecord("library", logging.ERROR, __file__, 1, message, values, None)
    logging.getLogger().handlers[0].emit(record)
    assert [event["message"] for event in logged(stderr)] == [shown]


def test_a_level_of_a_library_s_own_is_the_next_lower_one(stderr: io.StringIO) -> None:
    logging.getLogger("library").log(logging.WARNING + 5, "noticed")
    logging.getLogger("library").log(2 * logging.CRITICAL, "on fire")
    assert [(event["level"], event["message"]) for event in logged(stderr)] == [
        ("warning", "noticed"),
        ("critical", "on fire"),
    ]
