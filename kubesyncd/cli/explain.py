"""Explain a feature's state, and what happens next: `explain NAME` and `watch`.

All text comes from the daemon: the reason of its last decision, and the result of the same rules at their next
evaluation.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from kubesyncd.cli.click_groups import Command
from kubesyncd.cli.output import (
    FeatureName,
    ago,
    brief,
    brief_span,
    clock,
    colour,
    console,
    count,
    json_option,
    print_json,
    put,
    span,
    table,
    this_switch,
    when,
)
from kubesyncd.cli.switch_daemon import Declined
from kubesyncd.core.labels import feature_label
from kubesyncd.core.model import SHORT_ID
from kubesyncd.core.reasons import BACK_OFF
from kubesyncd.core.state import State
from kubesyncd.ports import PortError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType
    from rich.text import Text

    from kubesyncd.core.descriptions import (
        ClusterDescription,
        ContainerDescription,
        FeatureDescription,
        TransitionDescription,
    )

LOOK_EVERY_S = 1.0


@click.command(cls=Command, options_metavar="[--json]")
@click.argument("name", metavar="NAME", type=FeatureName())
@json_option
def explain(name: str, as_json: bool) -> None:
    """Explain a feature's state, and what happens next."""
    found = this_switch().daemon.feature(name)
    if as_json:
        print_json({**found, "waits_for": waits_for(found), "next_text": what_next(found)})
        return
    put(*explained(found, time.time()))


def explained(found: FeatureDescription, now: float) -> list[RenderableType]:
    """Build the complete output."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    head = Text.assemble(
        (found["feature"], "bold"),
        " is ",
        (found["state"], f"bold {colour(found['state'])}"),
        f" for {ago(found['since'], now)}",
    )
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    if not found["why"].startswith(found["meaning"]):
        grid.add_row("means", found["meaning"])
    grid.add_row("because", found["why"])
    grid.add_row("wanted", wanted(found))
    grid.add_row("waits for", waits_for(found))
    if found["joined"] and found["config"]["set_owner"] == "kube" and found.get("no_deploy"):
        grid.add_row("node", Text(found.get("no_deploy", ""), "yellow"))
    grid.add_row("next", what_next(found))
    for container in containers(found):
        grid.add_row("container", container)
    for condition in found.get("conditions", []):
        grid.add_row("condition", Text(condition, "yellow"))
    for alert in found["troubles"]:
        grid.add_row("alert", Text(alert, "red"))
    if found["row"]["failure"]:
        grid.add_row("failed", Text(found["row"]["failure"], "red"))
    return [head, Padding(grid, (0, 0, 0, 2)), Text(""), history(found["history"], now)]


def wanted(found: FeatureDescription) -> str:
    """Describe the configuration in one sentence."""
    config = found["config"]
    if config["always_local"]:
        return "local, regardless of the configuration: kubesyncd itself needs it"
    if config["local_only"]:
        return f"local: {config.get('why_local') or 'it has one container per ASIC, which kube cannot run'}"
    parts = [f"owner {config['set_owner']}", f"fallback {'on' if config['fallback'] else 'off'}"]
    if config["failure_minutes"]:
        parts.append(f"failed after {config['failure_minutes']} min without a kube container")
    if config["failure_policy"]:
        parts.append(f"policy {config['failure_policy']}")
    if found["boot_fallback"]:
        parts.append("local after a prepared reboot until its kube container is stable")
    if found["rolled_back"]:
        parts.append(
            f"rolled back to local until another image is deployed, or: kubesync clear {found['feature']}"
        )
    return ", ".join(parts)


def waits_for(found: FeatureDescription) -> str:
    """Describe what the feature waits for, from its state, labels and containers."""
    state, name = State(found["state"]), found["feature"]
    match state:
        case State.UNKNOWN | State.INIT:
            return f"its unit: systemctl start {name}"
        case State.LOCAL_EXITED:
            return f"systemd to restart its unit; see: journalctl -u {name}"
        case State.LOCAL if found["config"]["set_owner"] == "kube" and not found["rolled_back"]:
            return _deployment(found)
        case State.KUBE_READY:
            return _deployment(found)
        case State.LOCAL_TO_KUBE:
            return "the local container to end" if found["stopping"] else "the local container to be stopped"
        case State.KUBE_PENDING:
            return "kubesyncd to admit the kube container"
        case State.KUBE_STOPPED | State.STARTING:
            return "the local container to start"
        case State.DRIFT:
            return "kubesyncd to repair it"
        case _:
            return "nothing"


def _deployment(found: FeatureDescription) -> str:
    """Describe the progress of kube's deployment, as far as this node knows it."""
    # The delay keeps a running local container; where nothing runs, a kube container is admitted at once.
    if found["refused_for_s"] and State(found["state"]) is State.LOCAL:
        return (
            "the delay after its kube container has failed to end; "
            f"the next hand-over may begin in {span(found['refused_for_s'])}"
        )
    no_deploy = found.get("no_deploy", "")
    if no_deploy:
        return (
            f"kube, which cannot deploy: {no_deploy.replace('run: config kube', 'run: kubesync config kube')}"
        )
    if not found["joined"]:
        return "this switch to join a master"
    if BACK_OFF in found["why"]:
        return f"the kubelet to start its kube container again ({BACK_OFF}), and that one to stay up"
    label, seen = found["label"], feature_label(found["feature"])
    if label["pending"]:
        return f"the API server to accept the label {seen}=true" + (
            ", which failed and is retried" if label["failed"] else ""
        )
    if label["value"] == "on":
        return f"kube to deploy it; this node has the label {seen}=true"
    return f"the label {seen}=true to be requested"


