"""Show the configuration and the state: `show kubernetes …` and `show feature [NAME]`.

Each table is also available as JSON. FeatureRows fields come from Redis, states and reasons from the daemon.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from kubesyncd.cli.click_groups import Command, Group
from kubesyncd.cli.output import (
    FeatureName,
    ago,
    brief,
    clock,
    colour,
    json_option,
    on_off,
    print_json,
    put,
    span,
    table,
    this_switch,
    unless,
    yes_no,
)
from kubesyncd.cli.switch_daemon import Declined
from kubesyncd.ports import Refused

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kubesyncd.adapters.kube_lists import KubeAdmin, Listing
    from kubesyncd.cli.switch import Switch
    from kubesyncd.cli.switch_redis import FeatureRows

SHORT_ID = 12


@click.group(cls=Group, aliases={"kube": "kubernetes"})
def show() -> None:
    """Show the configuration and the state."""


# ---- show kubernetes ------------------------------------------------------------------------------


@show.group(cls=Group)
def kubernetes() -> None:
    """Master, nodes, pods and labels."""


@kubernetes.command(cls=Command, options_metavar="[--json]")
@json_option
def server(as_json: bool) -> None:
    """Show the configured master, and whether it is connected."""
    config, state, means = this_switch().redis.master()
    if as_json:
        print_json({"config": dict(config), "state": dict(state)})
        return
    named = {name.lower(): value for name, value in state.items()}
    since = named.get("last_update_ts") or named.get("update_time", "")
    rows = [
        ("IP", means.ip or "not set"),
        ("port", str(means.port)),
        ("insecure", on_off(means.insecure)),
        ("disable", on_off(means.disable)),
        ("connected", yes_no(named.get("connected", "").lower() == "true")),
        (
            "last change",
            f"{clock(int(since))} ({ago(int(since))} ago)" if since.isdigit() else since or "never",
        ),
    ]
    made = table("CONFIG_DB and STATE_DB", "KUBERNETES_MASTER|SERVER")
    for name, value in rows:
        made.add_row(name, value)
    put(made)
    for problem in means.problems:
        click.echo(f"problem: {problem}", err=True)


@kubernetes.command(cls=Command, options_metavar="[--json]")
@json_option
def status(as_json: bool) -> None:
    """Show join, connection, kubelet and pending labels."""
    switch = this_switch()
    known = switch.daemon.cluster()
    if as_json:
        print_json({"node": switch.settings.kube.node_name, **known})
        return
    made = table("This node", switch.settings.kube.node_name)
    for name, value in status_rows(known):
        made.add_row(name, value)
    put(made)


def status_rows(known: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Build the rows of `show kubernetes status`."""
    master = known["master"] or "none configured"
    flags = [word for word in ("disabled", "insecure") if known[word]]
    since = f" for {ago(known['last_update_ts'])}" if known["last_update_ts"] else ""
    because = f": {known['why_disconnected']}" if known["why_disconnected"] else ""
    rows = [
        ("master", f"{master} ({', '.join(flags)})" if flags else master),
        ("joined", yes_no(known["joined"])),
        ("connected", f"{yes_no(known['connected'])}{since}{because}"),
        ("kubelet", f"{_KUBELET[known['kubelet']]}: {known['kubelet_why']}"),
    ]
    if known["node_exists"] is not None:
        rows.append(("node on master", "yes" if known["node_exists"] else "not yet; the kubelet creates it"))
    job = known.get("membership")
    if job:
        rows.append((f"last {job['job']}", f"{job['phase']} {span(job['since_s'])} ago: {job['says']}"))
    if known["hold"]:
        rows.append(("hold", "a reboot is being prepared; lift it with: kubesync reboot prepare --undo"))
    waiting = f"{len(known['pending'])} waiting"
    if known["pending"]:
        waiting += f": {known['why_pending']}; tried again in {span(known['retry_in_s'])}"
    rows.append(("labels", f"{len(known['applied'])} applied, {waiting}"))
    rows += [("refused label", f"{key}: {why}") for key, why in sorted(known["refused"].items())]
    return rows


_KUBELET = {True: "runs", False: "stopped", None: "not checked"}


@kubernetes.command(cls=Command, options_metavar="[--json]")
@json_option
def labels(as_json: bool) -> None:
    """Show this node's labels, and those pending for the master."""
    known = this_switch().daemon.cluster()
    if as_json:
        print_json({name: known[name] for name in ("applied", "pending", "failed", "refused", "why_pending")})
        return
    rows = label_rows(known)
    if not rows:
        click.echo("no labels; add one with: kubesync config kube label add KEY VALUE")
        return
    made = table("Label", "On the master", "On its way")
    for row in rows:
        made.add_row(*row)
    put(made)
    if known["pending"]:
        click.echo(f"{len(known['pending'])} waiting: {known['why_pending']}")


