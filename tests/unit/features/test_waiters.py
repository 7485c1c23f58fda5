"""Check which kube container passes `container state NAME up kube`."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from kubesyncd.core.asked_start import AskedStart
from kubesyncd.core.model import Mode
from kubesyncd.core.planner import decide
from kubesyncd.features.surroundings import View
from kubesyncd.features.waiters import Waiters
from tests.sim import loop
from tests.unit.core.given import (
    FALLBACK,
    KUBE,
    KUBE2,
    LOCAL,
    NOW,
    ON,
    TIMING,
    down,
    granted,
    kube,
    local,
    look,
    observed,
    up,
)

if TYPE_CHECKING:
    from kubesyncd.core.model import Container
    from kubesyncd.core.record import Record

STOPPED = local(running=False)


def seen(record: Record, *containers: Container) -> View:
    record, facts = look(FALLBACK, record, observed(*containers, label=ON))
    return View(FALLBACK, record, facts, decide(FALLBACK, record, facts, TIMING, NOW, "snmp"), ())


def unwritten(view: View) -> View:
    """The same, and STATE_DB does not show it yet."""
    assert view.observed.row is not None
    row = replace(view.observed.row, docker_id="")
    return replace(view, observed=replace(view.observed, row=row))


def passes(view: View) -> bool:
    """Whether KUBE, which asks, is let through."""

    async def story() -> bool:
        waiters = Waiters("snmp", asyncio.get_running_loop().time, TIMING, asyncio.Event())
        waiters.tell(view)
        try:
            async with asyncio.timeout(60.0):
                await waiters.admitted(KUBE)
        except TimeoutError:
            return False
        return True

    return loop.run(story())


@pytest.mark.parametrize(
    ("view", "let_through"),
    [
        (seen(granted(), STOPPED, kube()), True),
        (seen(up(mode=Mode.READY), STOPPED, kube()), False),
        (seen(granted(grant=KUBE2), kube(), kube(KUBE2)), False),
        (seen(granted(), STOPPED, kube(running=False)), False),
        (seen(granted(), local(), kube()), False),
        (seen(granted(start=AskedStart(LOCAL, STOPPED.started, NOW)), STOPPED, kube()), False),
        # What may have been admitted counts as the owner in a feature that is down, so that the stop ends it.
        (seen(down(mode=Mode.READY, grant=KUBE), STOPPED, kube()), False),
        (unwritten(seen(granted(), STOPPED, kube())), False),
    ],
    ids=[
        "admitted",
        "not admitted",
        "another one is",
        "ended",
        "local runs",
        "local may start",
        "down",
        "row",
    ],
)
def test_a_kube_container_passes_where_it_is_admitted_and_runs_alone(
    view: View, *, let_through: bool
) -> None:
    assert passes(view) is let_through


def test_one_that_waits_passes_once_it_is_admitted() -> None:
    async def story() -> None:
        waiters = Waiters("snmp", asyncio.get_running_loop().time, TIMING, asyncio.Event())
        waiters.tell(seen(up(mode=Mode.READY), STOPPED, kube()))
        asking = asyncio.create_task(waiters.admitted(KUBE))
        await asyncio.sleep(1.0)
        assert (asking.done(), waiters.blocked) == (False, {KUBE})
        waiters.tell(seen(granted(), STOPPED, kube()))
        await asking
        assert waiters.blocked == frozenset()

    loop.run(story())
