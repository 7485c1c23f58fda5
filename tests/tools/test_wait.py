"""Wait for a condition: the first true value is returned, and a limit that passes tells what was awaited."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest

from tests.sim import loop as virtual
from tests.wait import until, until_async


def test_the_first_true_value_is_returned() -> None:
    numbers = count()
    assert until(lambda: next(numbers), pause_s=0.0) == 1


def test_a_limit_that_passes_tells_what_was_awaited_and_seen_last() -> None:
    with pytest.raises(
        AssertionError, match=r"(?s)not seen within 0 s: the third; seen last: \[\].*the log's end"
    ):
        until(list, "the third", 0.0, told=lambda: "the log's end")
    with pytest.raises(AssertionError, match=r"test_wait\.py:\d+; seen last: 0"):
        until(lambda: 0, limit_s=0.0)


def test_waiting_in_virtual_time_takes_no_time_and_looks_may_be_awaited() -> None:
    async def story() -> None:
        begun = asyncio.get_running_loop().time()

        async def later() -> str:
            return "late" if asyncio.get_running_loop().time() - begun >= 3600.0 else ""

        assert await until_async(later, "an hour", 4000.0, 1.0) == "late"
        with pytest.raises(AssertionError, match="not seen within 10 s: a day; seen last: None"):
            await until_async(lambda: None, "a day", 10.0, 1.0)
        with pytest.raises(AssertionError, match="an answer"):
            await until_async(lambda: asyncio.sleep(100.0), "an answer", 10.0)

    virtual.run(story(), 1)


def test_a_timeout_of_the_condition_itself_is_not_taken_for_the_limit() -> None:
    async def look() -> bool:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        virtual.run(until_async(look), 1)
