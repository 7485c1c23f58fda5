"""Check that `doctor` covers everything, names each fix, and continues when a service is down."""

from __future__ import annotations

import json
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from kubesyncd.adapters import kube_lean
from kubesyncd.adapters.kubelet_config import KubeletConfig
from kubesyncd.cli.checks_kubernetes import certificates, judged, skewed
from kubesyncd.cli.diagnosis import CheckGrade, CheckResult, Diagnosis
from kubesyncd.cli.doctor import examine
from kubesyncd.cli.rules.daemonset import Local, daemonset
from kubesyncd.cli.switch import Switch
from kubesyncd.core.fallback_history import FallbackHistory
from kubesyncd.runtime import boot_mark_file, fallback_file
from kubesyncd.runtime.x509 import life
from kubesyncd.settings import load
from tests.lab.certificates import DAY, Authority, write_kubeconfig
from tests.lab.kube_names import kube_box
from tests.lab.stub_daemon import cluster
from tests.unit.cli.operator import STATE_DB

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator
    from pathlib import Path

    from tests.unit.cli.operator import Operator


SKIPPED = ("files", "container", "master", "kubelet", "images", "certificate", "clock", "manifest", "reboot")


@pytest.fixture
def healthy(terminal: Operator) -> Iterator[Operator]:
    """Everything is as it should be: Docker answers, certificates are good, the container socket is there."""
    authority = Authority(terminal.folder / "pki")
    node = authority.issue("node", "system:node:switch1", "system:nodes", valid=300 * DAY)
    write_kubeconfig(
        terminal.folder / "kubelet.conf", "https://127.0.0.1:1", authority.pem, node, inline=False
    )
    terminal.unit("kubelet", "is-active")
    terminal.write_settings(more=f'[paths]\nkubelet_dir = "{terminal.folder}"')
    (terminal.folder / "config.yaml").write_text("kind: KubeletConfiguration\n")
    KubeletConfig(terminal.folder).suit()
    # The clock is the master's business, which has a test of its own.
    terminal.daemon.cluster["connected"] = False
    terminal.daemon.cluster["master"] = ""
    with Docker(terminal.folder / "docker.sock"), socket.socket(socket.AF_UNIX) as container:
        (terminal.folder / "container").mkdir()
        container.bind(str(terminal.folder / "container" / "container.sock"))
        (terminal.folder / "container" / "container.sock").chmod(0o666)
        yield terminal


def in_pod(pod: str, container: str) -> dict[str, Any]:
    return {"Labels": kube_box(container, pod)[1]}


# A feature with a sidecar, and what is no container of the kubelet's.
PODS = [in_pod("snmp-x7", "exporter"), in_pod("snmp-x7", "snmp"), {"Labels": None}, {}]


