"""Change a feature's configuration: `config feature …`.

The effect on running containers is printed first; all fields of one command are written in one Redis call.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import click

from kubesyncd.cli.click_groups import Command, Group
from kubesyncd.cli.feature_claims import kube_claims
from kubesyncd.cli.feature_settings import WORDS, FeatureChange, Setting, parse_change
from kubesyncd.cli.install import install, uninstall
from kubesyncd.cli.output import FeatureName, ask_first, note_if_daemon_absent, this_switch, unless
from kubesyncd.cli.switch_daemon import Declined
from kubesyncd.core.kube_names import KubeClaim, why_not_kube
from kubesyncd.core.model import Owner
from kubesyncd.core.state import State, classify
from kubesyncd.ports import PortError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kubesyncd.cli.switch import Switch
    from kubesyncd.cli.switch_redis import FeatureFields

_FORCE_HELP = "Set owner local also where no local container exists or can be made."
FEATURE_FORM = "NAME [owner local|kube] [fallback true|false] [failmode MINUTES] [policy POLICY] [-y]"


def is_name(group: click.Group, words: Sequence[str]) -> bool:
    """Return whether `NAME …` was typed: the second word is a setting, or no command starts with the first."""
    second = words[1].lower() if len(words) > 1 else ""
    if second and (second == "-y" or any(word.startswith(second) for word in WORDS)):
        return True
    return not any(command.startswith(words[0].lower()) for command in group.commands)


@click.command("NAME", cls=Command, options_metavar="[-y]")
@click.argument("name", metavar="NAME", type=FeatureName())
@click.argument(
    "words",
    metavar=FEATURE_FORM.removeprefix("NAME ").removesuffix(" [-y]"),
    nargs=-1,
    type=Setting(),
)
@click.option("-y", "--yes", is_flag=True, help="Proceed without confirmation.")
@click.option("--force", is_flag=True, help=_FORCE_HELP)
def each(name: str, words: tuple[str, ...], yes: bool, force: bool) -> None:
    """Set a feature's owner, and what happens when kube cannot run it.

    owner: local (the image on the switch) or kube. fallback: run the local container while kube has none.
    failmode: minutes without a kube container until the feature has failed (0: never). policy: action on failure:
    alert, switch-to-local or rollback.
    """
    set_feature(name, parse_change(words), sure=yes, force=force)


@click.group(cls=Group, each=each, is_name=is_name)
def feature() -> None:
    """Owner, fallback and failure policy of a feature.

    Usual form: config feature NAME [owner local|kube] [fallback true|false] [failmode MINUTES]
    [policy alert|switch-to-local|rollback] [-y]
    """


for command in (install, uninstall):
    feature.add_command(command)


# sonic-utilities' own forms never ask for confirmation; -y is accepted for scripts.
_never_asked = click.option("-y", "--yes", is_flag=True, hidden=True, expose_value=False)


@feature.command("owner", cls=Command)
@click.argument("name", metavar="NAME", type=FeatureName())
@click.argument("owner", metavar="local|kube", type=click.Choice(["local", "kube"], case_sensitive=False))
@click.option("--force", is_flag=True, help=_FORCE_HELP)
@_never_asked
def feature_owner(name: str, owner: str, force: bool) -> None:
    """Set the owner of a feature."""
    set_feature(name, FeatureChange(owner=Owner(owner)), sure=True, force=force)


@feature.command("fallback", cls=Command)
@click.argument("name", metavar="NAME", type=FeatureName())
@click.argument("switch", metavar="on|off", type=click.Choice(["on", "off"], case_sensitive=False))
@_never_asked
def feature_fallback(name: str, switch: str) -> None:
    """Run the local container while kube has none: on or off."""
    set_feature(name, FeatureChange(fallback=switch == "on"), sure=True)


def set_feature(name: str, change: FeatureChange, *, sure: bool, force: bool = False) -> None:
    """Check the change, print its effect, ask for confirmation, then write the feature's CONFIG_DB row."""
    switch = this_switch()
    stored = switch.redis.feature_rows(name)
    row = {} if stored.config else _first_row(switch, name)
    _check_owner(switch, name, stored, change)
    lacking = _lacking(switch, name, stored) if change.owner is Owner.LOCAL or change.fallback else ""
    unless(
        not lacking or change.owner is not Owner.LOCAL or force,
        f"{name} has {lacking}: nothing would run; repair that first, or set it all the same with --force",
    )
    fields = {**row, **switch.redis.changes(stored, change.fields())}
    if not row and _is_configured(stored, fields):
        click.echo(f"{name}: nothing to change, already configured this way")
        return
    sentence, asks = consequence(name, stored, change, joined=_joined(switch), lacking=lacking)
    ask_first(sentence, "Go on?", sure=sure or not asks)
    switch.redis.write_feature(name, fields)
    told = (f"{key}={value}" if value else f"{key} is absent" for key, value in fields.items())
    click.echo(f"{name}: {', '.join(told)}")
    note_if_daemon_absent(switch)


