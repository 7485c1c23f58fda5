"""Change the master and this node's labels, join and reset: `config kube …`.

The master's settings are written to Redis, where the daemon reads them. Labels, join and reset go to the daemon.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kubesyncd.cli.click_groups import Command, Failure, Group
from kubesyncd.cli.departure_effects import INTRODUCTION, effects
from kubesyncd.cli.output import ask_first, json_option, note_if_daemon_absent, print_json, this_switch
from kubesyncd.cli.switch_daemon import Declined
from kubesyncd.core import protocol
from kubesyncd.core.host import canonical_host, is_host
from kubesyncd.core.labels import Change, InvalidLabel, feature_of, not_by_hand
from kubesyncd.ports import PortError

if TYPE_CHECKING:
    from kubesyncd.cli.switch import Switch

JOIN_S_MAX = 600.0
yes_option = click.option("-y", "--yes", is_flag=True, help="Proceed without confirmation.")
# Added to the daemon's own timeout for the API server's answer.
LABEL_MARGIN_S = 1.0


@click.group(cls=Group)
def kube() -> None:
    """Master, labels, join and reset."""


@kube.group(cls=Group)
def server() -> None:
    """Kubernetes master of this switch."""


@server.command(cls=Command)
@click.argument("address", metavar="ADDRESS")
def ip(address: str) -> None:
    """Set the master's address (its VIP), IP or host name."""
    _set_master("IP", address)


@server.command(cls=Command)
@click.argument("number", metavar="N")
def port(number: str) -> None:
    """Set the master's port, 1 to 65535 (default 6443)."""
    if not (number.isascii() and number.isdigit() and len(number) <= 5 and 1 <= int(number) <= 65535):
        raise click.UsageError(f"invalid port {number[:20]!a}: must be a number from 1 to 65535")
    _set_master("port", str(int(number)))


@server.command(cls=Command)
@click.argument("switch", metavar="on|off", type=click.Choice(["on", "off"], case_sensitive=False))
def insecure(switch: str) -> None:
    """Skip the check of the master's certificate (default off)."""
    _set_master("insecure", _capital(switch))
    if switch == "on":
        click.echo(
            "warning: the master's certificate is not checked; undo: kubesync config kube server insecure off"
        )


@server.command(cls=Command)
@click.argument("switch", metavar="on|off", type=click.Choice(["on", "off"], case_sensitive=False))
@yes_option
def disable(switch: str, yes: bool) -> None:
    """Leave the master (default off).

    On: lists what becomes of each feature, and asks. Features with fallback start locally, all pods end, this node is
    deleted from the cluster. Off: it joins again.
    """
    if switch == "on" and not yes:
        _confirm_departure()
    _set_master("disable", _capital(switch))


kube.add_command(disable)


def _confirm_departure() -> None:
    """List what becomes of each feature, and ask. Raises Failure unless the answer is yes. Not joined: nothing ends."""
    from kubesyncd.cli.switch import may_exist

    switch = this_switch()
    try:
        if not switch.daemon.cluster()["joined"]:
            return
        lines = list(effects(switch.daemon.features()))
    except (PortError, Declined):
        # The daemon does this once it runs, where the kubelet has a credential.
        if not may_exist(Path(switch.settings.kube.kubeconfig)):
            return
        lines = [INTRODUCTION, "  kubesyncd does not answer, so what becomes of the features is not known"]
    ask_first("\n".join(lines), "Leave the master?", sure=False)


def _capital(switch: str) -> str:
    """Spell on or off as in the design document's KUBERNETES_MASTER table."""
    return "True" if switch == "on" else "False"


def _set_master(field: str, value: str) -> None:
    if field == "IP" and not is_host(value):
        host, _, number = value.rpartition(":")
        with_port = is_host(host) and number.isdigit()
        hint = f"; set its port separately: server port {number[:5]}" if with_port else ""
        raise click.UsageError(f"invalid address or host name {value[:64]!a}{hint}")
    switch = this_switch()
    name = field.lower() if switch.redis.field_names.names == "sonic" else field
    stored, _, _ = switch.redis.master()
    before = next((text for key, text in stored.items() if key.lower() == field.lower()), None)
    if before is not None and _same(field, before, value):
        click.echo(f"{name} is {before} already")
        return
    switch.redis.write_master({name: value})
    click.echo(f"{name} {value}" if before is None else f"{name} {value} (was {before})")
    note_if_daemon_absent(switch)


