"""Check that FEATURE keeps the Kubernetes fields, and only these, through a load of CONFIG_DB."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubesyncd.adapters.db_schema import normal, schema
from kubesyncd.core.saved_features import GOOD_FOR_S, Saved, lost
from kubesyncd.features.table_restorer import TableRestorer
from kubesyncd.ports import PortError, Refused, Unavailable
from kubesyncd.runtime.feature_table_file import decode, encode
from tests.sim.plain import PlainDisk, PlainFile, PlainLog, PlainStore

if TYPE_CHECKING:
    from collections.abc import Mapping

OURS = schema("hld").own_config_names
NOW = 1_700_000_000.0
KUBE = {"set_owner": "kube", "fallback_to_local": "true", "state": "enabled", "delayed": "False"}
IMAGE = {"set_owner": "local", "state": "disabled", "auto_restart": "enabled"}


def lost_of(saved: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]) -> Any:
    return lost(saved, now, OURS, normal)


def test_a_row_that_is_gone_comes_back_whole() -> None:
    assert lost_of({"tap": KUBE}, {"snmp": IMAGE}) == {"tap": KUBE}


def test_in_a_row_that_is_there_only_our_fields_come_back() -> None:
    assert lost_of({"snmp": KUBE}, {"snmp": IMAGE}) == {
        "snmp": {"set_owner": "kube", "fallback_to_local": "true"}
    }


def test_a_table_that_lost_nothing_is_left_alone() -> None:
    assert lost_of({"snmp": KUBE}, {"snmp": {**IMAGE, **KUBE}, "new": IMAGE}) == {}


def test_a_field_in_another_spelling_is_not_written_beside_itself() -> None:
    assert lost_of({"snmp": KUBE}, {"snmp": {"SET_OWNER": "kube", "Fallback-To-Local": "false"}}) == {
        "snmp": {"Fallback-To-Local": "true"}
    }


def test_sonic_s_own_fields_in_its_own_spelling_stay_sonic_s() -> None:
    ours = schema("sonic").own_config_names
    row = {
        "set_owner": "kube",
        "no_fallback_to_local": "true",
        "has_per_asic_scope": "True",
        "state": "enabled",
    }
    now = {"snmp": {"set_owner": "local", "has_per_asic_scope": "False"}}
    assert lost({"snmp": row}, now, ours, normal) == {
        "snmp": {"set_owner": "kube", "no_fallback_to_local": "true"}
    }


ROWS = st.dictionaries(
    st.sampled_from(["snmp", "lldp", "tap"]),
    st.dictionaries(
        st.sampled_from(["set_owner", "SET_OWNER", "state", "x"]), st.sampled_from("abc"), min_size=1
    ),
)


@settings(max_examples=300)
@given(ROWS, ROWS)
def test_a_restored_field_is_never_restored_again(saved: Any, now: Any) -> None:
    for row in (*saved.values(), *now.values()):
        if {"set_owner", "SET_OWNER"} <= row.keys():
            del row["SET_OWNER"]
    after = {name: dict(row) for name, row in now.items()}
    for name, fields in lost_of(saved, now).items():
        after.setdefault(name, {}).update(fields)
    assert lost_of(saved, after) == {}
    assert set(after) == {*saved, *now}


# ---- the copy -------------------------------------------------------------------------------------


def test_a_copy_is_good_for_one_load_within_an_hour() -> None:
    saved = Saved({"snmp": KUBE}, NOW)
    assert decode(encode(saved)) == saved
    assert GOOD_FOR_S == 60 * 60
    assert saved.awaits_load(NOW)
    assert saved.awaits_load(NOW + GOOD_FOR_S)
    assert not saved.awaits_load(NOW + GOOD_FOR_S + 1)
    assert not saved.awaits_load(NOW - 1)
    assert not Saved({}, NOW, armed=False).awaits_load(NOW + 1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b'{"version": 2}',
        b'{"version": 1, "saved_at": "x", "armed": true, "rows": {}}',
        b"[" * 9999,
    ],
)
def test_an_unreadable_copy_is_reported(data: bytes) -> None:
    with pytest.raises(ValueError, match="cannot be used"):
        decode(data)


# ---- the daemon's part ----------------------------------------------------------------------------


class Switch:
    """CONFIG_DB, a file and systemd's units, and the restorer that uses them."""

    def __init__(self) -> None:
        self.file = PlainFile()
        self.installed: dict[str, dict[str, str]] = {}
        self.units = {"snmp", "tap", "lldp"}
        self.fails: dict[str, PortError] = {}
        self.store = PlainStore(rows={"snmp": dict(IMAGE)}, fails=self.fails)
        self.log = PlainLog()
        self.restorer = TableRestorer(
            self.store,
            file=PlainDisk(self.file),
            installed_rows=self.installed_rows,
            has_unit=self.has_unit,
            ours=OURS,
            normal=normal,
            wall=lambda: NOW + 60,
            log=self.log,  # type: ignore[arg-type]
        )

    async def installed_rows(self) -> dict[str, dict[str, str]]:
        return self.installed

    async def has_unit(self, feature: str) -> bool:
        if "systemd" in self.fails:
            raise self.fails["systemd"]
        return feature in self.units