class Docker:
    """Answers `GET /version` and the list of containers on a Unix socket."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))

    def __enter__(self) -> None:
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                listed = b"/containers/json" in connection.recv(4096)
                body = json.dumps(PODS if listed else {"Version": "20.10.24"}).encode()
                head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
                connection.sendall(head + body)


def found(operator: Operator) -> dict[str, CheckResult]:
    """The last finding of each subject that is worst."""
    order = [CheckGrade.SKIP, CheckGrade.GOOD, CheckGrade.WARN, CheckGrade.BAD]
    worst: dict[str, CheckResult] = {}
    for finding in examine(diagnosis(operator)):
        before = worst.get(finding.subject)
        if before is None or order.index(finding.grade) >= order.index(before.grade):
            worst[finding.subject] = finding
    return worst


def diagnosis(operator: Operator) -> Diagnosis:
    return Diagnosis(Switch(load(operator.settings), {}))


def test_a_healthy_switch_has_no_findings(healthy: Operator) -> None:
    result = healthy.types("doctor")
    assert result.exit_code == 0, result.output
    assert not any(line.startswith(("FAIL", "warn")) for line in result.stdout.splitlines())


def test_the_field_names_in_use_are_told_with_what_decides_them(healthy: Operator) -> None:
    said = found(healthy)["names"]
    assert (said.grade, said.found) == (
        CheckGrade.GOOD,
        'the databases have the design document\'s field names (hld): [schema] names = "hld"',
    )


def test_rows_of_the_other_spelling_are_findings_that_their_commands_clear(healthy: Operator) -> None:
    version = healthy.folder / "sonic_version.yml"
    version.write_text("build_version: '202411.1'\n")
    healthy.write_settings(
        schema="auto",
        more=f'[paths]\nsonic_version = "{version}"\nkubelet_dir = "{healthy.folder}"\n'
        f'state_dir = "{healthy.folder}/state"',
    )
    mark = healthy.folder / "state" / boot_mark_file.FILE
    mark.parent.mkdir(exist_ok=True)
    mark.write_text("{}")
    kept = next(said for said in examine(diagnosis(healthy)) if said.subject == "names")
    assert kept.grade is CheckGrade.WARN
    assert "the design document's field names (hld): this switch has used them before" in kept.found
    assert kept.fix.startswith('set [schema] names = "hld" to keep them, or "sonic"')
    mark.unlink()
    told = [said for said in examine(diagnosis(healthy)) if said.subject == "names"]
    assert told[0].found == f"the databases have SONiC's field names (sonic): {version} exists"
    assert all(said.grade is CheckGrade.WARN for said in told[1:])
    assert [said.fix.removeprefix("set it: ") for said in told if "snmp has fallback" in said.found] == [
        "kubesync config feature fallback snmp on"
    ]
    for said in told[1:]:
        command = said.fix.removeprefix("set it: ").removeprefix("run: ")
        if command.startswith("kubesync "):
            assert healthy.types(command.removeprefix("kubesync ")).exit_code == 0
        else:
            _, database, verb, key, *fields = command.split()
            assert (database, verb) == ("STATE_DB", "HDEL")
            with healthy.redis.client(STATE_DB) as client:
                assert client.hdel(key.strip("'"), *fields) == len(fields)
    assert [said.grade for said in examine(diagnosis(healthy)) if said.subject == "names"] == [
        CheckGrade.GOOD
    ]
    assert "no_fallback_to_local" not in healthy.configured("FEATURE|snmp")
    assert healthy.configured("FEATURE|snmp")["remote_fail_detection"] == "10"


def test_a_fallback_kept_from_ctrmgrds_time_is_a_finding_until_its_command_is_typed(
    healthy: Operator,
) -> None:
    healthy.write_settings(
        schema="sonic",
        more=f'[paths]\nstate_dir = "{healthy.folder}/state"\nkubelet_dir = "{healthy.folder}"',
    )
    (healthy.folder / "state").mkdir()
    history = FallbackHistory(frozenset({"lldp"}), frozenset({"snmp"}))
    (healthy.folder / "state" / fallback_file.FILE).write_bytes(fallback_file.encode(history))
    for name in ("snmp", "lldp"):
        healthy.configure(f"FEATURE|{name}", no_fallback_to_local="false")
    rows = [said for said in examine(diagnosis(healthy)) if said.subject == "row"]
    assert [(said.grade, said.fix) for said in rows] == [
        (CheckGrade.WARN, "run: kubesync config feature fallback lldp on (or off)")
    ]
    assert "lldp does not fall back" in rows[0].found
    assert healthy.types("config feature fallback lldp on").exit_code == 0
    assert not [said for said in examine(diagnosis(healthy)) if said.subject == "row"]


def test_errors_of_the_settings_file_are_findings_and_the_rest_is_checked(healthy: Operator) -> None:
    healthy.write_settings(more='[timing]\nverb_s_max = 3\ncri_socket = "x"')
    result = healthy.types("doctor --json")
    assert result.exit_code == 1
    findings = json.loads(result.stdout)
    told = [finding for finding in findings if finding["subject"] == "settings"]
    assert [finding["grade"] for finding in told] == ["FAIL"] * 3
    assert "unknown key 'cri_socket' in [timing]" in told[0]["found"]
    assert "verb_s_max = 3" in told[1]["found"]
    assert all(finding["fix"].startswith("correct it") for finding in told)
    assert any(finding["subject"] == "docker" and finding["grade"] == "ok" for finding in findings)


def test_findings_are_there_as_json(healthy: Operator) -> None:
    findings: list[dict[str, Any]] = healthy.json("doctor --json")
    assert {"subject", "grade", "found", "fix"} == set(findings[0])


def test_with_everything_down_each_service_is_named_once_and_the_rest_is_checked(terminal: Operator) -> None:
    terminal.daemon.stop()
    terminal.write_settings(url=f"unix://{terminal.folder}/nobody.sock")
    result = terminal.types("doctor")
    assert result.exit_code == 1
    begins = [tuple(line.split()[:2]) for line in result.stdout.splitlines() if not line.startswith(" ")]
    assert begins == [
        ("ok", "settings"),
        ("FAIL", "daemon"),
        ("FAIL", "socket"),
        ("FAIL", "socket"),
        ("FAIL", "redis"),
        ("ok", "names"),
        ("-", "names"),
        ("FAIL", "docker"),
        *(("-", subject) for subject in SKIPPED),
    ]
    assert all(len(line) <= 80 for line in result.stdout.splitlines())


def test_a_pod_whose_containers_have_other_names_than_features_is_reported(
    healthy: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "PODS", [*PODS, in_pod("lldp-a1", "agent"), in_pod("lldp-a1", "helper")])
    reported = found(healthy)["container"]
    assert reported.found == "pod sonic/lldp-a1 runs no feature: its containers are called agent, helper"
    assert reported.fix == "call one like its feature in the manifest"


def test_a_file_that_cannot_be_written_is_a_failure_with_its_meaning(healthy: Operator) -> None:
    text = "/run/features.json cannot be written: Read-only file system: no feature is handed over"
    healthy.daemon.cluster["unwritten_files"] = [f"{text}; make it writable"]
    reported = found(healthy)["files"]
    assert (reported.grade, reported.found, reported.fix) == (CheckGrade.BAD, text, "make it writable")


def test_every_failure_names_its_fix(healthy: Operator) -> None:
    healthy.daemon.cluster = cluster(
        connected=False,
        insecure=True,
        kubelet_may_run=False,
        pending=["a=b"],
        refused={"x": "no"},
        hold=True,
        refused_containers=[
            {"feature": "snmp", "container_id": "c0be".ljust(64, "0"), "why": "its pod is foreign; add it"}
        ],
    )
    healthy.daemon.features["snmp"]["row"]["failure"] = "no kube container has run for 10 min"
    healthy.configure("FEATURE|snmp", kube_failure_detection="soon")
    (healthy.folder / "host.sock").chmod(0o666)
    with healthy.redis.client(4) as client:
        client.config_set("notify-keyspace-events", "Ex")
        client.delete("CONFIG_DB_INITIALIZED")
    worst = found(healthy)
    bad = {subject for subject, finding in worst.items() if finding.grade is CheckGrade.BAD}
    assert {"feature", "socket", "events", "master", "labels", "kubelet"} <= bad
    assert {subject for subject, finding in worst.items() if finding.grade is CheckGrade.WARN} == {
        "redis",
        "row",
        "reboot",
        "container",
    }
    assert worst["container"].found == "c0be00000000 was refused feature snmp: its pod is foreign"
    assert worst["container"].fix == "add it"
    assert all(
        finding.fix for finding in worst.values() if finding.grade in (CheckGrade.BAD, CheckGrade.WARN)
    )


def test_rows_whose_names_no_feature_can_have_are_reported(healthy: Operator) -> None:
    for name in ("P4RT", "1st"):
        healthy.configure(f"FEATURE|{name}", set_owner="local")
    row = found(healthy)["row"]
    assert row.grade is CheckGrade.BAD
    assert row.found.startswith("FEATURE|1st, FEATURE|P4RT: invalid name, not managed")
    assert row.fix == "rename or delete the row"


def test_a_feature_whose_name_in_kubernetes_is_another_s_is_reported(healthy: Operator) -> None:
    why = "its container in Kubernetes would be dhcp-relay, which is that of dhcp_relay; it can only be local"
    healthy.daemon.features["snmp"]["config"] |= {"local_only": True, "why_local": why}
    feature = found(healthy)["feature"]
    assert feature.grade is CheckGrade.BAD
    assert feature.found.endswith(
        "without effect: its container in Kubernetes would be dhcp-relay, which is that of dhcp_relay"
    )
    assert feature.fix == "run: kubesync config feature snmp owner local"
    assert "wanted     local: its container in Kubernetes would be" in healthy.types("explain snmp").stdout


def test_kubernetes_packages_that_are_in_use_count_as_installed(healthy: Operator) -> None:
    healthy.daemon.cluster = cluster()
    kube_lean.load()
    assert found(healthy)["master"].grade is CheckGrade.GOOD


def test_a_local_switch_gets_no_findings_about_kubernetes(healthy: Operator) -> None:
    healthy.daemon.cluster = cluster(master="", joined=False, connected=False)
    worst = found(healthy)
    assert worst["master"] == CheckResult(
        "master", CheckGrade.SKIP, "none configured: Kubernetes runs no feature"
    )
    assert not {"kubelet", "certificate", "clock"} & set(worst)


@pytest.mark.parametrize(
    ("age", "valid", "grade", "words"),
    [
        (2 * DAY, 300.1 * DAY, CheckGrade.GOOD, "is valid for 300 d"),
        (328 * DAY, 37.1 * DAY, CheckGrade.GOOD, "is valid for 37 d"),
        (335 * DAY, 29.9 * DAY, CheckGrade.WARN, "expires in 29 d"),
        (0.1 * DAY, 29.9 * DAY, CheckGrade.GOOD, "is valid for 29 d"),
        (27.1 * DAY, 2.9 * DAY, CheckGrade.WARN, "expires in 2 d"),
        (2 * DAY, -1.1 * DAY, CheckGrade.BAD, "expired 1 d"),
        (-1.1 * DAY, 2 * DAY, CheckGrade.BAD, "becomes valid in 1 d 2 h: this switch's clock may be wrong"),
    ],
)
def test_a_certificate_is_judged_by_the_share_of_its_life_that_is_left(
    terminal: Operator, age: dt.timedelta, valid: dt.timedelta, grade: CheckGrade, words: str
) -> None:
    authority = Authority(terminal.folder / "pki")
    for inline in (True, False):
        pair = authority.issue(f"node{inline}", "system:node:switch1", "system:nodes", valid=valid, age=age)
        write_kubeconfig(terminal.folder / "kubelet.conf", "https://x:1", authority.pem, pair, inline=inline)
        (finding,) = certificates(diagnosis(terminal))
        assert (finding.grade, words in finding.found) == (grade, True), finding


def test_a_kubelet_that_may_remove_local_images_is_reported_with_the_setting(healthy: Operator) -> None:
    config = healthy.folder / "config.yaml"
    config.write_text("imageGCHighThresholdPercent: 100\nimageGCLowThresholdPercent: 99\n")
    told = found(healthy)["images"]
    assert told.grade is CheckGrade.WARN
    assert f"evictionHard in {config}" in told.found
    config.unlink()
    assert found(healthy)["images"].grade is CheckGrade.WARN
    healthy.write_settings(more="[images]\nkubelet_gc = true")
    assert "images" not in found(healthy), "an operator has set it"


def test_an_admin_conf_that_others_may_read_is_reported(terminal: Operator) -> None:
    authority = Authority(terminal.folder / "pki")
    pair = authority.issue("admin", "admin", "system:masters")
    write_kubeconfig(terminal.admin_conf, "https://x:1", authority.pem, pair, inline=True)
    terminal.admin_conf.chmod(0o644)
    fixes = [finding.fix for finding in certificates(diagnosis(terminal))]
    assert f"run: chmod 600 {terminal.admin_conf}" in fixes


def test_an_invalid_kubeconfig_says_to_join_again(terminal: Operator) -> None:
    (terminal.folder / "kubelet.conf").write_text(json.dumps({"kind": "Config"}))
    (finding,) = certificates(diagnosis(terminal))
    assert (finding.grade, "join again" in finding.fix) == (CheckGrade.BAD, True)


def test_the_end_of_a_certificate_is_read_as_openssl_reads_it(tmp_path: Path) -> None:
    from cryptography import x509

    authority = Authority(tmp_path)
    # 2050 and later are spelled with four digits.
    for valid in (DAY, 40 * 365 * DAY, -DAY):
        pem = authority.issue("c", "c", valid=valid).certificate.read_bytes()
        expected = x509.load_pem_x509_certificate(pem)
        assert life(pem).begins == expected.not_valid_before_utc.timestamp()
        assert life(pem).ends == expected.not_valid_after_utc.timestamp()


@pytest.mark.parametrize("junk", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_an_invalid_certificate_has_no_end(junk: bytes) -> None:
    with pytest.raises(ValueError):
        life(junk)


def test_a_clock_that_differs_from_the_master_s_is_reported() -> None:
    assert skewed(-29.0).grade is CheckGrade.GOOD
    assert skewed(600.0).found.startswith("this switch is 10 min behind the master")
    assert skewed(-600.0).found.startswith("this switch is 10 min ahead of the master")


def test_a_feature_s_daemonset_that_breaks_a_mandate_is_reported_with_its_fix() -> None:
    good = {**daemonset("snmp", Local(), image=f"registry/snmp@sha256:{64 * '0'}"), "kind": "DaemonSet"}
    (finding,) = judged([good])
    assert finding.grade is CheckGrade.GOOD, finding
    bad = json.loads(json.dumps(good))
    bad["spec"]["template"]["spec"]["hostNetwork"] = False
    (finding,) = judged([bad])
    assert (finding.grade, finding.fix) == (CheckGrade.BAD, "set hostNetwork: true")
    assert list(judged([])) == []
