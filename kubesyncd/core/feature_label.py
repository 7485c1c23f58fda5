"""Decide which Node label a feature should have.

Knows no clock, no client, no coroutine. The label lets Kubernetes deploy the feature's pod on this node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubesyncd.core.model import KubeLabel, Owner
from kubesyncd.core.record import ruling_owner, state_of
from kubesyncd.core.state import State

if TYPE_CHECKING:
    from kubesyncd.core.model import FeatureConfig
    from kubesyncd.core.observation import Observation
    from kubesyncd.core.record import Record


def label_wanted(state: State, owner: Owner, record: Record, observed: Observation) -> KubeLabel:
    """Return the label the feature should have; UNKNOWN leaves it unchanged.

    `kill --no-kubelet-check` skips labels: they are requested after it is done, and after a reboot (`hold`).
    """
    if state in (State.UNKNOWN, State.DRIFT):
        return KubeLabel.UNKNOWN
    if state is State.INIT:
        # A start whose daemon was killed may still be carried out: the label does not wait for that.
        ends = observed.local_running or observed.local_may_start or record.grant in observed.kube_running
        hurried = not record.style.kubelet_check and ((record.ending and bool(ends)) or observed.hold)
        return KubeLabel.UNKNOWN if hurried else KubeLabel.OFF
    if owner is not Owner.KUBE:
        return KubeLabel.UNKNOWN if record.rolled_back and record.health.withdrawn else KubeLabel.OFF
    return KubeLabel.UNKNOWN if state in (State.STARTING, State.LOCAL_EXITED) else KubeLabel.ON


def label_missing(config: FeatureConfig, record: Record, observed: Observation) -> KubeLabel | None:
    """Return the label to request, or None where it is already as wanted or this node has not joined.

    A feature without any part in Kubernetes requests nothing: a label never observed is taken as off.
    """
    wanted = label_wanted(state_of(config, record, observed), ruling_owner(config, record), record, observed)
    if not observed.joined or wanted is KubeLabel.UNKNOWN or wanted is observed.label.value:
        return None
    if wanted is KubeLabel.ON and observed.label.refused:
        # Requesting a refused label again fails again; withdrawing a label that another client has set works.
        return None
    ours = config.owner is Owner.KUBE or record.grant or observed.kube_running
    if observed.label.value is KubeLabel.UNKNOWN and wanted is KubeLabel.OFF and not ours:
        return None
    return wanted