def what_next(found: FeatureDescription) -> str:
    """Describe the next timed action, and when it is due."""
    coming, in_s = found["next"], found["next_in_s"]
    if coming is None or in_s is None:
        return "nothing, until something changes"
    due = f"in {span(in_s)}"
    if coming["failed"]:
        return f"{due} it counts as failed: {coming['failed']}"
    if coming["stable"]:
        return f"{due} its kube container counts as stable"
    if coming["acts"]:
        return f"{due}: {coming['why']}"
    return f"{due} it is checked again: {coming['why']}"


def containers(found: FeatureDescription) -> list[str]:
    """Describe its containers in one line each, the running ones first."""
    lines = []
    for c in sorted(found["containers"], key=lambda c: not c["running"]):
        how = _how(c)
        marks = [
            word
            for word, ids in (("waits", found["waiting"]), ("is being stopped", found["stopping"]))
            if c["id"] in ids
        ]
        if c["running"] and c["id"] == found["granted"]:
            marks.append("stable" if found["proven"] else "admitted, not stable yet")
        lines.append(f"{c['owner']} {c['id'][:SHORT_ID]} {', '.join([how, *marks])}")
    return lines


def _how(container: ContainerDescription) -> str:
    """Describe whether a container runs."""
    if not container["running"]:
        known = container["gone"] or container.get("unread") or container["started"]
        if container["exit_code"] is None and not known:
            return "was created, and has never run"
        return f"ended ({'unknown' if container['exit_code'] is None else container['exit_code']})"
    if container.get("paused"):
        return "is paused"
    if container.get("restarting"):
        return "is restarted by its restart policy"
    how = "runs, as Docker lists it" if container.get("unread") else "runs"
    if version := container.get("version", ""):
        how = f"{how}, version {version}"
    if not container.get("restarts"):
        return how
    policy = container.get("restart_policy", "")
    return f"{how}, Docker restarts it by its restart policy {policy}".rstrip()


def history(changes: Sequence[TransitionDescription], now: float) -> RenderableType:
    """List the last changes of state, the newest first."""
    from rich.text import Text

    if not changes:
        return Text("no change of state since the switch booted")
    made = table("When", "State", "Because")
    for change in reversed(changes):
        made.add_row(when(change["at"], now), Text(change["to"], colour(change["to"])), change["why"])
    return made


# ---- watch ----------------------------------------------------------------------------------------


@click.command(cls=Command)
@click.argument("name", metavar="[NAME]", type=FeatureName(), required=False)
def watch(name: str | None) -> None:
    """Show all features live, or one with its reasons. Ctrl-C ends it."""
    # An error in the first request ends the command; a later one is shown, and the request is repeated.
    picture = _look(name)
    if not sys.stdout.isatty():
        put(*picture)
        return
    from rich.console import Group as Stack
    from rich.live import Live
    from rich.text import Text

    failure: list[RenderableType] = []
    with suppress(KeyboardInterrupt), Live(console=console(), screen=True, auto_refresh=False) as live:
        while True:
            live.update(Stack(*failure, *picture), refresh=True)
            time.sleep(LOOK_EVERY_S)
            try:
                picture, failure = _look(name), []
            except (PortError, Declined) as error:
                failure = [Text(f"{clock(time.time(), date=False)}  {error}", "bold red")]


def _look(name: str | None) -> list[RenderableType]:
    """Build the current output."""
    now = time.time()
    if name is not None:
        return explained(this_switch().daemon.feature(name), now)
    return [live_head(this_switch().daemon.cluster(), now), live_table(this_switch().daemon.features(), now)]


def live_head(known: ClusterDescription, now: float) -> Text:
    """Build one line about the master."""
    from rich.text import Text

    words = [clock(now, date=False)]
    if not known["joined"]:
        words.append("no master joined")
    else:
        words.append(f"master {known['master']} {'connected' if known['connected'] else 'unreachable'}")
        words.append(f"kubelet {'runs' if known['kubelet'] else 'stopped'}")
    if known["pending"]:
        words.append(f"{count(len(known['pending']), 'label')} waiting")
    return Text("  ".join(words), "bold")


def live_table(features: Sequence[FeatureDescription], now: float) -> RenderableType:
    """Build one line per feature: state, since when, next action, reason."""
    from rich.text import Text

    made = table("Feature", "State", "Since", "Next in", "Why")
    for found in features:
        made.add_row(
            Text(found["feature"], "bold"),
            Text(found["state"], colour(found["state"])),
            brief(found["since"], now),
            "" if found["next_in_s"] is None else brief_span(found["next_in_s"]),
            "; ".join([found["why"], *found.get("conditions", [])]),
        )
    return made
