"""Check that a generated manifest keeps every rule, and that a broken rule is named with its fix."""

from __future__ import annotations

import contextlib
import copy
import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kubesyncd.cli.rules.daemonset import Local, daemonset, left_out, local_of
from kubesyncd.cli.rules.daemonset_lint import HOOKS, RULES, SOCKET_FOLDER, Weight, check
from kubesyncd.cli.rules.kube_syntax import invalid_fields
from kubesyncd.core.kube_names import kube_name
from kubesyncd.core.model import FEATURE_NAME
from tests.lab.kube_client import KubeClient, KubeError
from tests.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.system.kube_cluster import RealKube
    from tests.unit.cli.operator import Operator

LOCAL = Local(
    image="docker-snmp:20240510.12",
    binds=("/var/run/redis:/var/run/redis:rw", "/etc/sonic:/etc/sonic:ro", f"{SOCKET_FOLDER}:{SOCKET_FOLDER}"),
    privileged=True,
    tmpfs=("/tmp", "/var/tmp"),
    environment={"NAMESPACE_ID": ""},
)  # fmt: skip


def good() -> Any:
    return daemonset("snmp", LOCAL)


def pod(tree: Any) -> Any:
    return tree["spec"]["template"]["spec"]


def container(tree: Any) -> Any:
    return pod(tree)["containers"][0]


def broken(tree: Any) -> set[str]:
    return {finding.rule for finding in check([tree]) if finding.weight is Weight.BREAKS}


def test_a_manifest_made_here_keeps_every_rule() -> None:
    assert check([good()]) == ()
    assert check([daemonset("snmp", Local(), image=f"registry/snmp@sha256:{64 * '0'}")]) == ()
    assert check([daemonset("snmp", LOCAL, command=["/usr/sbin/snmpd", "-f"])]) == ()


def test_it_runs_as_the_local_container_does_with_the_switch_s_folder_mounted_once() -> None:
    made = good()
    assert [m["mountPath"] for m in container(made)["volumeMounts"]] == [
        SOCKET_FOLDER, "/var/run/redis", "/etc/sonic", "/tmp", "/var/tmp",
    ]  # fmt: skip
    assert container(made)["volumeMounts"][2]["readOnly"] is True
    assert container(made)["securityContext"] == {"privileged": True}
    assert {"name": "RUNTIME_OWNER", "value": "kube"} in container(made)["env"]
    assert pod(made)["nodeSelector"] == {"snmp_enabled": "true"}


def test_what_docker_says_of_the_local_container_is_taken_over() -> None:
    inspected = {
        "Config": {"Image": "docker-lldp:latest", "Env": ["PATH=/bin", "RUNTIME_OWNER=local", "DEV=x=y"]},
        "HostConfig": {
            "Binds": ["/etc/sonic:/etc/sonic:ro"], "CapAdd": ["CAP_NET_ADMIN"], "Tmpfs": {"/tmp": ""},
        },
    }  # fmt: skip
    assert local_of(inspected) == Local(
        image="docker-lldp:latest",
        binds=("/etc/sonic:/etc/sonic:ro",),
        capabilities=("NET_ADMIN",),
        tmpfs=("/tmp",),
        environment={"DEV": "x=y"},
    )
    assert local_of({}) == Local()


@pytest.mark.parametrize(
    ("scripts", "code"),
    [
        ({}, 0),
        ({"readiness_probe.sh": 2}, 2),
        ({"readiness_probe.sh": 0, "readiness_probe_hook": 7}, 0),
        ({"readiness_probe_hook": 7}, 7),
        ({"readiness_probe_hook": 0}, 0),
    ],
)
def test_an_image_that_brings_a_readiness_probe_is_asked_by_it(
    scripts: dict[str, int], code: int, tmp_path: Path
) -> None:
    """SONiC's own one exits with 2 while start.sh goes on, and so while the container waits to be admitted."""
    shell, option, text = container(good())["readinessProbe"]["exec"]["command"]
    for name, exits in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {exits}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "readme").write_text("")
    ran = subprocess.run([shell, option, text.replace("/usr/bin", str(tmp_path))], check=False, timeout=180)
    assert ran.returncode == code


def test_the_version_of_the_local_image_is_not_given_to_another_one() -> None:
    inspected = {"Config": {"Image": "docker-lldp:latest", "Env": ["IMAGE_VERSION=20240510.12"]}}
    assert local_of(inspected).environment == {}


