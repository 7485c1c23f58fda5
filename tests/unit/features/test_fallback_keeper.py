"""Check that ctrmgrd's fallback settings are kept from the first start on, over restarts and full disks."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from random import Random

import pytest
import structlog
import structlog.testing

from kubesyncd.core.fallback_history import FallbackHistory
from kubesyncd.core.model import Timing
from kubesyncd.features.fallback_keeper import FallbackKeeper
from kubesyncd.runtime import fallback_file
from kubesyncd.runtime.codec import Undecodable
from kubesyncd.runtime.context import Runtime
from tests.sim.plain import PlainDisk, PlainFile
from tests.wait import until_async


def keeper(file: PlainFile, *, ctrmgrds: bool = True) -> FallbackKeeper:
    """The keeper of one start of the daemon."""
    runtime = Runtime(lambda: 0.0, lambda: 0.0, Random(1), structlog.get_logger())
    made = FallbackKeeper(
        PlainDisk(file), lambda: ctrmgrds, Timing(backoff_s=0.01, backoff_s_max=0.02), runtime
    )
    made.load()
    return made


async def stored(made: FallbackKeeper, file: PlainFile, wanted: FallbackHistory) -> None:
    """Run the keeper until the file has `wanted`."""
    task = asyncio.create_task(made.run())
    await until_async(lambda: file.data == fallback_file.encode(wanted), "the history is stored")
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_a_switch_of_ctrmgrds_keeps_fallback_off_over_restarts_until_the_field_is_absent() -> None:
    file = PlainFile()
    first = keeper(file)
    assert first.keeps_off("snmp", "false", whole=False), "CONFIG_DB is not complete yet"
    assert not first.keeps_off("snmp", "", whole=False)
    assert first.keeps_off("snmp", "false", whole=True)
    assert not first.keeps_off("lldp", "", whole=True)
    await stored(first, file, FallbackHistory(frozenset({"snmp"}), frozenset({"lldp"})))

    later = keeper(file, ctrmgrds=False)
    assert later.keeps_off("snmp", "false", whole=True)
    assert not later.keeps_off("lldp", "false", whole=True)
    assert not later.keeps_off("snmp", "", whole=True)
    assert not later.keeps_off("snmp", "false", whole=True)
    await stored(later, file, FallbackHistory(settled=frozenset({"snmp", "lldp"})))


async def test_the_history_is_stored_before_any_row_is_read() -> None:
    file = PlainFile()
    await stored(keeper(file), file, FallbackHistory())
    assert keeper(file, ctrmgrds=False).keeps_off("snmp", "false", whole=True)


async def test_a_switch_that_ctrmgrd_never_managed_has_no_history() -> None:
    file = PlainFile()
    made = keeper(file, ctrmgrds=False)
    assert not made.keeps_off("snmp", "false", whole=True)
    assert file.data is None


@pytest.mark.parametrize("file", [PlainFile(b"{"), PlainFile(b"[]"), PlainFile(broken=True)])
def test_a_history_that_cannot_be_read_turns_no_fallback_on(file: PlainFile) -> None:
    with structlog.testing.capture_logs() as logged:
        made = keeper(file, ctrmgrds=False)
    assert made.keeps_off("snmp", "false", whole=False)
    assert [line["log_level"] for line in logged] == ["warning"]


async def test_a_full_disk_is_one_alert_and_the_history_is_stored_later() -> None:
    file = PlainFile(full=True)
    made = keeper(file)
    with structlog.testing.capture_logs() as logged:
        task = asyncio.create_task(made.run())
        await until_async(lambda: any(line.get("alert") for line in logged), "an alert")
        file.full = False
        await until_async(lambda: file.data is not None, "the history is stored")
        task.cancel()
    assert "a restart of kubesyncd may read no_fallback_to_local in another way" in str(logged)


def test_the_file_has_valid_names_only() -> None:
    history = FallbackHistory(frozenset({"snmp", "../x"}), frozenset({"lldp", "A B"}))
    assert fallback_file.decode(fallback_file.encode(history)) == FallbackHistory(
        frozenset({"snmp"}), frozenset({"lldp"})
    )
    with pytest.raises(Undecodable, match="history of fallback"):
        fallback_file.decode(b'{"version": 2}')
