"""Check what a switch makes of pods that end again and again, and of pods that follow no label, on the real kubelet.

The stand-in has neither probes nor limits, and no pod without the API server.
"""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.kube_client import DAEMONSETS, PODS
from tests.lab.kube_names import NAMESPACE
from tests.system.switch_fixtures import joined
from tests.system.switch_kube import RealMaster
from tests.wait import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.switch import Switch
    from tests.system.kube_fixtures import RealKubelet
    from tests.system.switch_fixtures import MakeSwitch

# The kubelet waits up to 300 s before it starts a container again that fails again and again.
POD_S = 400.0
pytestmark = pytest.mark.real("kubelet")


@pytest.fixture
def kubelet_switches(kubelet_real: RealKubelet, new_switch: MakeSwitch) -> MakeSwitch:
    """`kubelet_switches(**options)` powers a switch on that has joined the real master."""
    kubelet_real.cluster.start_kubelet(kubelet_real.docker_socket)

    def powered(**options: Any) -> Switch:
        switch = new_switch(kubelet_real.docker, RealMaster(kubelet_real.cluster), **options)
        joined(switch)
        return switch

    return powered


def said(switch: Switch, *command: str) -> str:
    """What an operator's command prints, as one line."""
    return " ".join(switch.prints(*command).split())


def says(switch: Switch, words: str, *command: str) -> None:
    switch.until_told(words, *command, limit_s=POD_S)


