"""Check the migration advice for a switch that ctrmgrd manages."""

from __future__ import annotations

import errno
import json
import re
import shlex
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from kubesyncd import settings
from kubesyncd.adapters import sonic_files
from kubesyncd.cli.root import root
from kubesyncd.cli.rules.ctrmgrd import (
    LABELS_KEY,
    LEFTOVERS,
    SETTINGS_FILE,
    UNIT_FILE,
    InstalledCertificate,
    Old,
    Present,
    Way,
    advise,
)
from kubesyncd.core.fallback_history import FallbackHistory
from kubesyncd.runtime import fallback_file
from kubesyncd.runtime.x509 import key_hash
from tests.lab.certificates import Authority, write_kubeconfig

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


SONIC = Present(names="sonic")


def said(old: Old, way: Way, now: Present = SONIC) -> list[str]:
    return [one.text for one in advise(old, now) if one.way is way]


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
    assert said(Old(features=features), Way.RUN) == ["kubesync config feature fallback pmon on"]


def test_a_fallback_that_ctrmgrd_took_for_off_is_told_with_the_command_that_keeps_it() -> None:
    old = {"snmp": {"set_owner": "kube", "no_fallback_to_local": "false"}}
    command = "kubesync config feature fallback snmp off"
    kept = Old(features=old, fallback=FallbackHistory(frozenset({"snmp"})))
    assert said(kept, Way.RUN) == [command]
    assert said(kept, Way.KNOW) == [
        "snmp stays with Kubernetes, without its local image to fall back on",
    ]
    late = Old(features=old)
    assert said(late, Way.RUN) == []
    assert f"snmp falls back now, and did not with ctrmgrd; as before: {command}" in said(late, Way.KNOW)
    settled = {"snmp": {"set_owner": "kube", "no_fallback_to_local": "true"}}
    assert said(Old(features=settled, fallback=FallbackHistory(frozenset({"snmp"}))), Way.RUN) == []


def test_no_command_is_printed_that_depends_on_names_not_in_use_yet() -> None:
    old = Old(features={"snmp": {"set_owner": "kube", "fallback_to_local": "true"}})
    assert said(old, Way.RUN, Present(names="hld")) == []
    assert said(old, Way.KNOW, Present(names="hld"))[0].startswith("run doctor --migrate again")


def test_the_pin_of_the_ca_is_proposed_where_the_switch_has_its_own_certificate() -> None:
    pin = f"sha256:{'0' * 64}"
    known = Old(certificate=InstalledCertificate("/c.crt", pin, "/etc/kubernetes/kubelet.conf"))
    assert f'ca_cert_hash = "{pin}"' in said(known, Way.SET)
    assert toml(known).kube.ca_cert_hash == pin
    unknown = said(Old(certificate=InstalledCertificate("/c.crt")), Way.KNOW)
    text = 'before the next join, set [kube] ca_cert_hash = "sha256:…", as the master prints it: '
    assert unknown == [f"{text}kubeadm token create --print-join-command"]
    for key in ("ca_file", "ca_cert_hash", "client_certificate", "bootstrap_token_file"):
        chosen = Present(names="sonic", settings={"kube": {key: "x"}})
        assert said(known, Way.SET, chosen) == []


@pytest.mark.parametrize("hidden", ["credentials", "kubelet.conf"])
def test_a_user_who_may_not_see_the_credentials_is_told_to_use_sudo(
    bare_terminal: Operator, monkeypatch: pytest.MonkeyPatch, hidden: str
) -> None:
    left_by_ctrmgrd(bare_terminal)
    bare_terminal.write_settings(schema="sonic", more=paths(bare_terminal))
    folder = bare_terminal.folder / hidden

    def refuse(path: Path) -> None:
        if path == folder or folder in path.parents:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

    for name in ("stat", "read_bytes"):
        real = getattr(Path, name)
        monkeypatch.setattr(Path, name, lambda path, real=real, **more: refuse(path) or real(path, **more))
    result = bare_terminal.types("doctor --migrate")
    assert result.exit_code == 0, result.stderr
    assert "run doctor --migrate with sudo: it tells whether a later join needs" in result.stdout
    assert f"{hidden} cannot be read by this user" in result.stdout
    assert "no CA is known" not in result.stdout


def test_what_holds_already_is_not_advised_again() -> None:
    old = Old(settings=SHIPPED, labels={"rack": "r7", "row": "3"})
    current = asdict(toml(old))
    now = Present("sonic", current, {"rack": "r7", "row": "4"})
    assert said(old, Way.SET, now) == []
    assert said(old, Way.RUN, now) == ["kubesync config kube label add row 3"]


def test_a_daemon_that_does_not_answer_is_started_before_the_commands_that_need_it() -> None:
    old = Old(labels={"rack": "r7"}, there=frozenset(LEFTOVERS))
    commands = said(old, Way.RUN, Present(names="sonic", running=False))
    assert commands[0] == "systemctl disable --now ctrmgrd"
    assert commands[-2:] == ["systemctl start kubesyncd", "kubesync config kube label add rack r7"]


def test_a_label_that_the_kubelet_sets_is_no_command() -> None:
    known = said(Old(labels={"kubernetes.io/arch": "arm64"}), Way.KNOW)
    assert known == ["nothing: label 'kubernetes.io/arch' describes the node and is set by its kubelet"]


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


def commands(stdout: str) -> list[str]:
    """The commands of `doctor --migrate`, as an operator copies them."""
    _, _, printed = stdout.partition("# to run\n")
    return [line.partition("  # ")[0] for line in printed.partition("\n\n")[0].splitlines()]


