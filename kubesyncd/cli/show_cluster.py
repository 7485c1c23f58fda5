"""List what the API server knows: `show kubernetes nodes|pods`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypedDict

import click

from kubesyncd.cli.click_groups import Command
from kubesyncd.cli.output import ago, json_option, print_json, put, table, this_switch, unless
from kubesyncd.cli.rules.tree import at, items

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kubesyncd.adapters.kube_lists import ClusterLists, Listing
    from kubesyncd.cli.rules.tree import Tree


class NodeRow(TypedDict):
    """What is shown of a Node. `created`: seconds since the epoch."""

    name: str
    ready: str
    version: str
    address: str
    created: float


class PodRow(TypedDict):
    """What is shown of a Pod. `created`: seconds since the epoch."""

    namespace: str
    name: str
    node: str
    state: str
    restarts: int
    created: float


@click.command(cls=Command, options_metavar="[--json]")
@json_option
def nodes(as_json: bool) -> None:
    """List all nodes of the cluster."""
    listing = _admin().nodes()
    if as_json:
        print_json([node_row(item) for item in listing.items])
        return
    made = table("Node", "Ready", "Version", "Address", "Age")
    for item in listing.items:
        row = node_row(item)
        made.add_row(row["name"], row["ready"], row["version"], row["address"], ago(row["created"]))
    put(made)
    _print_more(listing)


@click.command(cls=Command, options_metavar="[--here] [--json]")
@click.option("--here", is_flag=True, help="Only those on this node.")
@json_option
def pods(here: bool, as_json: bool) -> None:
    """List the cluster's pods, at most 500."""
    switch = this_switch()
    admin = _admin()
    # The kubelet's own credential may not list other nodes' pods.
    mine = here or str(admin.kubeconfig) == switch.settings.kube.kubeconfig
    node = switch.node_name() if mine else ""
    listing = admin.pods(node)
    if as_json:
        print_json([pod_row(item) for item in listing.items])
        return
    if not listing.items:
        click.echo(f"no pods on {node}" if mine else "no pods in the cluster")
        return
    made = table("Pod", "Node", "State", "Restarts", "Age")
    for item in listing.items:
        row = pod_row(item)
        made.add_row(row["name"], row["node"], row["state"], str(row["restarts"]), ago(row["created"]))
    put(made)
    _print_more(listing)


def _print_more(listing: Listing) -> None:
    if listing.more:
        click.echo(f"and {listing.more} more")


def _admin() -> ClusterLists:
    """Return access to the configured cluster. Raises Failure if there is none."""
    switch = this_switch()
    _, _, means = switch.redis.master()
    unless(means.ip, "no master is configured; set one with: kubesync config kube server ip ADDRESS")
    unless(
        not means.disable, "the master is disabled; enable it with: kubesync config kube server disable off"
    )
    return switch.admin(insecure=means.insecure)


def node_row(item: Mapping[str, Any]) -> NodeRow:
    """Convert a Node to one row."""
    conditions = {c.get("type"): c.get("status") for c in _mappings(item, "status", "conditions")}
    addresses = {a.get("type"): a.get("address") for a in _mappings(item, "status", "addresses")}
    ready = {"True": "yes", "False": "no"}.get(str(conditions.get("Ready")), "unknown")
    if at(item, "spec", "unschedulable"):
        ready += ", drained"
    return {
        "name": str(at(item, "metadata", "name")),
        "ready": ready,
        "version": str(at(item, "status", "nodeInfo", "kubeletVersion") or "-"),
        "address": str(addresses.get("InternalIP") or "-"),
        "created": _epoch(at(item, "metadata", "creationTimestamp")),
    }


def pod_row(item: Mapping[str, Any]) -> PodRow:
    """Convert a Pod to one row."""
    containers = _mappings(item, "status", "containerStatuses")
    waits = [at(c, "state", "waiting", "reason") for c in containers]
    state = next((str(reason) for reason in waits if reason), str(at(item, "status", "phase") or "-"))
    return {
        "namespace": str(at(item, "metadata", "namespace")),
        "name": str(at(item, "metadata", "name")),
        "node": str(at(item, "spec", "nodeName") or "-"),
        "state": "Terminating" if at(item, "metadata", "deletionTimestamp") else state,
        "restarts": sum(int(c.get("restartCount") or 0) for c in containers),
        "created": _epoch(at(item, "metadata", "creationTimestamp")),
    }


def _mappings(tree: Any, *path: str) -> list[Tree]:
    return [item for item in items(at(tree, *path)) if isinstance(item, dict)]


def _epoch(text: Any) -> float:
    try:
        parsed = time.strptime(str(text), "%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        return 0.0
    import calendar

    return float(calendar.timegm(parsed))