def change(**edits: Any) -> Any:
    """A good manifest with this changed in its pod or its container (None: taken away)."""
    tree = copy.deepcopy(good())
    for key, value in edits.items():
        where = pod(tree) if key in pod(tree) or key in ("initContainers", "affinity") else container(tree)
        if value is None:
            where.pop(key, None)
        else:
            where[key] = value
    volumes = [volume["name"] for volume in pod(tree)["volumes"]]
    mounts = container(tree).get("volumeMounts", [])
    container(tree)["volumeMounts"] = [mount for mount in mounts if mount["name"] in volumes]
    return tree


MOUNT_ALL = [{"name": "kubesyncd", "hostPath": {"path": "/run"}}]


def test_a_feature_with_an_underscore_has_a_hyphen_in_kubernetes() -> None:
    made = daemonset("dhcp_relay", Local())
    assert made["metadata"]["name"] == container(made)["name"] == "dhcp-relay"
    assert made["spec"]["selector"]["matchLabels"] == made["spec"]["template"]["metadata"]["labels"]
    assert pod(made)["nodeSelector"] == {"dhcp_relay_enabled": "true"}
    assert container(made)["lifecycle"]["preStop"]["exec"]["command"] == [f"{HOOKS}/pre-stop", "dhcp_relay"]
    assert container(made)["image"] == "REGISTRY/docker-dhcp-relay:VERSION"
    assert check([made]) == ()
    container(made)["name"] = "dhcp_relay"
    assert {(f.rule, f.fix) for f in check([made])} == {
        ("container", "name the feature's container dhcp-relay"),
        ("syntax", "name it dhcp-relay"),
    }


def test_what_a_manifest_cannot_express_is_left_out() -> None:
    local = Local(
        binds=("data:/data", "/a/../b:/b", "/ok:/ok"),
        tmpfs=("/ok", "/tmp"),
        environment={"1ST": "x", "TEXT": "$(HOME) $HOME"},
    )
    made = daemonset("snmp", local)
    assert [m["mountPath"] for m in container(made)["volumeMounts"]] == [SOCKET_FOLDER, "/ok", "/tmp"]
    assert {"name": "TEXT", "value": "$$(HOME) $HOME"} in container(made)["env"]
    assert left_out(local) == ("1ST", "data:/data", "/a/../b:/b")
    assert check([made]) == ()


ANY_TEXT = st.text(alphabet=st.characters(codec="utf-8"), max_size=12)
PATHS = st.sampled_from(["/", "/etc", "data", "/a/../b", "", "/run/x y", SOCKET_FOLDER]) | ANY_TEXT


@settings(max_examples=50)
@given(
    st.from_regex(FEATURE_NAME, fullmatch=True).filter(kube_name),
    st.builds(
        Local,
        image=st.sampled_from(["docker-snmp:1", "sha256:ab", ""]) | ANY_TEXT,
        binds=st.lists(st.tuples(PATHS, PATHS).map(":".join), max_size=3).map(tuple),
        tmpfs=st.sets(PATHS, max_size=2).map(lambda paths: tuple(sorted(paths))),
        environment=st.dictionaries(
            ANY_TEXT | st.sampled_from(["A", "1A", "..", "a=b"]), ANY_TEXT, max_size=3
        ),
    ),
)
def test_a_generated_manifest_obeys_kubernetes_own_rules(feature: str, local: Local) -> None:
    assert list(invalid_fields(daemonset(feature, local))) == []


SELECTED = {"matchLabels": {"app": "other"}}


