"""Show this node's side of the cluster: `show kubernetes server|status|labels`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kubesyncd.cli.click_groups import Command, Group
from kubesyncd.cli.output import (
    UNKNOWN_TIME,
    ago,
    clock,
    json_option,
    on_off,
    print_json,
    put,
    span,
    stored_time,
    table,
    this_switch,
    yes_no,
)
from kubesyncd.cli.show_cluster import nodes, pods

if TYPE_CHECKING:
    from kubesyncd.core.descriptions import ClusterDescription


@click.group(cls=Group)
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
        ("last change", _last_change(since)),
    ]
    made = table("CONFIG_DB and STATE_DB", "KUBERNETES_MASTER|SERVER")
    for name, value in rows:
        made.add_row(name, value)
    put(made)
    for problem in means.problems:
        click.echo(f"problem: {problem}", err=True)


def _last_change(stored: str) -> str:
    """Describe the time in STATE_DB; with SONiC's names it is a date."""
    at = stored_time(stored)
    if not at:
        return stored or "never"
    passed = ago(at)
    return passed if passed == UNKNOWN_TIME else f"{clock(at)} ({passed} ago)"


@kubernetes.command(cls=Command, options_metavar="[--json]")
@json_option
def status(as_json: bool) -> None:
    """Show join, connection, kubelet and pending labels."""
    switch = this_switch()
    known = switch.daemon.cluster()
    node = known.get("node") or switch.settings.kube.node_name
    if as_json:
        print_json({**known, "node": node})
        return
    made = table("This node", node)
    for name, value in status_rows(known):
        made.add_row(name, value)
    put(made)


def status_rows(known: ClusterDescription) -> list[tuple[str, str]]:
    """Build the rows of `show kubernetes status`."""
    master = known["master"] or "none configured"
    flags = [
        word for word, is_set in (("disabled", known["disabled"]), ("insecure", known["insecure"])) if is_set
    ]
    since = f" for {ago(known['last_update_ts'])}" if known["last_update_ts"] else ""
    because = f": {known['why_disconnected']}" if known["why_disconnected"] else ""
    rows = [
        ("master", f"{master} ({', '.join(flags)})" if flags else master),
        ("joined", yes_no(known["joined"])),
        ("connected", f"{yes_no(known['connected'])}{since}{because}"),
        ("kubelet", f"{_KUBELET[known['kubelet']]}: {known['kubelet_why']}"),
    ]
    if known.get("kubelet_trouble"):
        rows.append(("kubelet's unit", known.get("kubelet_trouble", "")))
    if known.get("renamed"):
        rows.append(("renamed", known["renamed"]))
    if known.get("node_gone"):
        rows.append(("node on master", f"no: {known.get('node_gone', '')}"))
    elif known["node_exists"] is not None:
        exists = ", ".join(word for word in ("yes", known.get("node_state", "")) if word)
        rows.append(("node on master", exists if known["node_exists"] else "not yet; the kubelet creates it"))
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
        print_json(
            {
                "applied": known["applied"],
                "pending": known["pending"],
                "failed": known["failed"],
                "refused": known["refused"],
                "drifted": known.get("drifted", {}),
                "why_pending": known["why_pending"],
            }
        )
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


def label_rows(known: ClusterDescription) -> list[tuple[str, str, str]]:
    """Build the rows: key, value on the master, pending value."""
    coming: dict[str, str] = {}
    for text in known["pending"]:
        key, equals, value = text.partition("=")
        coming[key if equals else text[:-1]] = value if equals else "(drop)"
    notes = {key: f"refused: {why}" for key, why in known["refused"].items()}
    wished = known.get("wished", {})
    notes |= {key: f"changed there; wanted: {wished.get(key, '')}" for key in known.get("drifted", {})}
    keys = sorted({*known["applied"], *coming, *notes})
    return [(key, known["applied"].get(key, "-"), coming.get(key) or notes.get(key, "")) for key in keys]


for command in (nodes, pods):
    kubernetes.add_command(command)
