"""Check the migration advice for a switch that ctrmgrd manages."""

from __future__ import annotations

import json
import shlex
import tomllib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubesyncd import settings
from kubesyncd.cli.rules.ctrmgrd import LABELS_KEY, LEFTOVERS, Old, Way, advise

if TYPE_CHECKING:
    from tests.unit.cli.operator import Operator

# As SONiC ships it.
SHIPPED = {
    "join_latency_on_boot_seconds": 300,
    "retry_join_interval_seconds": 30,
    "retry_labels_update_seconds": 5,
    "revert_to_local_on_wait_seconds": 360,
    "tag_latest_image_on_wait_seconds": 600,
    "retry_tag_latest_seconds": 30,
    "retry_clean_image_seconds": 30,
    "use_k8s_as_http_proxy": "n",
}


def toml(old: Old) -> settings.Settings:
    """The settings that are advised, as the daemon would read them."""
    sections: dict[str, list[str]] = {}
    for one in advise(old):
        if one.way is Way.SET:
            sections.setdefault(one.section, []).append(one.text)
    text = "\n".join(f"[{name}]\n" + "\n".join(lines) for name, lines in sections.items())
    return settings.check(tomllib.loads(text), "advised").valid()


def said(old: Old, way: Way) -> list[str]:
    return [one.text for one in advise(old) if one.way is way]


def test_the_shipped_file_becomes_settings_the_daemon_takes() -> None:
    found = toml(Old(settings=SHIPPED))
    assert found.schema.names == "sonic"
    assert (found.timing.fallback_after_s, found.timing.tag_after_s) == (360.0, 600.0)
    assert (found.kube.join_boot_delay_s, found.kube.join_retry_s) == (300.0, 30.0)


@pytest.mark.parametrize("value", [None, True, "soon", [], {}, 10**12, float("nan")])
def test_an_invalid_time_keeps_the_default(value: object) -> None:
    old = Old(settings={"revert_to_local_on_wait_seconds": value})
    assert toml(old).timing.fallback_after_s == settings.Settings().timing.fallback_after_s
    assert "fallback_after_s keeps its default" in said(old, Way.KNOW)


def test_times_that_meant_at_once_or_never_are_spelled_out() -> None:
    found = toml(Old(settings={"tag_latest_image_on_wait_seconds": -1, "retry_join_interval_seconds": 0}))
    assert found.images.adopt is False
    assert found.kube.join_retry_s == 1.0


def test_a_time_below_the_smallest_that_kubesyncd_accepts_means_at_once() -> None:
    old = Old(settings={"tag_latest_image_on_wait_seconds": 1e-9, "retry_join_interval_seconds": 1e-9})
    found = toml(old)
    assert (found.images.adopt, found.timing.tag_after_s, found.kube.join_retry_s) == (True, 1.0, 1.0)


@pytest.mark.parametrize(("old", "most"), [(600, 600.0), (3600, 3600.0), ("x", 600.0)])
def test_the_limit_of_a_pause_is_never_below_the_pause(old: object, most: float) -> None:
    found = toml(Old(settings={"retry_join_interval_seconds": old}))
    assert found.kube.join_retry_s_max == most


def test_an_unknown_setting_is_named() -> None:
    assert "'color'" in "".join(said(Old(settings={"color": "red"}), Way.KNOW))


def test_the_proxy_is_dockers_own_matter_now() -> None:
    assert "systemctl edit docker" in "".join(said(Old(settings={"use_k8s_as_http_proxy": "y"}), Way.KNOW))
    assert said(Old(settings={"use_k8s_as_http_proxy": "n"}), Way.KNOW) == []


def test_labels_of_the_operators_own_move_over_and_no_others() -> None:
    labels = {
        "rack": "r7",
        "site.example/row": "3",
        "snmp_enabled": "true",
        "snmp_local": "20240531.1",
        "site_local": "yes",
        "sonic_version": "202405",
        "hwsku": "ACS",
        "dropped": "false",
        "bad": "two words",
    }
    old = Old(labels=labels, features={"snmp": {}})
    assert said(old, Way.RUN) == [
        "kubesync config kube label add rack r7",
        "kubesync config kube label add site.example/row 3",
        "kubesync config kube label add site_local yes",
    ]
    assert any("refuses" in text for text in said(old, Way.KNOW))


@given(st.dictionaries(st.text(), st.text()))
def test_no_label_can_smuggle_words_into_a_command(labels: dict[str, str]) -> None:
    for command in said(Old(labels=labels), Way.RUN):
        assert len(shlex.split(command)) == 7


def test_the_fields_of_kube_features_are_explained() -> None:
    features = {
        "snmp": {"set_owner": "kube"},
        "lldp": {"set_owner": "kube", "no_fallback_to_local": "true", "remote_fail_detection": "300"},
        "pmon": {"set_owner": "kube", "fallback_to_local": "false"},
        "bgp": {"set_owner": "local"},
    }
    known = said(Old(features=features), Way.KNOW)
    assert "snmp stays with Kubernetes, with its local image to fall back on" in known
    assert "lldp stays with Kubernetes, without its local image to fall back on" in known
    assert "lldp counts as failed after 300 minutes without a stable container" in known
    assert not any("bgp" in text for text in known)
    assert said(Old(features=features), Way.RUN) == ["kubesync config feature pmon fallback true"]


def test_a_master_that_was_never_verified_is_verified_after_the_migration() -> None:
    old = Old(master={"ip": "10.1.2.3", "insecure": "True"})
    assert said(old, Way.RUN) == ["kubesync config kube server insecure off"]
    assert said(Old(master={"insecure": "True"}), Way.RUN) == []


def test_leftovers_of_ctrmgrd_are_named() -> None:
    commands = said(Old(there=frozenset(LEFTOVERS)), Way.RUN)
    moved = "mv /usr/local/bin/container /usr/local/bin/container.ctrmgrd"
    assert commands == [
        "systemctl disable --now ctrmgrd",
        f"{moved} && ln -s /usr/bin/container /usr/local/bin/container",
    ]


def test_the_command_reads_the_switch_and_prints_it(bare_terminal: Operator) -> None:
    bare_terminal.configure("FEATURE|snmp", set_owner="kube")
    bare_terminal.state(LABELS_KEY, rack="r7")
    result = bare_terminal.types("doctor --migrate")
    assert result.exit_code == 0
    assert '[schema]\nnames = "sonic"' in result.stdout
    assert (
        "replace its tables of these names, then systemctl restart kubesyncd" in result.stdout.split("\n")[0]
    )
    assert "kubesync config kube label add rack r7" in result.stdout
    assert {one["way"] for one in json.loads(bare_terminal.types("doctor --migrate --json").stdout)} == {
        "set",
        "run",
        "know",
    }
