"""Check every table of `show`: as printed, as JSON, and with services missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kubesyncd.cli.output import ago, brief
from kubesyncd.cli.show_cluster import node_row, pod_row
from kubesyncd.cli.show_kubernetes import label_rows, status_rows
from kubesyncd.core.state import State
from tests.lab.stub_daemon import KUBE_ID, cluster, container, feature
from tests.unit.cli.operator import STATE_DB, Operator, is_golden

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.redis_server import RedisServer


@pytest.mark.parametrize(
    ("line", "golden"),
    [
        ("show feature", "show_feature"),
        ("show feature snmp", "show_feature_snmp"),
        ("show kubernetes server", "show_kubernetes_server"),
        ("show kubernetes status", "show_kubernetes_status"),
        ("show kubernetes labels", "show_kubernetes_labels"),
        ("explain lldp", "explain_lldp"),
        ("explain telemetry", "explain_telemetry"),
        ("watch", "watch"),
        ("timeline lldp", "timeline_lldp"),
        ("config feature snmp --help", "help_config_feature_name"),
    ],
)
def test_each_table_is_printed_as_the_golden_file_says(terminal: Operator, line: str, golden: str) -> None:
    result = terminal.types(line)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    is_golden(golden, result.stdout)


def test_a_master_that_is_away_shows_in_the_status(terminal: Operator) -> None:
    terminal.daemon.cluster = cluster(
        connected=False,
        why_disconnected="10.1.2.3:6443 cannot be reached: Connection refused",
        kubelet=False,
        kubelet_may_run=False,
        kubelet_why="2 labels could not be delivered to the API server",
        pending=["snmp_enabled=true", "rack-"],
        failed=["snmp_enabled"],
        why_pending="the master does not answer in time",
        retry_in_s=12.0,
        applied={"hwsku": "Seastone", "rack": "a7"},
        refused={"tier": "the value must not have a space"},
        hold=True,
    )
    is_golden("show_kubernetes_status_away", terminal.types("show kubernetes status").stdout)
    is_golden("show_kubernetes_labels_away", terminal.types("show kubernetes labels").stdout)


def test_every_shown_thing_is_there_as_json(terminal: Operator) -> None:
    shown = {found["feature"]: found for found in terminal.json("show feature --json")}
    assert shown["snmp"]["state"] == "LOCAL_TO_KUBE"
    assert shown["snmp"]["config"]["kube_failure_detection"] == "10"
    assert shown["lldp"]["state_db"]["docker_id"] == KUBE_ID
    assert terminal.json("show feature lldp --json") == shown["lldp"]
    assert terminal.json("show kubernetes server --json")["config"]["IP"] == "10.1.2.3"
    assert terminal.json("show kubernetes status --json")["joined"] is True
    assert terminal.json("show kubernetes labels --json")["applied"]["hwsku"] == "Seastone"
    assert terminal.json("explain telemetry --json")["next_text"].startswith("in 3 min")
    assert {found["feature"] for found in terminal.json("timeline --json")} == set(shown)


def test_output_to_a_pipe_has_no_colour_and_80_columns(terminal: Operator) -> None:
    shown = terminal.runs("show", "feature", COLUMNS="200")
    assert shown.returncode == 0
    assert "\x1b" not in shown.stdout
    is_golden("show_feature", shown.stdout)


def test_a_terminal_has_colours(terminal: Operator) -> None:
    assert "\x1b[" in terminal.runs("show", "feature", FORCE_COLOR="1", TERM="xterm-256color").stdout


def test_a_poison_row_is_shown_as_such_and_hides_no_other(terminal: Operator) -> None:
    with terminal.redis.client(STATE_DB) as client:
        client.delete("FEATURE|lldp")
        client.set("FEATURE|lldp", "poison")
    shown = terminal.types("show feature").stdout
    assert "unusable row" in next(line for line in shown.splitlines() if line.startswith("lldp"))
    assert "LOCAL_TO_KUBE" in shown
    alone = terminal.types("show feature lldp")
    assert alone.exit_code == 1
    assert alone.stderr == ("kubesync: Redis: STATE_DB FEATURE|lldp: the key is not a hash; delete it\n")


def test_a_row_whose_name_no_feature_can_have_is_shown_with_the_rule(terminal: Operator) -> None:
    for name in ("P4RT", "1st"):
        terminal.configure(f"FEATURE|{name}", set_owner="local")
    shown = terminal.types("show feature")
    for name in ("P4RT", "1st"):
        assert "unusable row" in next(line for line in shown.stdout.splitlines() if line.startswith(name))
        assert f"problem: FEATURE|{name}: invalid name, not managed: a feature's name begins" in shown.stderr
    rows = {row["feature"]: row for row in terminal.json("show feature --json")}
    assert "invalid name" in rows["P4RT"]["problems"][0]


def test_an_unusable_value_is_named_below_the_table(terminal: Operator) -> None:
    terminal.configure("FEATURE|snmp", fallback_to_local="maybe")
    assert (
        "problem: invalid fallback_to_local='maybe': neither true nor false"
        in terminal.types("show feature snmp").stderr
    )


def test_sonics_own_field_names_are_shown_as_they_stand(terminal: Operator) -> None:
    terminal.write_settings(schema="sonic")
    terminal.configure("FEATURE|snmp", no_fallback_to_local="true")
    row = next(line for line in terminal.types("show feature").stdout.splitlines() if line.startswith("snmp"))
    assert row.split()[:3] == ["snmp", "kube", "off"]


def test_an_unknown_feature_is_reported(terminal: Operator) -> None:
    result = terminal.types("show feature gnmi")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "kubesync: gnmi: unknown feature; see: kubesync show feature\n"


def test_a_rolled_back_feature_is_named_in_the_command_that_ends_the_rollback(
    bare_terminal: Operator,
) -> None:
    bare_terminal.daemon.features["snmp"] = feature("snmp", State.LOCAL, "rolled back", rolled_back=True)
    assert "kubesync clear snmp" in " ".join(bare_terminal.types("explain snmp").stdout.split())


def test_a_switch_without_features_says_how_to_get_one(bare_terminal: Operator) -> None:
    assert "kubesync config feature NAME owner local" in bare_terminal.types("show feature").stdout


def test_a_switch_without_labels_says_how_to_get_one(bare_terminal: Operator) -> None:
    bare_terminal.daemon.cluster = cluster(applied={})
    assert "kubesync config kube label add KEY VALUE" in bare_terminal.types("show kubernetes labels").stdout


def test_a_switch_without_a_master_says_how_to_set_one() -> None:
    rows = dict(
        status_rows(
            cluster(
                master="",
                joined=False,
                connected=False,
                last_update_ts=0,
                node_exists=None,
                kubelet=None,
                applied={},
            )
        )
    )
    assert rows["master"] == "none configured"
    assert rows["kubelet"].startswith("not checked")


def test_an_outage_is_shown_with_its_reason() -> None:
    why = "the master's certificate is not trusted: certificate has expired; check this switch's clock"
    rows = dict(status_rows(cluster(connected=False, last_update_ts=0, why_disconnected=why)))
    assert rows["connected"] == f"no: {why}"


@pytest.mark.parametrize("stored", [5, 946_684_900, 4_102_444_800, 10**17])
def test_a_time_of_a_wrong_clock_is_not_shown_as_a_duration(bare_terminal: Operator, stored: int) -> None:
    rows = dict(status_rows(cluster(connected=False, last_update_ts=stored, why_disconnected="no answer")))
    assert rows["connected"] == "no for an unknown time: no answer"
    bare_terminal.state("KUBERNETES_MASTER|SERVER", connected="False", last_update_ts=str(stored))
    assert "an unknown time" in bare_terminal.types("show kubernetes server").stdout
    assert ago(5.0, 100.0) == "1 min 35 s", "neither time is from a clock that was set, and they agree"
    assert (ago(stored), brief(stored), ago(0.0)) == ("an unknown time", "?", "")


def test_a_kubelet_that_fails_or_is_masked_is_in_the_status() -> None:
    trouble = "kubelet.service is masked, so it cannot start; run: systemctl unmask kubelet.service"
    assert dict(status_rows(cluster(kubelet_trouble=trouble)))["kubelet's unit"] == trouble


def test_the_last_join_is_shown_with_its_outcome() -> None:
    job = {
        "job": "join",
        "phase": "failed",
        "since_s": 130.0,
        "says": "the master's certificate is not trusted",
    }
    rows = dict(status_rows(cluster(membership=job)))
    assert rows["last join"] == "failed 2 min 10 s ago: the master's certificate is not trusted"


def test_labels_on_their_way_stand_beside_those_applied() -> None:
    known = cluster(applied={"rack": "a7"}, pending=["rack-", "snmp_enabled=true"], refused={"tier": "no"})
    assert label_rows(known) == [
        ("rack", "a7", "(drop)"),
        ("snmp_enabled", "-", "true"),
        ("tier", "-", "refused: no"),
    ]


def test_what_the_master_leaves_out_is_a_dash() -> None:
    assert node_row({"metadata": {"name": "n"}})["version"] == "-"
    assert pod_row({"metadata": {"name": "p", "namespace": "d"}})["state"] == "-"
    assert (
        node_row({"status": {"conditions": "x"}, "spec": {"unschedulable": True}})["ready"]
        == "unknown, drained"
    )


def test_a_pods_state_is_what_holds_it_up() -> None:
    waiting = {"restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    item = {"metadata": {"name": "p"}, "status": {"phase": "Running", "containerStatuses": [waiting]}}
    assert (pod_row(item)["state"], pod_row(item)["restarts"]) == ("CrashLoopBackOff", 3)


def test_feature_names_are_offered_to_a_shell(terminal: Operator) -> None:
    offered = terminal.runs(
        _KUBESYNC_COMPLETE="bash_complete", COMP_WORDS="kubesync explain t", COMP_CWORD="2"
    ).stdout
    assert offered.split() == ["plain,telemetry"]
    offered = terminal.runs(
        _KUBESYNC_COMPLETE="bash_complete", COMP_WORDS="kubesync config feature ", COMP_CWORD="3"
    ).stdout
    assert {"plain,owner", "plain,snmp"} <= set(offered.split())


def test_a_shell_gets_no_error_while_the_daemon_does_not_answer(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    alone = Operator(tmp_path, redis_server)
    offered = alone.runs(_KUBESYNC_COMPLETE="bash_complete", COMP_WORDS="kubesync explain ", COMP_CWORD="2")
    assert (offered.stdout.strip(), offered.stderr) == ("", "")


def test_a_change_of_state_that_only_time_causes_is_shown(bare_terminal: Operator) -> None:
    failed = {
        "state": "KUBE_READY",
        "why": "x",
        "acts": False,
        "stable": False,
        "failed": "no kube container for 5 min",
    }
    bare_terminal.daemon.features["snmp"] = feature(
        "snmp", State.KUBE_READY, "waiting for kube deployment", next_in_s=60.0, next=failed
    )
    assert (
        "in 1 min it counts as failed: no kube container for 5 min"
        in bare_terminal.types("explain snmp").stdout
    )


def test_explain_says_crash_loop_instead_of_waiting_for_a_deployment(bare_terminal: Operator) -> None:
    why = (
        "CrashLoopBackOff: the kubelet waits before it starts the kube container again (3 ends within 15 min)"
    )
    for state in (State.KUBE_READY, State.LOCAL):
        shown = feature("snmp", state, why, joined=True)
        shown["meaning"] = why
        shown["config"]["set_owner"] = "kube"
        bare_terminal.daemon.features["snmp"] = shown
        told = " ".join(bare_terminal.types("explain snmp").stdout.split())
        assert "because CrashLoopBackOff: the kubelet waits" in told
        assert "means" not in told
        assert (
            "waits for the kubelet to start its kube container again (CrashLoopBackOff), and that one to stay up"
            in told
        )


def test_explain_names_the_delay_of_a_hand_over_only_while_a_local_container_runs(
    bare_terminal: Operator,
) -> None:
    for state, said in (
        (State.KUBE_READY, "waits for the kubelet to start its kube container again (CrashLoopBackOff)"),
        (
            State.LOCAL,
            "waits for the delay after its kube container has failed to end; the next hand-over may begin in",
        ),
    ):
        shown = feature("snmp", state, "CrashLoopBackOff", joined=True)
        shown["config"]["set_owner"] = "kube"
        shown["refused_for_s"] = 60.0
        bare_terminal.daemon.features["snmp"] = shown
        told = " ".join(bare_terminal.types("explain snmp").stdout.split())
        assert said in told
        assert ("next hand-over" in told) is (state is State.LOCAL)


def test_explain_tells_a_container_that_never_ran_from_one_whose_exit_is_unknown(
    bare_terminal: Operator,
) -> None:
    shown = feature("snmp", State.LOCAL, "x")
    created = {**container("kube", KUBE_ID), "running": False}
    for found, said in (
        (created, "was created, and has never run"),
        ({**created, "gone": True}, "ended (unknown)"),
        ({**created, "started": "2026-01-01T00:00:00.000000000Z"}, "ended (unknown)"),
    ):
        shown["containers"] = [found]
        bare_terminal.daemon.features["snmp"] = shown
        told = " ".join(bare_terminal.types("explain snmp").stdout.split())
        assert f"kube {KUBE_ID[:12]} {said}" in told


def test_features_with_the_same_reason_share_a_line_that_names_none_of_them(terminal: Operator) -> None:
    for name in ("snmp", "lldp"):
        terminal.daemon.features[name]["why"] = (
            f"not managed yet; restart its service: systemctl restart {name}"
        )
    terminal.daemon.features["bgp"]["why"] = "not yet; see: journalctl -u bgp"
    lines = [line.rstrip() for line in terminal.types("show feature").stdout.splitlines()]
    assert "lldp, snmp  not managed yet; restart its service: systemctl restart NAME" in lines
    assert "bgp         not yet; see: journalctl -u bgp" in lines
