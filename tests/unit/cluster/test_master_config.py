"""Read the master's configuration, and keep the last one while Redis does not answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kubesyncd.cluster.master_config import MasterConfigReader
from kubesyncd.core.model import MasterConfig
from kubesyncd.ports import Unavailable
from tests.sim.plain import PlainLog, PlainStore

MASTER = MasterConfig(ip="10.0.0.1")


class Reading:
    """A reader of a plain store; `changes` counts how often it reported a change."""

    def __init__(self, store: PlainStore) -> None:
        self.log = PlainLog()
        self.changes = 0
        self.reader = MasterConfigReader(
            store,  # type: ignore[arg-type]
            os_version=lambda: "202405.7",
            changed=self._changed,
            log=self.log,  # type: ignore[arg-type]
        )

    def _changed(self) -> None:
        self.changes += 1


async def test_each_change_of_the_configuration_is_reported_once() -> None:
    store = PlainStore()
    reading = Reading(store)
    assert reading.reader.master is None
    for config in (MasterConfig(), MASTER, replace(MASTER, port=6444)):
        store.config, before = config, reading.changes
        await reading.reader.read()
        assert reading.reader.master == config
        assert reading.changes > before
        before = reading.changes
        await reading.reader.read()
        assert reading.changes == before


async def test_the_last_configuration_stays_while_redis_does_not_answer() -> None:
    store = PlainStore(config=MASTER)
    reading = Reading(store)
    await reading.reader.read()
    changes, store.down = reading.changes, True
    with pytest.raises(Unavailable):
        await reading.reader.read()
    assert (reading.reader.master, reading.changes) == (MASTER, changes)


async def test_the_switch_is_described_only_for_a_wanted_master() -> None:
    store = PlainStore(config=replace(MASTER, disable=True), metadata={"hwsku": "S 6000"})
    reading = Reading(store)
    await reading.reader.read()
    assert (reading.reader.description, dict(reading.reader.originals)) == ((), {})
    store.config = MASTER
    await reading.reader.read()
    assert "S 6000" in reading.reader.originals.values()
    assert any(each.key == "hwsku" for each in reading.reader.description)


async def test_an_invalid_field_is_logged_once() -> None:
    store = PlainStore(config=replace(MASTER, problems=("invalid port=x",)))
    reading = Reading(store)
    for _ in range(3):
        await reading.reader.read()
    store.config = replace(store.config, ip="10.0.0.2")
    await reading.reader.read()
    assert reading.log.of("master_config") == [{"why": "invalid port=x"}]
