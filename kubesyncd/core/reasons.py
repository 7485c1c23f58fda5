"""Word why a feature waits, for the plans that name a reason.

Decides nothing: the planner does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubesyncd.core.health import REPLACED
from kubesyncd.core.model import Owner

if TYPE_CHECKING:
    from kubesyncd.core.model import Container, FeatureConfig
    from kubesyncd.core.observation import Observation
    from kubesyncd.core.record import Record


# What the kubelet calls the pauses between the starts of a container that ends again and again.
BACK_OFF = "CrashLoopBackOff"


def until_deployed(observed: Observation, looping: str) -> str:
    """Word why a local container runs although Kubernetes is the owner; `looping`: see `health.crash_loop`."""
    if observed.no_deploy:
        return f"the local container runs; kube cannot deploy: {observed.no_deploy}"
    if looping:
        kube = "its pods are evicted or deleted" if REPLACED in looping else f"the kube one is in {BACK_OFF}"
        return f"the local container runs; {kube} ({looping})"
    return "the local container runs until kube deploys"


def waits_for_kube(observed: Observation, looping: str) -> str:
    """Word the wait of a feature without a container for its deployment; `looping`: see `health.crash_loop`."""
    if looping and not observed.label.refused and not observed.no_deploy:
        if REPLACED in looping:
            return f"waiting for the next pod: those before were evicted or deleted ({looping})"
        return f"{BACK_OFF}: the kubelet waits before it starts the kube container again ({looping})"
    waits = "waiting for kube deployment"
    if observed.label.refused:
        waits = f"{waits}, blocked: the API server refuses the node label ({observed.label.refused})"
    if observed.no_deploy:
        waits = f"{waits}, which is not possible: {observed.no_deploy}"
    return waits


def returns(record: Record, observed: Observation) -> str:
    """Word why the local container returns although kube is the owner."""
    if observed.no_admission is not None:
        return f"the kube container cannot be admitted ({observed.no_admission.text}): the local one returns"
    if record.local_back:
        return "the kube container could not be admitted: the local one returns"
    if record.local_due and record.health.looping:
        return f"the kube container is crash-looping ({record.health.looping}): the local one returns"
    if record.local_due:
        return "the kube container did not stay up: the local one returns"
    if record.failure:
        return record.failure
    if observed.no_deploy:
        because = observed.no_deploy.partition("; ")[0]
        return f"kube cannot deploy ({because}): the local one returns"
    return "kube has not deployed in time: the local one returns"


def could_not_start(why: str) -> str:
    """Word that the local container did not come when that was last tried."""
    return f"the local container could not be started: {why}"


def started_by_policy(local: Container) -> str:
    """Word that Docker has started a local container without being asked."""
    return f"Docker has started the local container by its restart policy {local.restart_policy}"


def runs_on(local: Container | None) -> str:
    """Word why a local container runs although its unit is down, and is left alone."""
    if local is None or not local.restarts:
        return "the local container was started manually and keeps running"
    return (
        f"the local container runs: it was started manually, or by Docker, for it has the restart policy "
        f"{local.restart_policy}"
    )


def kept(config: FeatureConfig, record: Record, uncertain: str) -> str:
    """Word why Kubernetes keeps a feature that should run locally; empty where it should not.

    `uncertain`: see `record.uncertain`.
    """
    if config.owner is not Owner.LOCAL and not record.rolled_back:
        return ""
    because = f"rolled back ({record.failure})" if record.rolled_back else "set_owner=local"
    return f"{because}, but {uncertain}: the kube container is kept"


def next_chance(feature: str) -> str:
    """Word when a rolled-back feature may be run by Kubernetes again."""
    return (
        "the local container runs until Kubernetes labels this node again and deploys another image, "
        f"or until you run: kubesync clear {feature}"
    )


def why_refused(record: Record) -> str:
    """Word why a waiting kube container is not admitted yet."""
    looping = record.health.looping
    if not record.crashes and not record.health.sick:
        return "the kube container waits, but it could not be admitted: the local one stays for now"
    if record.crashes and looping:
        return f"the kube container waits, but it is crash-looping ({looping}): the local one stays for now"
    count, did = (record.crashes, "ended early") if record.crashes else (record.health.sick, "was unhealthy")
    times = "once" if count == 1 else f"{count} times in a row"
    return f"the kube container waits, but it {did} {times}: the local one stays for now"