def _first_row(switch: Switch, name: str) -> dict[str, str]:
    """Build the first row of a feature that has a service.

    `state` is that of its unit, so that SONiC's featured, which reads the row too, changes nothing. Raises Failure if
    the service does not exist.
    """
    unless(
        switch.has_unit(name),
        f"unknown feature {name}: it has neither a FEATURE row nor a service; "
        f"install it first: kubesync config feature install {name}",
    )
    return {"state": "enabled" if switch.in_use(name) else "disabled", "auto_restart": "enabled"}


def _check_owner(switch: Switch, name: str, stored: FeatureFields, change: FeatureChange) -> None:
    """Raise Failure if kube shall own a feature that can only be local."""
    if change.owner is not Owner.KUBE:
        return
    unless(
        name not in switch.settings.features.always_local,
        f"{name} can only be local, kubesyncd itself needs it; leave its owner as it is",
    )
    unless(
        not stored.means.local_only,
        f"{name} has one container per ASIC, which kube cannot run; leave its owner as it is",
    )
    claims = kube_claims(switch.redis, name)
    if name not in claims:
        # The first feature keeps the name: a later one does not take it away.
        claims = {**dict.fromkeys(claims, KubeClaim.GRANTED), name: KubeClaim.WANTED}
    why = why_not_kube(name, claims)
    unless(not why, f"{why}; leave its owner as it is")


def _lacking(switch: Switch, name: str, stored: FeatureFields) -> str:
    """Return what the feature has in place of a local container that can run; empty where one can, or is not known."""
    why = ""
    if stored.means.owner is Owner.KUBE:
        with suppress(PortError, Declined):
            why = switch.daemon.lacking(name)
    return f"no way back ({why})" if why else ""


def _is_configured(stored: FeatureFields, fields: Mapping[str, str]) -> bool:
    """Return whether all fields have these values already; an empty one is absent."""
    there = {name.lower(): value for name, value in stored.config.items()}
    return all(there.get(name.lower(), "") == value for name, value in fields.items())


def _joined(switch: Switch) -> bool | None:
    """Return whether the switch has joined a master; None if the daemon does not answer."""
    try:
        return bool(switch.daemon.cluster()["joined"])
    except (PortError, Declined):
        return None


_BY_LOCAL = (State.LOCAL, State.LOCAL_TO_KUBE)


def consequence(
    name: str, stored: FeatureFields, change: FeatureChange, *, joined: bool | None, lacking: str = ""
) -> tuple[str, bool]:
    """Describe the effect of the change on running containers, and tell whether it needs confirmation.

    `lacking`: what the feature has in place of a local container that can run, or empty.
    """
    before = stored.means
    state = classify(stored.row, before.owner, local_exited=False)
    owner = before.owner if change.owner is None else change.owner
    fallback = before.fallback if change.fallback is None else change.fallback
    if owner is before.owner:
        if lacking:
            return f"{name} has {lacking}: only kube can run it, also with fallback on", False
        if owner is Owner.KUBE and state is State.KUBE_READY and fallback and not before.fallback:
            return f"{name} waits for kube; its local container will run until kube deploys", True
        return f"{name}: nothing restarts", False
    if state in (State.INIT, State.UNKNOWN):
        return f"{name} is down: nothing restarts, its next start follows the new owner", False
    if owner is Owner.LOCAL and lacking:
        return f"{name} has {lacking}: its kube container is kept until a local one can run", True
    if owner is Owner.LOCAL:
        return _to_local(name, state)
    return _to_kube(name, state, joined=joined)


def _to_local(name: str, state: State) -> tuple[str, bool]:
    if state in _BY_LOCAL:
        return f"{name} is running locally and stays so: nothing restarts, kube will not take over", False
    if state is State.KUBE_RUNNING:
        return (
            f"{name} is run by kube: its kube container will be stopped and the local one started now",
            True,
        )
    return f"{name} waits for kube: its local container will be started now", True


def _to_kube(name: str, state: State, *, joined: bool | None) -> tuple[str, bool]:
    if state not in _BY_LOCAL:
        return f"{name} will be run by kube once kube deploys", True
    when = (
        "when kube deploys"
        if joined is not False
        else "once this switch has joined a master and kube deploys"
    )
    return f"{name} is running locally and will be replaced {when}", True