@pytest.fixture
def switch() -> Switch:
    return Switch()


async def test_a_saved_table_restores_the_next_load_and_no_other(switch: Switch) -> None:
    switch.file.data = encode(Saved({"snmp": KUBE, "lldp": KUBE, "gone": KUBE}, NOW))
    await switch.restorer.restore()
    assert switch.store.loaded
    assert switch.store.rows == {
        "snmp": {**IMAGE, "set_owner": "kube", "fallback_to_local": "true"},
        "lldp": KUBE,
    }
    assert any("not installed any more" in more.get("why", "") for _, _, more in switch.log.lines)
    switch.store.rows["snmp"]["set_owner"] = "local"
    await switch.restorer.restore()
    assert switch.store.rows["snmp"]["set_owner"] == "local"


async def test_an_installed_service_gets_its_row_back_from_any_load_but_keeps_its_own(switch: Switch) -> None:
    switch.installed = {"tap": KUBE}
    await switch.restorer.restore()
    assert switch.store.rows["tap"] == KUBE
    switch.store.rows["tap"] = {"set_owner": "local"}
    await switch.restorer.restore()
    assert switch.store.rows["tap"] == {"set_owner": "local"}


@pytest.mark.parametrize("what", ["read", "write snmp", "systemd"])
async def test_until_fields_are_restored_a_load_counts_as_going_on(switch: Switch, what: str) -> None:
    switch.file.data = encode(Saved({"snmp": KUBE, "lldp": KUBE}, NOW))
    switch.fails[what] = Unavailable("Redis", "it does not answer")
    await switch.restorer.restore()
    assert not switch.store.loaded
    switch.fails.clear()
    await switch.restorer.restore()
    assert switch.store.loaded
    assert switch.store.rows["snmp"]["set_owner"] == "kube"
    assert switch.store.rows["lldp"] == KUBE


@pytest.mark.parametrize("read_only", [False, True])
async def test_a_full_disk_does_not_keep_a_load_going_and_the_copy_is_used_once(
    switch: Switch, *, read_only: bool
) -> None:
    switch.file.data = copy = encode(Saved({"snmp": KUBE, "lldp": KUBE}, NOW))
    switch.file.full, switch.file.read_only = True, read_only
    await switch.restorer.restore()
    assert switch.store.loaded
    assert switch.store.rows["lldp"] == KUBE
    assert switch.file.data == (copy if read_only else None), "removing the copy needs no space"
    switch.store.rows["snmp"]["set_owner"] = "local"
    await switch.restorer.restore()
    assert switch.store.rows["snmp"]["set_owner"] == "local"


async def test_a_row_that_cannot_be_written_holds_up_no_other(switch: Switch) -> None:
    switch.file.data = encode(Saved({"snmp": KUBE, "lldp": KUBE}, NOW))
    switch.fails["write lldp"] = Refused("Redis", "the key is not a hash")
    await switch.restorer.restore()
    assert switch.store.loaded
    assert switch.store.rows["snmp"]["set_owner"] == "kube"


async def test_an_unreadable_copy_delays_nothing(switch: Switch) -> None:
    switch.file.data = b"garbage"
    await switch.restorer.restore()
    assert switch.store.loaded
    assert switch.store.rows == {"snmp": IMAGE}


def test_a_time_beyond_all_limits_makes_the_table_unusable() -> None:
    stored = encode(Saved({"snmp": {"set_owner": "kube"}}, 7.5, armed=True))
    with pytest.raises(ValueError, match="the saved table cannot be used"):
        decode(stored.replace(b"7.5", b"9" * 400))
