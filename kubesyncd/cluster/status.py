"""Tell operators of this node's side of the API server: the status, why labels wait, and what should be fixed.

Reads the parts of the controller and changes none of them. Owns what is known of the Node's own state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from kubesyncd.cluster.rules import kubelet_rule, why_not_joined
from kubesyncd.core.host import host_port

if TYPE_CHECKING:
    from kubesyncd.cluster.credential_watch import CredentialWatch
    from kubesyncd.cluster.kubelet import KubeletGate
    from kubesyncd.cluster.label_sync import LabelSync
    from kubesyncd.cluster.master_config import MasterConfigReader
    from kubesyncd.cluster.node_health import NodeHealth
    from kubesyncd.cluster.node_link import NodeLink
    from kubesyncd.core.descriptions import ClusterDescription
    from kubesyncd.core.model import MasterConfig
    from kubesyncd.runtime.context import Runtime


class NodeNaming(Protocol):
    """What this switch's Node is called, at the moment of the call."""

    def current(self) -> str:
        """Return the Node's name on the master; before a join, the name of the next one."""

    def problem(self) -> str:
        """Return why this switch cannot join under its name, with what to type; empty where it can."""

    def renamed(self) -> str:
        """Return what to know where the host's name has changed since the join; empty where it has not."""


class ClusterStatus:
    """What the controller's parts come to, in words. `node`: the own Node's state."""

    def __init__(
        self,
        *,
        config: MasterConfigReader,
        link: NodeLink,
        labels: LabelSync,
        kubelet: KubeletGate,
        names: NodeNaming,
        credential: CredentialWatch,
        node: NodeHealth,
        runtime: Runtime,
    ) -> None:
        self._config = config
        self._link = link
        self._labels = labels
        self._kubelet = kubelet
        self._names = names
        self._credential = credential
        self._clock = runtime.clock
        self.node = node
        self._alerts = runtime.alert_log("node")

    def check(self, master: MasterConfig, *, joined: bool) -> None:
        """Log what an operator should fix."""
        self._credential.check(master, joined=joined)
        self._alerts.warn("node_renamed", self._names.renamed() if joined else "")

    def rule(self, *, joined: bool, hold: bool) -> tuple[bool, str]:
        """Return whether the kubelet may run, and why."""
        why_not = "" if joined else self._why_not_joined()
        return kubelet_rule(why_not, hold=hold, failed=len(self._labels.queue.failed))

    def no_deploy(self, *, joined: bool, leaving: bool) -> str:
        """Return why Kubernetes cannot deploy on this switch, with what to type; empty where it can."""
        node = self.node.judge()
        if joined:
            known = bool(self._link.connected and self._link.node_exists)
            return self._kubelet.registration.no_deploy or (node if known else "")
        return "this switch is leaving its master" if leaving else self._why_not_joined()

    def why_pending(self, *, joined: bool) -> str:
        """Return why labels wait."""
        if not joined:
            return self._why_not_joined()
        why = self._kubelet.registration.told or (self._labels.failure.detail if self._labels.failure else "")
        return why or "the API server has not answered yet"

    def describe(self, *, joined: bool, hold: bool, unwritten: list[str]) -> ClusterDescription:
        """Return the status for operators, without the membership; `unwritten`: files that cannot be written."""
        master, queue, link = self._config.master, self._labels.queue, self._link
        may_run, kubelet_why = self.rule(joined=joined, hold=hold)
        expires_ts = self._credential.expires_ts
        retry_in_s = max(0.0, self._labels.retry_at - self._clock())
        return {
            "node": self._names.current(),
            "renamed": self._names.renamed() if joined else "",
            "master": host_port(master.ip, master.port) if master and master.ip else "",
            "disabled": bool(master and master.disable),
            "insecure": bool(master and master.insecure),
            "joined": joined,
            "connected": bool(link.connected),
            "why_disconnected": link.why if joined and not link.connected else "",
            "last_update_ts": link.state[1],
            "credential_expires_ts": None if expires_ts is None else int(expires_ts),
            "node_exists": link.node_exists,
            "node_state": self._node_state() if joined and link.connected and link.node_exists else "",
            "node_gone": self._kubelet.registration.told,
            "node_labels": dict(link.node) if link.node_exists and link.node is not None else None,
            "hold": hold,
            "kubelet": self._kubelet.running,
            "kubelet_may_run": may_run,
            "kubelet_why": kubelet_why,
            "kubelet_trouble": self._kubelet.trouble,
            "unwritten_files": unwritten,
            "pending": [str(change) for change in queue.changes],
            "failed": sorted(queue.failed),
            "applied": {key: value for key, value in queue.applied.items() if value is not None},
            "drifted": dict(queue.drifted) if link.node_exists else {},
            "wished": dict(queue.wishes),
            "refused": dict(self._labels.refusals),
            "why_pending": self.why_pending(joined=joined) if queue.pending else "",
            "retry_in_s": round(retry_in_s, 1) if queue.pending else 0.0,
        }

    def _node_state(self) -> str:
        """Return the Node's own state in words."""
        condition = self.node.condition
        words = [self.node.why_not or "ready"]
        if condition.cordoned:
            words.append("cordoned: it takes pods of DaemonSets only")
        tolerated = [taint for taint in condition.taints if taint not in words[0]]
        if tolerated:
            words.append(f"tainted {', '.join(tolerated)}, which pods here tolerate")
        return "; ".join(words)

    def _why_not_joined(self) -> str:
        return why_not_joined(
            self._config.master,
            packages_missing=self._link.packages_missing,
            name_problem=self._names.problem(),
        )
