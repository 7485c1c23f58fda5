"""Check that a verb has one answer, whatever is observed while it is recorded."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from kubesyncd.core import protocol
from kubesyncd.core.actions import StartLocal
from kubesyncd.core.failed_action import FailedAction, kind_of
from kubesyncd.core.model import Row, SystemState
from kubesyncd.core.record import Record
from kubesyncd.core.verbs import Start
from kubesyncd.features.verb_call import VerbCall
from tests.sim import loop
from tests.unit.core.given import LOCAL, LOCAL_CONFIG, NOW, local, observed


async def test_a_start_that_was_given_up_is_answered_so_although_its_container_runs_by_then() -> None:
    call = VerbCall(lambda: NOW, verb_s_max=60.0)
    asked = asyncio.create_task(
        call.carried_out(Start(), record=lambda: None, wake=lambda: None, why=lambda: "")
    )
    await asyncio.sleep(0)
    failed = FailedAction(*kind_of(StartLocal(LOCAL)), "no such program", at=NOW, refused=True)
    stopped = observed(local(running=False), row=Row())
    record = call.accept(LOCAL_CONFIG, Record(), stopped)
    assert record is not None
    record = call.judge(LOCAL_CONFIG, record, replace(stopped, failures=(failed,)))
    assert record.system_state is SystemState.DOWN
    runs = observed(local(), row=Row())
    assert call.judge(LOCAL_CONFIG, record, runs) is record
    call.tell()
    outcome = await asked
    assert (outcome.code, "no such program" in outcome.text) == (1, True)


@pytest.mark.parametrize(
    ("begun", "text"), [(False, "not begun in time: Docker"), (True, "not done in time: Docker")]
)
def test_a_verb_that_is_never_done_is_answered_within_its_time(begun: bool, text: str) -> None:
    async def story() -> None:
        clock = asyncio.get_running_loop().time
        call = VerbCall(clock, verb_s_max=60.0)
        outcome = await call.carried_out(
            Start(),
            record=lambda: asyncio.sleep(1.0) if begun else None,
            wake=lambda: None,
            why=lambda: "Docker does not answer",
        )
        assert (outcome.code, round(clock())) == (protocol.EXIT_TIMED_OUT, 60)
        assert outcome.text.startswith(text)

    loop.run(story())