@pytest.mark.parametrize(
    ("tree", "problem"),
    [
        (change(name="Snmp"), "container 'Snmp' is invalid"),
        (change(image="registry/Docker-snmp:1"), "invalid image 'registry/Docker-snmp:1'"),
        (change(image="registry/snmp@sha256:0"), "invalid image"),
        (change(env=[{"name": "A B", "value": "x"}]), "invalid environment variable 'A B'"),
        (change(nodeSelector={"snmp_enabled": "true", "a/b/c": "x"}), "an invalid key 'a/b/c'"),
        (change(nodeSelector={"snmp_enabled": "true", "rack": 7}), "an invalid value '7'"),
        (change(volumes=[*pod(good())["volumes"], {"name": "a_b"}]), "volume 'a_b' is invalid"),
        (change(volumes=2 * pod(good())["volumes"]), "volume 'kubesyncd' is there 2 times"),
        (change(volumes=[*pod(good())["volumes"], {"name": "h", "hostPath": {"path": "x"}}]), "invalid hostPath 'x'"),
        ({**good(), "metadata": {"name": "a_b"}}, "its name 'a_b' is invalid"),
        ({**good(), "metadata": {"name": "snmp", "namespace": "So_nic"}}, "its namespace 'So_nic'"),
        ({**good(), "metadata": {"name": "snmp", "annotations": {"x y": ""}}}, "annotation has an invalid key"),
        ({**good(), "metadata": {"name": "snmp", "annotations": {"x": "y" * 300_000}}}, "have 300001 bytes"),
        ({**good(), "spec": {**good()["spec"], "selector": SELECTED}}, "its selector asks for app"),
    ],
)  # fmt: skip
def test_what_kubernetes_would_refuse_is_found(tree: Any, problem: str) -> None:
    found = [finding for finding in check([tree]) if finding.rule == "syntax"]
    assert any(problem in finding.problem for finding in found), found
    assert all(finding.fix for finding in found)


def test_a_mount_without_a_volume_is_found() -> None:
    made = good()
    container(made)["volumeMounts"] += [
        {"name": "none", "mountPath": "/a:b"},
        {"name": "none", "mountPath": "/a:b"},
    ]
    problems = [finding.problem for finding in check([made])]
    assert "it mounts 'none', which is not among its volumes" in problems
    assert "invalid mountPath '/a:b'" in problems
    assert "mountPath '/a:b' is there 2 times" in problems


@pytest.mark.parametrize(
    ("tree", "rule"),
    [
        (change(nodeSelector=None), "label"),
        (change(nodeSelector={"snmp_enabled": "yes"}), "label"),
        (change(nodeSelector={"snmp_enabled": True}), "label"),
        (change(nodeSelector={"snmp_enabled": "true", "bgp_enabled": "x", "z": "1"}, name="bgp"), "label"),
        (change(name="snmpd"), "container"),
        (change(command=["/usr/sbin/snmpd"]), "gate"),
        (change(lifecycle={"postStart": {"exec": {"command": ["container_state", "snmp", "up"]}}}), "gate"),
        (change(volumeMounts=None), "socket"),
        (change(volumes=MOUNT_ALL), "socket"),
        (change(volumes=[{"name": "kubesyncd", "hostPath": {"path": f"{SOCKET_FOLDER}/container.sock"}}]), "socket"),
        (change(volumes=[*pod(good())["volumes"], {"name": "d", "hostPath": {"path": "/run/docker.sock"}}]), "socket"),
        (change(hostNetwork=False), "network"),
        (change(image="registry/docker-snmp"), "pull"),
        (change(image="registry:5000/docker-snmp"), "pull"),
        (change(image="registry/docker-snmp:latest"), "pull"),
        (change(image=None), "pull"),
        ({**good(), "kind": "Deployment"}, "daemonset"),
        ({"kind": "Service", "metadata": {"name": "x"}}, "daemonset"),
    ],
)  # fmt: skip
def test_a_broken_mandate_is_named(tree: Any, rule: str) -> None:
    assert broken(tree) == {rule}


@pytest.mark.parametrize(
    ("tree", "rule"),
    [
        (change(tolerations=None), "taints"),
        (change(priorityClassName=None), "priority"),
        (change(terminationGracePeriodSeconds=300), "grace"),
        (change(initContainers=[{"name": "i"}]), "init"),
        (change(automountServiceAccountToken=None), "token"),
        (change(lifecycle=None), "stop"),
    ],
)
def test_unwise_settings_are_only_advice(tree: Any, rule: str) -> None:
    assert [(f.rule, f.weight) for f in check([tree])] == [(rule, Weight.ADVICE)]


def test_the_label_may_be_asked_for_by_affinity_too() -> None:
    term = {"matchExpressions": [{"key": "snmp_enabled", "operator": "In", "values": ["true"]}]}
    ask = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}
    assert check([change(nodeSelector=None, affinity=ask)]) == ()
    either = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term, term]}
        }
    }
    assert broken(change(nodeSelector=None, affinity=either)) == {"label"}


def test_every_finding_names_a_rule_and_a_fix() -> None:
    for found in check([change(nodeSelector=None, volumeMounts=None, hostNetwork=None, tolerations=None)]):
        assert found.rule in RULES
        assert found.fix
        assert found.where == "DaemonSet/snmp"


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["DaemonSet", "true"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["kind", "metadata", "spec", "template", "containers", "name", "nodeSelector", "volumes",
                         "hostPath", "path", "volumeMounts", "mountPath", "command", "affinity", "image",
                         "tolerations", "snmp_enabled", "lifecycle"]), inner, max_size=4),
    max_leaves=30,
)  # fmt: skip


