"""Check that the ledger restores every record, and survives any content of its file."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubesyncd.core import verbs
from kubesyncd.core.absorb import absorb
from kubesyncd.core.model import FeatureConfig, Owner
from kubesyncd.core.planner import decide
from kubesyncd.core.record import Cause, Exit, Record
from kubesyncd.core.state import HISTORY_MAX
from kubesyncd.features.ledger import Ledger
from kubesyncd.ports import Unavailable
from tests.sim import loop
from tests.sim.plain import PlainDisk, PlainFile
from tests.unit.core.given import (
    FALLBACK,
    HISTORY,
    LOCAL,
    NOW,
    ROLLBACK,
    TIMING,
    down,
    full,
    granted,
    local,
    observed,
    up,
)

BOOT = "a-boot"
# Its local container has ended by itself, with an unknown code.
FULL = replace(full(), exit=Exit(LOCAL, Owner.LOCAL, None, Cause.ITSELF))


def loaded(data: bytes | None, boot_id: str = BOOT) -> tuple[Ledger, str]:
    ledger = Ledger(PlainDisk(PlainFile(data)), boot_id)
    return ledger, ledger.load()


def save(ledger: Ledger, *what: Any) -> None:
    asyncio.run(ledger.save(*what))


def written(record: Record = FULL, config: FeatureConfig = ROLLBACK, name: str = "snmp") -> bytes:
    file = PlainFile()
    ledger = Ledger(PlainDisk(file), BOOT)
    ledger.config_loaded = True
    save(ledger, name, record, config, HISTORY)
    assert file.data is not None
    return file.data


def test_everything_comes_back() -> None:
    ledger, problem = loaded(written())
    assert problem == ""
    assert ledger.records == {"snmp": FULL}
    assert ledger.configs == {"snmp": ROLLBACK}
    assert ledger.histories == {"snmp": HISTORY}
    assert ledger.config_loaded
    assert not ledger.first


def test_no_file_is_the_first_start_of_a_boot() -> None:
    ledger, problem = loaded(None)
    assert (problem, ledger.first, ledger.records, ledger.config_loaded) == ("", True, {}, False)


def test_a_ledger_of_another_boot_is_ignored_silently() -> None:
    ledger, problem = loaded(written(), "another-boot")
    assert (problem, ledger.first, ledger.records, ledger.configs) == ("", True, {}, {})


def test_nothing_is_written_where_nothing_changed() -> None:
    file = PlainFile()
    ledger = Ledger(PlainDisk(file), BOOT)
    save(ledger, "snmp", FULL, ROLLBACK)
    save(ledger, "snmp", FULL, ROLLBACK)
    assert file.saves == 1
    assert not ledger.first
    again = Ledger(PlainDisk(PlainFile(file.data)), BOOT)
    again.load()
    save(again, "snmp", FULL, ROLLBACK)
    save(ledger, "snmp", Record(), ROLLBACK)
    save(ledger, "lldp", Record(), ROLLBACK)
    assert file.saves == 3


def test_a_history_is_written_with_its_record_and_never_for_its_own_sake() -> None:
    file = PlainFile()
    ledger = Ledger(PlainDisk(file), BOOT)
    save(ledger, "snmp", FULL, ROLLBACK)
    save(ledger, "snmp", FULL, ROLLBACK, HISTORY)
    assert file.saves == 1
    save(ledger, "snmp", Record(), ROLLBACK, HISTORY)
    assert loaded(file.data)[0].histories == {"snmp": HISTORY}
    asyncio.run(ledger.forget("snmp"))
    assert loaded(file.data)[0].histories == {}


@pytest.mark.parametrize(
    "history", [None, "long", [{"at": "then"}], [{"at": 1.0, "source": "LIMBO"}], [[1.0]]]
)
def test_an_unreadable_history_loses_only_itself(history: Any) -> None:
    tree = json.loads(written())
    tree["features"]["snmp"]["history"] = history
    ledger, problem = loaded(json.dumps(tree).encode())
    assert (problem, ledger.records, ledger.histories) == ("", {"snmp": FULL}, {"snmp": ()})


def test_a_history_is_read_as_far_as_one_is_kept() -> None:
    tree = json.loads(written())
    tree["features"]["snmp"]["history"] *= HISTORY_MAX
    ledger, _ = loaded(json.dumps(tree).encode())
    assert ledger.histories["snmp"] == HISTORY * (HISTORY_MAX // 2)


def test_a_full_disk_is_reported_and_the_same_entry_is_tried_again() -> None:
    file = PlainFile()
    ledger = Ledger(PlainDisk(file), BOOT)
    save(ledger, "snmp", Record(), ROLLBACK)
    file.full = True
    for name in ("snmp", "lldp"):
        with pytest.raises(Unavailable):
            save(ledger, name, FULL, ROLLBACK)
        assert ledger.records[name] == FULL
    file.full = False
    save(ledger, "lldp", FULL, ROLLBACK)
    save(ledger, "snmp", FULL, ROLLBACK)
    assert loaded(file.data)[0].records == {"lldp": FULL, "snmp": FULL}


def test_changes_during_a_write_share_the_next_one_and_each_waits_for_its_own() -> None:
    file = PlainFile()

    async def story() -> None:
        ledger = Ledger(PlainDisk(file, slow_s=1.0), BOOT)
        begun = asyncio.get_running_loop().time()
        stored: dict[str, float] = {}

        async def store(name: str) -> None:
            await ledger.save(name, FULL, ROLLBACK)
            stored[name] = asyncio.get_running_loop().time() - begun
            assert name in loaded(file.data)[0].records, "it is in the file when the call returns"

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(store("snmp"))
            await asyncio.sleep(0.5)
            for number in range(10):
                tasks.create_task(store(f"f{number}"))
        assert stored.pop("snmp") == pytest.approx(1.0, abs=0.1)
        assert all(taken == pytest.approx(2.0, abs=0.1) for taken in stored.values())
        assert file.saves == 2

    loop.run(story())


def test_changes_that_share_a_failed_write_all_fail_and_are_written_by_the_next() -> None:
    file = PlainFile(full=True)

    async def story() -> None:
        ledger = Ledger(PlainDisk(file, slow_s=1.0), BOOT)
        saves = [ledger.save(name, FULL, ROLLBACK) for name in ("snmp", "lldp", "bgp")]
        failed = await asyncio.gather(*saves, return_exceptions=True)
        assert [type(error) for error in failed] == [Unavailable] * 3
        assert asyncio.get_running_loop().time() == pytest.approx(2.0, abs=0.1), (
            "the first, and one for the others"
        )
        file.full = False
        await ledger.save("lldp", FULL, ROLLBACK)
        assert set(loaded(file.data)[0].records) == {"snmp", "lldp", "bgp"}
        await ledger.save("snmp", FULL, ROLLBACK)
        assert file.saves == 1

    loop.run(story())


def test_a_cancelled_write_is_repeated_by_the_next() -> None:
    file = PlainFile()

    async def story() -> None:
        ledger = Ledger(PlainDisk(file, slow_s=1.0), BOOT)
        first = asyncio.create_task(ledger.save("snmp", FULL, ROLLBACK))
        second = asyncio.create_task(ledger.save("lldp", FULL, ROLLBACK))
        await asyncio.sleep(0.5)
        first.cancel()
        await second
        assert set(loaded(file.data)[0].records) == {"snmp", "lldp"}

    loop.run(story())


def test_a_feature_that_a_full_disk_keeps_in_the_file_is_kept_in_memory() -> None:
    file = PlainFile()
    ledger = Ledger(PlainDisk(file), BOOT)
    save(ledger, "snmp", FULL, ROLLBACK)
    file.full = True
    with pytest.raises(Unavailable):
        asyncio.run(ledger.forget("snmp"))
    assert ledger.records == loaded(file.data)[0].records == {"snmp": FULL}
    file.full = False
    save(ledger, "lldp", FULL, ROLLBACK)
    assert set(loaded(file.data)[0].records) == {"snmp", "lldp"}
    asyncio.run(ledger.forget("snmp"))
    asyncio.run(ledger.forget("snmp"))
    assert ledger.records.keys() == loaded(file.data)[0].records.keys() == {"lldp"}


def test_a_feature_saved_while_it_is_forgotten_is_forgotten_and_two_requests_succeed() -> None:
    file = PlainFile()

    async def story() -> None:
        ledger = Ledger(PlainDisk(file, slow_s=1.0), BOOT)
        await ledger.save("snmp", FULL, ROLLBACK)
        forgotten = [asyncio.create_task(ledger.forget("snmp")) for _ in range(2)]
        await asyncio.sleep(0.5)
        await asyncio.gather(ledger.save("snmp", Record(), ROLLBACK), *forgotten)
        assert ledger.records == loaded(file.data)[0].records == {}

    loop.run(story())


def test_an_older_daemons_fields_keep_their_defaults_and_a_newer_ones_are_left_out() -> None:
    tree = json.loads(written())
    del tree["features"]["snmp"]["record"]["rolled_back"]
    del tree["features"]["snmp"]["config"]["failure_minutes"]
    tree["features"]["snmp"]["record"]["from_the_future"] = [1]
    tree["features"]["snmp"]["record"]["style"]["from_the_future"] = 1
    ledger, problem = loaded(json.dumps(tree).encode())
    assert problem == ""
    assert ledger.records["snmp"] == Record(**{**_fields(FULL), "rolled_back": False})
    assert ledger.configs["snmp"].failure_minutes == 0


def _fields(record: Record) -> dict[str, Any]:
    return {name: getattr(record, name) for name in Record.__dataclass_fields__}


def test_a_name_that_could_not_be_a_feature_is_left_out() -> None:
    tree = json.loads(written())
    tree["features"]["../../etc"] = tree["features"]["snmp"]
    ledger, problem = loaded(json.dumps(tree).encode())
    assert (problem, set(ledger.records)) == ("", {"snmp"})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"version": 1}',
        b'{"version": 1, "boot_id": "a-boot"}',
        b"9" * 5000,
    ],
)
def test_an_unreadable_file_is_an_empty_ledger_and_a_sentence(data: bytes) -> None:
    ledger, problem = loaded(data, "another-boot")
    assert "is not used" in problem
    assert len(problem) < 200
    assert (ledger.first, ledger.records, ledger.config_loaded) == (True, {}, False)


def test_another_version_is_not_read() -> None:
    tree = json.loads(written())
    tree["version"] = 2
    ledger, problem = loaded(json.dumps(tree).encode())
    assert problem.startswith("the ledger has version 2, not 1, although this boot is not new; what runs")
    assert (ledger.records, ledger.lost, ledger.first) == ({}, True, False)
    other = Ledger(PlainDisk(PlainFile(json.dumps(tree).encode())), "another-boot")
    assert other.load() == "the ledger has version 2, not 1; it is not used"
    assert (other.lost, other.first) == (False, True)


WRONG = {
    "record": {
        "system_state": "sideways",
        "mode": 7,
        "grant": None,
        "granted_at": "soon",
        "proven": 1,
        "exit": {"container_id": "x", "owner": "local", "code": "1", "cause": "stop"},
        "asked": ["x"],
        "style": {"grace_s": "long"},
        "ending_since": float("nan"),
        "idle_since": float("inf"),
        "crashes": True,
        "refuse_until": 10**400,
        "owner_ts": 1.5,
        "failure": ["x" * 10_000],
    },
    "config": {"set_owner": "nobody", "fallback": "yes", "failure_minutes": "x", "failure_policy": "shrug"},
}


@pytest.mark.parametrize(("part", "key"), [(part, key) for part, wrong in WRONG.items() for key in wrong])
def test_a_value_of_the_wrong_type_spoils_the_ledger_not_the_daemon(part: str, key: str) -> None:
    tree = json.loads(written())
    tree["features"]["lldp"] = {"record": {}, "config": {}}
    tree["features"]["snmp"][part][key] = WRONG[part][key]
    ledger, problem = loaded(json.dumps(tree).encode())
    assert problem.startswith("the ledger cannot be read (")
    assert ledger.lost, "it names this boot"
    assert len(problem) < 260
    assert (ledger.records, ledger.configs) == ({}, {})
    # What was thought to be known is known no more: the next save is written.
    file = PlainFile()
    fresh = Ledger(PlainDisk(file), BOOT)
    save(fresh, "snmp", FULL, ROLLBACK)
    assert file.saves == 1


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["up", "kube", "stop"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from([*Record.__dataclass_fields__, *FeatureConfig.__dataclass_fields__])


@settings(max_examples=300)
@given(st.sampled_from(["record", "config"]), KEYS, VALUES)
def test_whatever_is_read_can_be_decided_on(part: str, key: str, value: Any) -> None:
    tree = json.loads(written())
    tree["features"]["snmp"][part][key] = value
    ledger, problem = loaded(json.dumps(tree).encode())
    record, config = ledger.records.get("snmp"), ledger.configs.get("snmp")
    assert (record is None) is bool(problem)
    if record is not None and config is not None:
        record = absorb(record, config, observed(local()), TIMING, NOW)
        decide(config, record, observed(local()), TIMING, NOW, "snmp")
        verbs.wait_code(config, record, observed(), TIMING, NOW, NOW)
        verbs.wait_follows(config, record, observed())
        assert loaded(written(record, config))[0].records["snmp"] == record


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_file_never_stops_the_daemon(data: st.DataObject) -> None:
    whole = bytearray(written(up(), FALLBACK))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    loaded(bytes(whole[:cut]))
    loaded(bytes(whole))


def test_a_feature_dropped_on_a_full_disk_leaves_the_file_with_the_next_observation() -> None:
    async def story() -> None:
        file = PlainFile()
        ledger = Ledger(PlainDisk(file), "boot")
        for name in ("snmp", "tap"):
            await ledger.save(name, up(), FeatureConfig())
        ledger.drop("tap")
        assert b"tap" in (file.data or b"")
        await ledger.save("snmp", up(), FeatureConfig())
        assert b"tap" not in (file.data or b"")
        saves = file.saves
        await ledger.save("snmp", up(), FeatureConfig())
        assert file.saves == saves, "once"

    asyncio.run(story())


def mark(boot_id: str = BOOT, **more: object) -> PlainFile:
    return PlainFile(json.dumps({"version": 1, "boot_id": boot_id, **more}).encode())


def with_mark(data: bytes | None, of: PlainFile | None = None) -> tuple[Ledger, str]:
    ledger = Ledger(PlainDisk(PlainFile(data)), BOOT, PlainDisk(of if of is not None else mark()))
    return ledger, ledger.load()


@pytest.mark.parametrize("data", [None, b"", written()[:60], b'{"version": 1, "boot_id": "another"}'])
def test_a_ledger_that_is_missing_although_the_boot_is_not_new_is_lost(data: bytes | None) -> None:
    ledger, problem = with_mark(data)
    assert "although this boot is not new; what runs and STATE_DB's rows decide instead" in problem
    assert (ledger.lost, ledger.first, ledger.records) == (True, False, {})


@pytest.mark.parametrize("of", [PlainFile(), mark("another"), mark("another", version=2)])
def test_without_the_mark_of_this_boot_a_missing_ledger_is_its_first_start(of: PlainFile) -> None:
    ledger, problem = with_mark(None, of)
    assert (problem, ledger.lost, ledger.first) == ("", False, True)


@pytest.mark.parametrize(
    "of",
    [
        PlainFile(broken=True),
        PlainFile(b""),
        PlainFile((mark().data or b"")[:20]),
        PlainFile(b"[]"),
        PlainFile(b"{}"),
        mark(version=2),
    ],
)
def test_a_mark_that_does_not_tell_makes_a_missing_ledger_a_lost_one(of: PlainFile) -> None:
    assert with_mark(None, of)[0].lost
    assert not with_mark(written(), of)[0].lost


@pytest.mark.parametrize(
    ("of", "loaded"),
    [
        (mark(), True),
        (mark(config_loaded=True), True),
        (mark(config_loaded=False), False),
        (PlainFile(broken=True), True),
    ],
)
def test_a_lost_ledger_takes_an_incomplete_config_db_for_one_that_is_being_loaded(
    of: PlainFile, loaded: bool
) -> None:
    assert with_mark(None, of)[0].config_loaded is loaded


def test_a_ledger_that_cannot_be_read_is_lost_and_says_why() -> None:
    ledger = Ledger(PlainDisk(PlainFile(broken=True)), BOOT, PlainDisk(mark()))
    assert "Input/output error, although this boot is not new" in ledger.load()
    assert ledger.lost


def test_a_loss_is_remembered_until_the_next_boot() -> None:
    """The file is written again at once, and the features that it does not have yet stay unknown."""
    file = PlainFile()
    ledger = Ledger(PlainDisk(file), BOOT, PlainDisk(mark()))
    ledger.load()
    asyncio.run(ledger.write())
    again, problem = with_mark(file.data)
    assert (problem, again.lost) == ("", True)
    save(again, "snmp", FULL, ROLLBACK)
    after = Ledger(PlainDisk(PlainFile(file.data)), "the-next-boot", PlainDisk(mark()))
    assert (after.load(), after.lost, after.first) == ("", False, True)


def test_the_mark_is_written_once_the_boot_has_a_ledger_and_kept() -> None:
    file, before = PlainFile(), written()

    def found() -> object:
        return json.loads(file.data or b"null")

    async def story() -> None:
        ledger = Ledger(PlainDisk(), BOOT, PlainDisk(file))
        ledger.load()
        ledger.boot.names = "hld"
        ledger.boot.check()
        marking = asyncio.create_task(ledger.boot.write())
        await asyncio.sleep(0.01)
        assert not marking.done()
        await ledger.save("snmp", FULL, ROLLBACK)
        await marking
        marked = {"version": 1, "boot_id": BOOT, "config_loaded": False, "names": "hld"}
        assert found() == marked
        saves = file.saves
        ledger.boot.check()
        await ledger.boot.write()
        assert file.saves == saves, "it is as it should be"
        file.data = None
        ledger.boot.check()
        await ledger.boot.write()
        assert found() == marked, "another program has removed it"
        ledger.config_loaded = True
        await ledger.write()
        file.full = True
        with pytest.raises(Unavailable):
            await ledger.boot.write()
        file.full = False
        await ledger.boot.write()
        assert found() == {**marked, "config_loaded": True}
        known = Ledger(PlainDisk(PlainFile(before)), BOOT, PlainDisk(PlainFile()))
        known.load()
        await known.boot.write()

    asyncio.run(story())


def test_a_failed_write_says_what_it_means_now_and_a_check_finds_it() -> None:
    file = PlainFile()

    async def story() -> None:
        ledger = Ledger(PlainDisk(file), BOOT)
        await ledger.save("snmp", FULL, ROLLBACK)
        assert (await ledger.check(), ledger.unwritten) == ((), ())
        file.full = True
        assert ledger.unwritten == ()
        (told,) = await ledger.check()
        assert ledger.unwritten == (told,)
        assert told.startswith("no space left: until it can be, no feature is handed over to Kubernetes")
        with pytest.raises(Unavailable, match="what runs runs on"):
            await ledger.save("snmp", Record(), ROLLBACK)
        file.full = False
        assert (await ledger.check(), ledger.unwritten) == ((), ())
        assert loaded(file.data)[0].records == {"snmp": Record()}

    asyncio.run(story())


@pytest.mark.parametrize("before", [None, up()])
def test_what_must_be_stored_before_it_is_done_is_in_no_later_file_where_it_is_refused(
    before: Record | None,
) -> None:
    file = PlainFile()

    async def story() -> None:
        ledger = Ledger(PlainDisk(file), BOOT)
        if before is not None:
            await ledger.save("snmp", before, FALLBACK)
        file.full = True
        with pytest.raises(Unavailable):
            await ledger.save("snmp", granted(), FALLBACK, surely=True)
        with pytest.raises(Unavailable):
            await ledger.save("lldp", up(), FALLBACK)
        assert ledger.records.get("snmp") == before
        file.full = False
        await ledger.save("lldp", down(), FALLBACK)
        found = loaded(file.data)[0].records
        assert (found.get("snmp"), found["lldp"]) == (before, down())

    asyncio.run(story())


def test_a_newer_request_is_kept_where_an_earlier_one_is_refused() -> None:
    file = PlainFile()

    async def story() -> None:
        ledger = Ledger(PlainDisk(file, slow_s=1.0), BOOT)
        await ledger.save("snmp", up(), FALLBACK)
        file.full = True
        grant = ledger.save("snmp", granted(), FALLBACK, surely=True)
        both = await asyncio.gather(grant, ledger.save("snmp", down(), FALLBACK), return_exceptions=True)
        assert [type(each) for each in both] == [Unavailable, Unavailable]
        assert ledger.records["snmp"] == down()

    loop.run(story())


def test_a_check_of_a_disk_that_does_not_answer_ends() -> None:
    async def story() -> None:
        ledger = Ledger(PlainDisk(PlainFile(), slow_s=60.0), BOOT)
        assert "is not written within 3 s" in (await ledger.check())[0]

    loop.run(story())


async def test_a_check_also_finds_a_state_folder_that_takes_no_writes() -> None:
    mark = PlainFile()
    ledger = Ledger(PlainDisk(PlainFile()), BOOT, PlainDisk(mark))
    ledger.load()
    mark.full = True
    told = (
        "no space left: until it can be, no label, no image and no hold of a reboot is stored in its folder"
    )
    assert await ledger.check() == (told,)
    mark.full = False
    assert await ledger.check() == ()
    assert json.loads(mark.data or b"")["boot_id"] == BOOT
    never = Ledger(PlainDisk(PlainFile(full=True)), BOOT, PlainDisk(mark := PlainFile()))
    never.load()
    assert len(await never.check()) == 1
    assert mark.data is None, "a boot without a ledger is not marked"