def left_by_ctrmgrd(operator: Operator, **daemon: object) -> None:
    """A switch as a fleet of 202405 has it: a joined master that was never verified, labels, fields of both kinds."""
    root = operator.folder / "root"
    (root / "etc/sonic").mkdir(parents=True)
    (root / SETTINGS_FILE[1:]).write_text(json.dumps({**SHIPPED, "retry_join_interval_seconds": 900}))
    (operator.folder / "state").mkdir()
    history = FallbackHistory(frozenset({"lldp"}), frozenset({"snmp", "pmon"}))
    (operator.folder / "state" / fallback_file.FILE).write_bytes(fallback_file.encode(history))
    operator.configure("KUBERNETES_MASTER|SERVER", ip="10.1.2.3", insecure="True", disable="False")
    operator.configure("FEATURE|snmp", set_owner="kube", state="enabled", fallback_to_local="true")
    operator.configure("FEATURE|lldp", set_owner="kube", state="enabled", no_fallback_to_local="false")
    operator.configure("FEATURE|pmon", set_owner="kube", state="enabled", no_fallback_to_local="true")
    operator.configure("FEATURE|owner", set_owner="kube", state="enabled", fallback_to_local="false")
    operator.state(LABELS_KEY, rack="r7", empty="", snmp_enabled="true", bad="two words", hwsku="ACS")
    operator.daemon.cluster.update(daemon)
    authority = Authority(operator.folder / "pki")
    node = authority.issue("node", "system:node:switch1", "system:nodes")
    write_kubeconfig(
        operator.folder / "kubelet.conf", "https://10.1.2.3:6443", authority.pem, node, inline=False
    )
    (operator.folder / "credentials").mkdir()
    for name in ("crt", "key"):
        (operator.folder / "credentials" / f"restapiserver.{name}").touch()


def paths(operator: Operator) -> str:
    return f'[paths]\nstate_dir = "{operator.folder}/state"\ninstall_root = "{operator.folder}/root"\n'


@pytest.mark.parametrize("schema", ["sonic", "hld"])
@pytest.mark.parametrize("daemon", [{}, {"joined": False, "connected": False, "node_exists": None}])
def test_every_printed_step_works_in_its_state_and_then_nothing_is_left_to_do(
    bare_terminal: Operator, schema: str, daemon: dict[str, object]
) -> None:
    operator = bare_terminal
    more = paths(operator) + "[timing]\nverb_s_max = 80\ntag_after_s = 300\n"
    operator.write_settings(schema=schema, more=more)
    left_by_ctrmgrd(operator, **daemon)
    printed = operator.types("doctor --migrate").stdout
    tables = printed.partition("\n# to ")[0]
    pin = key_hash((operator.folder / "pki/ca.crt").read_bytes())
    assert (
        f'ca_cert_hash = "{pin}"  # a later join by {operator.folder}/credentials/restapiserver.crt' in tables
    )
    assert "verb_s_max = 80  # as it is" in tables

    before = settings.load(operator.settings)
    text = operator.settings.read_text()
    for table in re.findall(r"(?m)^\[[^\[]*", tables):
        text = re.sub(
            rf"(?m)^{re.escape(table.splitlines()[0])}\n(?:(?!\[).*\n?)*", lambda _, new=table: new, text
        )
    operator.settings.write_text(text)
    after = settings.load(operator.settings)
    assert (after.timing.fallback_after_s, after.timing.tag_after_s, after.timing.verb_s_max) == (
        360,
        600,
        80,
    )
    assert (after.kube.join_retry_s, after.kube.join_retry_s_max) == (900, 900)
    assert (after.kube.ca_cert_hash, after.kube.kubeconfig) == (pin, before.kube.kubeconfig)

    printed = operator.types("doctor --migrate").stdout
    assert commands(printed) == [
        "kubesync config kube server insecure off",
        "kubesync config feature fallback lldp off",
        "kubesync config feature fallback owner on",
        "kubesync config feature fallback snmp on",
        "kubesync config kube label add empty ''",
        "kubesync config kube label add rack r7",
    ]
    for command in commands(printed):
        done = CliRunner(env=operator.environ).invoke(root, shlex.split(command)[1:])
        assert done.exit_code == 0, f"{command}: {done.stderr}"
    assert operator.configured("FEATURE|lldp")["no_fallback_to_local"] == "true"
    assert operator.configured("FEATURE|snmp") == {"set_owner": "kube", "state": "enabled"}
    said = operator.types("doctor --migrate").stdout
    assert said.startswith("# nothing is left to do\n")
    assert not commands(said)


def test_with_the_daemon_down_its_start_comes_first_and_what_needs_no_daemon_works(
    bare_terminal: Operator,
) -> None:
    operator = bare_terminal
    operator.write_settings(schema="sonic", more=paths(operator))
    left_by_ctrmgrd(operator)
    operator.daemon.stop()
    printed = commands(operator.types("doctor --migrate").stdout)
    assert printed[0] == "systemctl start kubesyncd"
    for command in printed[1:]:
        done = CliRunner(env=operator.environ).invoke(root, shlex.split(command)[1:])
        assert (done.exit_code == 0) == ("label add" not in command), f"{command}: {done.stderr}"


def test_the_files_of_ctrmgrd_are_those_that_the_first_start_looks_for() -> None:
    assert (sonic_files.CTRMGRD_UNIT, sonic_files.CTRMGRD_SETTINGS) == (UNIT_FILE, SETTINGS_FILE)