def label_rows(known: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Build the rows: key, value on the master, pending value."""
    coming: dict[str, str] = {}
    for text in known["pending"]:
        key, equals, value = text.partition("=")
        coming[key if equals else text[:-1]] = value if equals else "(drop)"
    keys = sorted({*known["applied"], *coming, *known["refused"]})
    refused: Mapping[str, str] = known["refused"]
    return [
        (
            key,
            known["applied"].get(key, "-"),
            coming.get(key) or (f"refused: {refused[key]}" if key in refused else ""),
        )
        for key in keys
    ]


@kubernetes.command(cls=Command, options_metavar="[--json]")
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
    _say_more(listing)


@kubernetes.command(cls=Command, options_metavar="[--here] [--json]")
@click.option("--here", is_flag=True, help="Only those on this node.")
@json_option
def pods(here: bool, as_json: bool) -> None:
    """List the cluster's pods, at most 500."""
    switch = this_switch()
    admin = _admin()
    # The kubelet's own credential may not list other nodes' pods.
    mine = here or str(admin.kubeconfig) == switch.settings.kube.kubeconfig
    listing = admin.pods(switch.settings.kube.node_name if mine else "")
    if as_json:
        print_json([pod_row(item) for item in listing.items])
        return
    if not listing.items:
        click.echo(f"no pods on {switch.settings.kube.node_name}" if mine else "no pods in the cluster")
        return
    made = table("Pod", "Node", "State", "Restarts", "Age")
    for item in listing.items:
        row = pod_row(item)
        made.add_row(row["name"], row["node"], row["state"], str(row["restarts"]), ago(row["created"]))
    put(made)
    _say_more(listing)


def _say_more(listing: Listing) -> None:
    if listing.more:
        click.echo(f"and {listing.more} more")


def _admin() -> KubeAdmin:
    """Return access to the configured cluster. Raises Failure if there is none."""
    switch = this_switch()
    _, _, means = switch.redis.master()
    unless(means.ip, "no master is configured; set one with: kubesync config kube server ip ADDRESS")
    unless(
        not means.disable, "the master is disabled; enable it with: kubesync config kube server disable off"
    )
    return switch.admin(insecure=means.insecure)


def node_row(item: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a Node to one row."""
    conditions = {c.get("type"): c.get("status") for c in _list(item, "status", "conditions")}
    addresses = {a.get("type"): a.get("address") for a in _list(item, "status", "addresses")}
    ready = {"True": "yes", "False": "no"}.get(str(conditions.get("Ready")), "unknown")
    if _deep(item, "spec", "unschedulable"):
        ready += ", drained"
    return {
        "name": str(_deep(item, "metadata", "name")),
        "ready": ready,
        "version": str(_deep(item, "status", "nodeInfo", "kubeletVersion") or "-"),
        "address": str(addresses.get("InternalIP") or "-"),
        "created": _epoch(_deep(item, "metadata", "creationTimestamp")),
    }


def pod_row(item: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a Pod to one row."""
    containers = _list(item, "status", "containerStatuses")
    waits = [_deep(c, "state", "waiting", "reason") for c in containers]
    state = next((str(reason) for reason in waits if reason), str(_deep(item, "status", "phase") or "-"))
    return {
        "namespace": str(_deep(item, "metadata", "namespace")),
        "name": str(_deep(item, "metadata", "name")),
        "node": str(_deep(item, "spec", "nodeName") or "-"),
        "state": "Terminating" if _deep(item, "metadata", "deletionTimestamp") else state,
        "restarts": sum(int(c.get("restartCount") or 0) for c in containers),
        "created": _epoch(_deep(item, "metadata", "creationTimestamp")),
    }


def _deep(thing: Any, *path: str) -> Any:
    """Return the value at `path` in untrusted JSON, or None."""
    for key in path:
        if not isinstance(thing, dict):
            return None
        thing = thing.get(key)
    return thing


def _list(thing: Any, *path: str) -> list[dict[str, Any]]:
    found = _deep(thing, *path)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _epoch(text: Any) -> float:
    try:
        parsed = time.strptime(str(text), "%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        return 0.0
    import calendar

    return float(calendar.timegm(parsed))


# ---- show feature ---------------------------------------------------------------------------------


@show.command("feature", cls=Command, options_metavar="[--json]")
@click.argument("name", metavar="[NAME]", type=FeatureName(), required=False)
@json_option
def feature(name: str | None, as_json: bool) -> None:
    """Show each feature's configured owner, current owner, state and reason."""
    show_feature(name, as_json=as_json)


def show_feature(name: str | None, *, as_json: bool) -> None:
    """Print the list, or everything of one feature."""
    if name is None:
        _show_all(as_json=as_json)
    else:
        _show_one(name, as_json=as_json)


def _show_all(*, as_json: bool) -> None:
    switch = this_switch()
    known = {found["feature"]: found for found in switch.daemon.features()}
    names = sorted({*switch.redis.feature_names(), *known})
    if as_json:
        print_json([_as_json(name, _stored(switch, name), known.get(name)) for name in names])
        return
    if not names:
        click.echo("no features; add one with: kubesync config feature NAME owner local")
        return
    rows = [(name, _stored(switch, name), known.get(name)) for name in names]
    put(feature_table(rows), "", reasons([found for _, _, found in rows if found]))


def _stored(switch: Switch, name: str) -> FeatureRows | Refused:
    """Read one feature's rows; return the error of an unusable one, so that it hides no other."""
    try:
        return switch.redis.feature_rows(name)
    except Refused as error:
        return error


def feature_table(features: Sequence[tuple[str, FeatureRows | Refused, Mapping[str, Any] | None]]) -> Any:
    """Build one line per feature: its configuration, its record, and the resulting state."""
    from rich.text import Text

    made = table("Feature", "Owner", "Fallback", "Fail", "Runs", "Mode", "State", "Since")
    for name, stored, found in features:
        if isinstance(stored, Refused):
            made.add_row(Text(name, "bold"), *["-"] * 5, Text("unusable row", "red"))
            continue
        state = found["state"] if found else "-"
        made.add_row(
            Text(name, "bold"),
            stored.means.owner.value,
            on_off(stored.means.fallback),
            f"{stored.means.failure_minutes}m" if stored.means.failure_minutes else "-",
            stored.row.current_owner.value,
            stored.row.transition_mode.value,
            Text(state, colour(state)),
            brief(found["since"]) if found else "",
        )
    return made


def reasons(features: Sequence[Mapping[str, Any]]) -> Any:
    """List the reason of each feature's state; features with the same reason share a line."""
    from rich.table import Table

    shared: dict[str, list[str]] = {}
    for found in features:
        shared.setdefault(found["why"], []).append(found["feature"])
    grid = Table.grid(padding=(0, 2))
    grid.add_column(max_width=24)
    grid.add_column(style="dim", overflow="fold")
    for why, names in shared.items():
        grid.add_row(", ".join(names), why)
    return grid


def _show_one(name: str, *, as_json: bool) -> None:
    switch = this_switch()
    stored = switch.redis.feature_rows(name)
    try:
        found = switch.daemon.feature(name)
    except Declined:
        unless(stored.config or stored.state, f"{name}: unknown feature; see: kubesync show feature")
        found = None
    if as_json:
        print_json(_as_json(name, stored, found))
        return
    from rich.text import Text

    if found:
        put(
            Text.assemble(
                (name, "bold"), ": ", (found["state"], colour(found["state"])), f" for {ago(found['since'])}"
            ),
            Text(f"  {found['why']}", "dim"),
            Text(""),
        )
    put(side_by_side(stored))
    for problem in stored.problems:
        click.echo(f"problem: {problem}", err=True)


def side_by_side(stored: FeatureRows) -> Any:
    """Build a table of both raw rows; IDs are shortened, JSON has them in full."""
    config, state = sorted(stored.config.items()), sorted(stored.state.items())
    made = table("CONFIG_DB", "", "STATE_DB", "")
    made.columns[0].no_wrap = made.columns[2].no_wrap = True
    for at in range(max(len(config), len(state))):
        left = config[at] if at < len(config) else ("", "")
        right = state[at] if at < len(state) else ("", "")
        made.add_row(left[0], left[1], right[0], _value(*right))
    return made


def _value(field: str, value: str) -> str:
    if field.replace("-", "_") in ("docker_id", "container_id"):
        return value[:SHORT_ID]
    if field.endswith("_ts") and value.isdigit():
        return f"{ago(int(value))} ago"
    return value


def _as_json(name: str, stored: FeatureRows | Refused, found: Mapping[str, Any] | None) -> dict[str, Any]:
    if isinstance(stored, Refused):
        return {"feature": name, "problems": [str(stored)]}
    known = found or {}
    return {
        "feature": name,
        "state": known.get("state"),
        "since": known.get("since"),
        "why": known.get("why"),
        "config": dict(stored.config),
        "state_db": dict(stored.state),
        "problems": list(stored.problems),
    }