def polite(switch: Switch, feature: str) -> dict[str, Any]:
    """A DaemonSet whose container ends with code 0, as long as that may take on a busy machine."""
    made = switch.master.daemonset(feature)
    made["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 60
    return made


def killed_by_its_probe(switch: Switch) -> dict[str, Any]:
    """A DaemonSet whose container runs on, and whose liveness probe fails after a while."""
    made = polite(switch, "snmp")
    made["spec"]["template"]["spec"]["containers"][0]["livenessProbe"] = {
        "exec": {"command": ["/bin/false"]},
        # Longer than a busy machine needs to admit it and to see it stay up.
        "initialDelaySeconds": 10,
        "periodSeconds": 1,
        "failureThreshold": 1,
    }
    return made


def short_of_memory(switch: Switch) -> dict[str, Any]:
    """A DaemonSet whose container takes more memory than its limit after a while.

    Its first process outlives the one that takes it: Docker may hear of a container's end before the kernel's reason.
    """
    made = switch.master.daemonset("lldp")
    (container,) = made["spec"]["template"]["spec"]["containers"]
    container["command"] = [
        "/bin/sh",
        "-c",
        f"{' '.join(container['command'])} & sleep 10; tail /dev/zero; code=$?; sleep 2; exit $code",
    ]
    container["resources"] = {"limits": {"memory": "64Mi"}}
    return made


def only_pod(switch: Switch, feature: str) -> str:
    """The name of the feature's pod, once there is no other; those that end do not count, of an earlier test either."""

    def found() -> list[str]:
        return [
            pod["metadata"]["name"]
            for pod in switch.master.call("get", PODS)["items"]
            if pod["metadata"]["name"].startswith(f"{feature}-")
            and "deletionTimestamp" not in pod["metadata"]
            and pod["status"].get("phase") not in ("Failed", "Succeeded")
        ]

    what = f"{feature} has one pod"
    return until(lambda: names[0] if len(names := found()) == 1 else "", what, POD_S, told=switch.told)


def evict(switch: Switch, feature: str, times: int) -> None:
    """Evict the feature's pod so often, as `kubectl drain` does, each time once it has stayed up."""
    for number in range(times):
        switch.wait_for(
            lambda number=number: (
                switch.ups(feature).count("kube") > number and switch.shown(feature)["proven"]
            ),
            f"{feature} runs by kube, and stays up",
            POD_S,
        )
        pod = only_pod(switch, feature)
        # The version that every kube-apiserver up to 1.24 knows.
        eviction = {"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": {"name": pod}}
        switch.master.call("post", f"{PODS}/{pod}/eviction", eviction)


@pytest.mark.slow("the kubelet pauses before it starts a container again that has failed")
def test_probe_kills_oom_kills_and_evictions_are_failures_though_each_container_outlasts_its_trial(
    kubelet_switches: MakeSwitch,
) -> None:
    switch = kubelet_switches(
        timing={
            "crash_window_s": 240.0,
            "fallback_after_s": 3000.0,
            "handover_delay_s": 3000.0,
            "handover_delay_s_max": 3000.0,
        }
    )
    ends = {
        "snmp": "3 ends within 4 min, the last one with exit code 0",
        "lldp": "3 ends within 4 min, the last one with exit code 137 (out of memory)",
        "pmon": "3 ends within 4 min, each of another pod, the last one with exit code 0",
    }
    made = (killed_by_its_probe(switch), short_of_memory(switch), polite(switch, "pmon"))
    for feature, daemonset in zip(ends, made, strict=True):
        switch.boot_local(feature)
        switch.master.call("post", DAEMONSETS, daemonset)
        switch.config(feature, set_owner="kube", fallback_to_local=str(feature == "lldp").lower())
    waiters = [switch.waits(feature) for feature in ends]
    evict(switch, "pmon", 3)
    for feature, told in ends.items():
        failure = f"crash-looping: {told}"
        switch.until_row(feature, failure=failure)
        assert len(switch.log("kube_failed", feature=feature, alert=True, why=failure)) == 1
        assert switch.ups(feature)[:4] == ["local", "kube", "kube", "kube"], "each one was admitted"
        says(switch, f"failed {failure}", "explain", feature)
        says(switch, f"feature {feature} has failed: {failure}", "doctor")
        says(switch, told, "show", "feature", feature)

    # With fallback the local container is back, and what the container lacked is named.
    switch.until_state("lldp", "LOCAL")
    says(
        switch,
        f"the local container runs; the kube one is in CrashLoopBackOff ({ends['lldp']})",
        "explain",
        "lldp",
    )
    for view in (("explain", "lldp"), ("doctor",), ("show", "feature", "lldp")):
        says(switch, "for lack of memory; raise its memory limit", *view)
    says(switch, "the next hand-over may begin in", "explain", "lldp")

    # Without it, no delay of ours keeps the next container out.
    paused = (
        f"because CrashLoopBackOff: the kubelet waits before it starts the kube container again ({ends['snmp']})",
        "waits for the kubelet to start its kube container again (CrashLoopBackOff), and that one to stay up",
    )
    switch.wait_for(
        lambda: all(words in said(switch, "explain", "snmp") for words in paused),
        "explain names the pause",
        POD_S,
    )
    assert "next hand-over" not in said(switch, "explain", "snmp")
    assert [waiter.poll() for waiter in waiters] == [None] * 3, "no unit has noticed"


@contextlib.contextmanager
def static_pod(switch: Switch, kubelet: RealKubelet, feature: str) -> Iterator[str]:
    """A static pod that runs a feature, from a file of the kubelet's; its name, to the API server too."""
    template = switch.master.daemonset(feature)["spec"]["template"]
    del template["spec"]["nodeSelector"]
    metadata = {"name": "static", "namespace": NAMESPACE}
    manifest = kubelet.cluster.static_pods / "static.json"
    manifest.write_text(json.dumps({"apiVersion": "v1", "kind": "Pod", **template, "metadata": metadata}))
    try:
        yield f"static-{kubelet.cluster.node}"
    finally:
        manifest.unlink()


@contextlib.contextmanager
def orphaned_pod(switch: Switch, feature: str) -> Iterator[str]:
    """The pod that a deleted DaemonSet has left behind; its name."""
    pod = only_pod(switch, feature)
    switch.master.call("delete", f"{DAEMONSETS}/{feature}", propagation="Orphan")
    try:
        yield pod
    finally:
        switch.master.call("delete", f"{PODS}/{pod}")


def test_static_and_orphaned_pods_are_named_and_left_alone_after_one_return(
    kubelet_switches: MakeSwitch, kubelet_real: RealKubelet
) -> None:
    """snmp never was with Kubernetes, and has a static pod; lldp comes back from a DaemonSet that is gone."""
    switch = kubelet_switches(timing={"kube_stop_grace_s": 4.0})
    for feature in ("snmp", "lldp"):
        switch.boot_local(feature)
    switch.master.deploy("lldp")
    switch.config("lldp", set_owner="kube")
    switch.until_state("lldp", "KUBE_RUNNING")
    with (
        kubelet_real.docker.lenient(),
        static_pod(switch, kubelet_real, "snmp") as static,
        orphaned_pod(switch, "lldp") as orphan,
    ):
        switch.config("lldp", set_owner="local")
        pods = {"snmp": static, "lldp": orphan}

        # Each waits beside the local container, and every view names it.
        for feature, pod in pods.items():
            named = f"pod {NAMESPACE}/{pod} comes although the node label {feature}_enabled is off"
            for view in (("explain", feature), ("doctor",), ("show", "feature", feature)):
                says(switch, named, *view)
            switch.wait_for(lambda f=feature: len(switch.shown(f)["waiting"]) == 1, f"{feature}'s pod waits")
            switch.until_state(feature, "LOCAL")
            assert len(switch.log("pod_does_not_follow_label", feature=feature, alert=True)) == 1

        # A stop ends the container that is not known to come back, once; each one that has come back is left alone.
        before = {feature: switch.shown(feature)["waiting"] for feature in pods}
        for feature in pods:
            switch.done("stop", feature)
        switch.wait_for(
            lambda: set(switch.shown("snmp")["waiting"]) - set(before["snmp"]),
            "the kubelet has started snmp's again",
            POD_S,
        )
        assert switch.shown("lldp")["waiting"] == before["lldp"]
        ends = stops(switch)
        time.sleep(6.0)
        assert stops(switch) == ends, "none is stopped again and again"
        for feature, pod in pods.items():
            assert switch.state(feature) == "INIT"
            told = said(switch, "explain", feature)
            assert f"pod {NAMESPACE}/{pod} comes although" in told
            assert "waiting for the kubelet to end the container" not in told
        assert switch.ups("snmp") == ["local"], "it is never admitted"
        assert switch.ups("lldp") == ["local", "kube", "local"]


def stops(switch: Switch) -> int:
    """How often the daemon has had Docker stop a container."""
    return len([e for e in switch.log("action") if e["action"].startswith("docker stop")])
