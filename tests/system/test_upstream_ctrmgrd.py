"""Check the cases of upstream's tests of its daemon and of its calls of kubectl.

docs/migrate.md lists them under "Upstream's test cases". Joins are in tests/unit/join/test_join.py, images in
tests/unit/images and test_switch_images. With SONiC's field names; the tests share one switch, and each has a feature
of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.system.test_switch_kube import waiting
from tests.system.test_upstream_container import (
    KUBE,
    LOCAL,
    NO_FALLBACK,
    docker_calls,
    label,
    local_runs,
    until_kube_row,
)

if TYPE_CHECKING:
    from tests.lab.switch import Switch


def restarts(switch: Switch, feature: str) -> list[str]:
    """The calls of systemctl that named the feature's unit."""
    return [call for call in switch.units.calls if f"{feature}.service" in call]


def unit_runs(switch: Switch, feature: str, **config: str) -> None:
    """Given: the feature's unit is active, as systemd runs it."""
    switch.config(feature, **config)
    switch.add_service(feature)
    switch.units.call("start", f"{feature}.service")


def patches(switch: Switch, key: str) -> list[object]:
    """The values with which the daemon has patched this label, in order."""
    return [e["labels"][key] for e in switch.log("labels_applied") if key in e["labels"]]


# ---- the owner changes ----------------------------------------------------------------------------


@pytest.mark.upstream("ctrmgrd/owner-to-kube", "differs")
@pytest.mark.upstream("ctrmgrd/owner-to-local", "differs")
def test_a_change_of_the_owner_moves_the_container_and_restarts_no_unit(sonic_switch: Switch) -> None:
    switch = sonic_switch
    unit_runs(switch, "snmp", **LOCAL)
    switch.until_row("snmp", current_owner="local")
    waiter = switch.waits("snmp")
    before = restarts(switch, "snmp")
    switch.master.deploy("snmp")
    switch.config("snmp", **KUBE, **NO_FALLBACK)
    until_kube_row(switch, "snmp")
    assert switch.master.label_of("snmp") == "true"
    switch.config("snmp", **LOCAL)
    switch.until_row("snmp", current_owner="local", remote_state="none", container_id="snmp")
    label(switch, "snmp", "")
    assert docker_calls(switch, "snmp") == ["start", "stop", "start"]
    assert restarts(switch, "snmp") == before
    assert waiting([waiter])


@pytest.mark.upstream("ctrmgrd/unit-inactive", "same")
def test_a_change_of_the_owner_while_the_unit_is_down_moves_nothing(sonic_switch: Switch) -> None:
    switch = sonic_switch
    local_runs(switch, "lldp")
    switch.done("stop", "lldp")
    switch.until_row("lldp", system_state="down")
    calls = docker_calls(switch, "lldp")
    switch.config("lldp", **KUBE)
    switch.wait_for(lambda: switch.shown("lldp")["config"]["set_owner"] == "kube", "the change is read")
    # Another feature's label goes the same way afterwards.
    switch.config("bmp", **KUBE, **NO_FALLBACK)
    switch.done("start", "bmp")
    label(switch, "bmp", "true")
    assert switch.master.label_of("lldp") == ""
    assert docker_calls(switch, "lldp") == calls
    assert restarts(switch, "lldp") == []


@pytest.mark.upstream("ctrmgrd/remote-state-none", "differs")
def test_a_pod_that_is_withdrawn_is_replaced_locally_without_a_restart_of_the_unit(
    sonic_switch: Switch,
) -> None:
    switch = sonic_switch
    switch.master.deploy("telemetry")
    unit_runs(switch, "telemetry", **KUBE)
    waiter = switch.waits("telemetry")
    until_kube_row(switch, "telemetry")
    before = restarts(switch, "telemetry")
    switch.master.forget("telemetry")
    switch.until_row("telemetry", remote_state="none", current_owner="local", container_id="telemetry")
    assert restarts(switch, "telemetry") == before
    assert waiting([waiter])


# ---- labels ---------------------------------------------------------------------------------------


@pytest.mark.upstream("ctrmgrd/labels-row", "differs")
def test_a_label_is_asked_of_the_daemon_and_not_by_a_row_of_state_db(sonic_switch: Switch) -> None:
    switch = sonic_switch
    switch.state_db.hset("KUBE_LABELS|SET", "rack", "7")
    added = switch.kubesync("config", "kube", "label", "add", "row", "3")
    assert added.stdout == "row=3: applied\n"
    assert switch.master.labels["row"] == "3"
    assert "rack" not in switch.master.labels


@pytest.mark.upstream("kube_commands/labels-difference", "differs")
def test_a_label_asked_for_twice_is_sent_twice_and_the_others_replaced_or_added(sonic_switch: Switch) -> None:
    switch = sonic_switch
    for key, value in (("foo", "bar"), ("hello", "world")):
        assert switch.kubesync("config", "kube", "label", "add", key, value).returncode == 0
    for key, value in (("foo", "bar"), ("hello", "X"), ("test", "ok")):
        assert switch.kubesync("config", "kube", "label", "add", key, value).returncode == 0
    found = {key: switch.master.labels.get(key) for key in ("foo", "hello", "test")}
    assert found == {"foo": "bar", "hello": "X", "test": "ok"}
    assert (patches(switch, "foo"), patches(switch, "hello")) == (["bar", "bar"], ["world", "X"])


@pytest.mark.upstream("kube_commands/label-metacharacters", "differs")
@pytest.mark.parametrize("value", ["$(touch {})", "`touch {}`", "a;touch {}", "a\ntouch {}"])
def test_shell_s_characters_in_a_label_are_refused_and_never_executed(
    sonic_switch: Switch, value: str
) -> None:
    switch = sonic_switch
    trap = switch.folder / "trap"
    ended = switch.kubesync("config", "kube", "label", "add", "rack", value.format(trap))
    assert ended.returncode == 64
    assert "rack" in ended.stderr
    assert "rack" not in switch.master.labels
    assert not trap.exists()
