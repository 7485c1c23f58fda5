"""Decide whether the kubelet may run, and say why labels wait. Pure rules (promise S4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kubesyncd.core.model import MasterConfig


def why_not_joined(master: MasterConfig | None, *, packages_missing: bool, name_problem: str) -> str:
    """Return why this switch is not a node of the configured master, with what to type. `master` None: not read yet.

    `name_problem`: why it cannot join under its name, or empty.
    """
    if master is None:
        return "the configuration has not been read yet"
    if not master.ip:
        return "no master is configured; run: config kube server ip ADDRESS"
    if master.disable:
        return "the master is disabled; run: config kube server disable off"
    if packages_missing:
        return "the Kubernetes packages are not installed"
    if name_problem:
        return f"this switch cannot join: {name_problem}"
    return "this switch has not joined; run: config kube join"


def kubelet_rule(why_not: str, *, hold: bool, failed: int) -> tuple[bool, str]:
    """Return whether the kubelet may run, and why.

    `why_not`: why the switch has not joined, empty where it has;
    `failed`: the number of labels whose delivery has failed.
    """
    if why_not:
        return False, why_not
    if hold:
        return False, "a reboot is being prepared"
    if failed:
        return False, f"{failed} label{'' if failed == 1 else 's'} could not be delivered to the API server"
    return True, "joined, and no label delivery has failed"