def _same(field: str, stored: str, value: str) -> bool:
    """Return whether the stored value means the same; another spelling of an address does."""
    return stored == value or (field == "IP" and canonical_host(stored) == canonical_host(value))


@kube.group(cls=Group)
def label() -> None:
    """Labels of this node, for node selectors."""


@label.command(cls=Command)
@click.argument("key", metavar="KEY")
@click.argument("value", metavar="VALUE")
@json_option
def add(key: str, value: str, as_json: bool) -> None:
    """Add a label to this node; before a join it is kept until then."""
    _change_label(key, value, as_json=as_json)


@label.command(cls=Command)
@click.argument("key", metavar="KEY")
@json_option
def drop(key: str, as_json: bool) -> None:
    """Remove a label from this node."""
    _change_label(key, None, as_json=as_json)


def _change_label(key: str, value: str | None, *, as_json: bool) -> None:
    try:
        change = str(Change(key, value))
    except InvalidLabel as error:
        # InvalidLabel already names the fix.
        raise Failure(str(error), protocol.EXIT_USAGE) from None
    if why := not_by_hand(key):
        raise Failure(why, protocol.EXIT_USAGE)
    switch = this_switch()
    # A short request first: it finds a hanging daemon quickly. The label request also waits for the API server.
    switch.daemon.cluster()
    within_s = switch.settings.timing.label_wait_s + LABEL_MARGIN_S
    said = switch.daemon.ask("label", change, within_s=within_s)
    outcome = said[0] if said else "queued"
    state = switch.daemon.cluster()
    if as_json:
        print_json(
            {
                "label": change,
                "outcome": outcome.partition(" ")[0],
                "detail": outcome,
                "kubelet": state["kubelet"],
            }
        )
        return
    # After a failed label update the kubelet is stopped or being stopped.
    if outcome.startswith("queued") and state["joined"] and not state["kubelet_may_run"]:
        outcome = f"{outcome.removesuffix(')')}; the kubelet is stopped until then)"
    click.echo(f"{change}: {outcome}")
    _note_if_a_features(switch, key)


def _note_if_a_features(switch: Switch, key: str) -> None:
    """Print a note for a label that kubesyncd manages: kubesyncd will overwrite the typed value."""
    feature = feature_of(key)
    with suppress(PortError):
        if feature and switch.redis.feature_rows(feature).config:
            text = f"note: {key} follows the feature's owner; set that: kubesync config feature {feature} owner kube"
            click.echo(text, err=True)


@kube.command(cls=Command, options_metavar="[-f]")
@click.option("-f", "--force", is_flag=True, help="Join again if this switch has already joined.")
def join(force: bool) -> None:
    """Join the configured master."""
    _ask_long("join", "1" if force else "0", done="joined; see: kubesync show kubernetes status")


@kube.command(cls=Command, options_metavar="[-y]")
@yes_option
def reset(yes: bool) -> None:
    """Leave the master until the next join.

    Lists what becomes of each feature, and asks. Features with fallback start locally, all pods end, this node is
    deleted from the cluster, labels are cleared.
    """
    if not yes:
        this_switch().daemon.cluster()
        _confirm_departure()
    _ask_long("reset", done="this switch has left its master")


def _ask_long(*request: str, done: str) -> None:
    """Send a slow verb and print its progress; print `done` if the daemon returns no text."""
    switch = this_switch()
    switch.daemon.cluster()
    try:
        lines = switch.daemon.ask(*request, within_s=JOIN_S_MAX, say=click.echo)
    except Declined as no:
        if "unknown verb" in str(no):
            text = f"this kubesyncd has no verb {request[0]}; update it, then restart: systemctl restart kubesyncd"
            raise Failure(text, protocol.EXIT_UNAVAILABLE) from None
        raise
    for line in lines or [done]:
        click.echo(line)