@settings(max_examples=300)
@given(st.lists(TREES, max_size=3), TREES)
def test_nonsense_is_a_finding_and_never_an_error(documents: list[Any], spec: Any) -> None:
    assert check(documents)
    check([{"kind": "DaemonSet", "metadata": spec, "spec": {"template": {"spec": spec}}}])
    check(
        [{**good(), "spec": {"template": {"spec": {**pod(good()), "containers": [spec], "volumes": spec}}}}]
    )


# ---- the command ---------------------------------------------------------------------------------


def test_the_command_prints_what_it_then_finds_right(terminal: Operator, tmp_path: Path) -> None:
    printed = terminal.types("manifest snmp --image registry/docker-snmp:7")
    assert printed.exit_code == 0, printed.output
    text = printed.stdout
    assert "&id" not in text
    assert yaml.safe_load(text)["metadata"] == {
        "name": "snmp",
        "namespace": "sonic",
        "labels": {"app": "snmp"},
    }
    file = tmp_path / "snmp.yaml"
    file.write_text(text)
    checked = terminal.types(f"manifest --check {file}")
    assert (checked.exit_code, checked.stdout) == (0, f"keeps all {len(RULES)} rules\n")


def test_the_command_names_broken_mandates_and_fails(terminal: Operator, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(yaml.safe_dump(change(nodeSelector=None)))
    checked = terminal.types(f"manifest --check {file}")
    assert checked.exit_code == 1
    assert "DaemonSet/snmp: breaks label: snmp_enabled is not in its nodeSelector" in checked.output
    assert 'add nodeSelector: {snmp_enabled: "true"}' in checked.output
    as_json = json.loads(terminal.types(f"manifest --check {file} --json").stdout.partition("\nkubesync")[0])
    assert as_json[0]["rule"] == "label"


def test_the_command_says_what_it_left_out_and_why_a_feature_has_no_manifest(terminal: Operator) -> None:
    assert terminal.types("manifest odd_").exit_code == 1
    assert "it can only be local" in terminal.types("manifest odd_").stderr
    assert "invalid namespace 'So_nic'" in terminal.types("manifest snmp --namespace So_nic").stderr
    assert "invalid image 'A/B'" in terminal.types("manifest snmp --image A/B").stderr
    assert "name: dhcp-relay" in terminal.types("manifest dhcp_relay --image r/d:1").stdout


@pytest.mark.parametrize("words", ["", "snmp --check x", "--check /none", "Bad"])
def test_an_invalid_command_is_a_usage_error(terminal: Operator, words: str) -> None:
    assert terminal.types(f"manifest {words}").exit_code == 64


def test_an_invalid_yaml_file_is_reported_with_the_position(terminal: Operator, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("a: b\n  c: [")
    ended = terminal.types(f"manifest --check {file}")
    assert ended.exit_code == 1
    assert f"invalid YAML in {file} at line 2" in ended.output


@pytest.mark.real("kube")
async def test_a_real_master_takes_it(kube_api_real: RealKube) -> None:
    made = [daemonset(name, LOCAL, command=["/usr/sbin/snmpd"]) for name in ("snmp", "dhcp_relay", "a" * 55)]
    refused = daemonset("snmp", LOCAL)
    container(refused)["name"] = "dhcp_relay"
    async with KubeClient(kube_api_real.admin_conf) as admin:
        # Another test of this master may have made it.
        with contextlib.suppress(KubeError):
            await admin.post("/api/v1/namespaces", {"metadata": {"name": "sonic"}})
        path = "/apis/apps/v1/namespaces/sonic/daemonsets"
        for daemon_set in made:
            taken = await admin.post(path, daemon_set)
            assert check([taken]) == ()
            await admin.delete(f"{path}/{daemon_set['metadata']['name']}")
        with pytest.raises(KubeError):
            await admin.post(path, refused)


def test_the_hooks_a_manifest_names_are_the_ones_we_ship() -> None:
    shipped = {path.name for path in (ROOT / "etc" / "container").iterdir()}
    assert {"entrypoint", "start-hook", "pre-stop"} <= shipped
    assert HOOKS == "/usr/share/kubesyncd/container"
