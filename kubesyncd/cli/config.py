"""Change the configuration: `config kube …` and `config feature …`.

All arguments are checked before anything is written; all fields of one command are written in one Redis call. The
daemon reads the change from Redis. Only labels, join and reset go to the daemon's socket.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from kubesyncd.cli.click_groups import Command, Failure, Group
from kubesyncd.cli.install import install, uninstall
from kubesyncd.cli.output import FeatureName, ask_first, json_option, print_json, this_switch, unless
from kubesyncd.cli.switch_daemon import Declined
from kubesyncd.core import protocol
from kubesyncd.core.labels import Change, InvalidLabel, feature_of
from kubesyncd.core.model import FailurePolicy, Owner
from kubesyncd.core.parse import FAILURE_MINUTES_MAX, is_host
from kubesyncd.core.state import State, classify
from kubesyncd.ports import Forbidden, PortError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kubesyncd.cli.switch import Switch
    from kubesyncd.cli.switch_redis import FeatureRows

JOIN_S_MAX = 600.0
# Added to the daemon's own timeout for the API server's answer.
LABEL_MARGIN_S = 1.0

ON_OFF = {"on": "true", "off": "false", "true": "true", "false": "false", "yes": "true", "no": "false"}
WORDS = ("owner", "fallback", "failmode", "policy")
FEATURE_FORM = "NAME [owner local|kube] [fallback true|false] [failmode MINUTES] [policy POLICY] [-y]"


@click.group(cls=Group, aliases={"kubernetes": "kube"})
def config() -> None:
    """Change the configuration of this switch."""


# ---- config kube ----------------------------------------------------------------------------------


@config.group(cls=Group)
def kube() -> None:
    """Master, labels, join and reset."""


@kube.group(cls=Group)
def server() -> None:
    """The Kubernetes master of this switch."""


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
def disable(switch: str) -> None:
    """Disconnect from the master (default off).

    Running containers are not changed.
    """
    _set_master("disable", _capital(switch))


kube.add_command(disable)


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
    name = field.lower() if switch.settings.schema.names == "sonic" else field
    stored, _, _ = switch.redis.master()
    before = next((text for key, text in stored.items() if key.lower() == field.lower()), None)
    if before == value:
        click.echo(f"{name} is {value} already")
        return
    switch.redis.write_master({name: value})
    click.echo(f"{name} {value}" if before is None else f"{name} {value} (was {before})")
    _warn_if_absent(switch)


def _warn_if_absent(switch: Switch) -> None:
    """Print a note if kubesyncd does not answer: the change is stored but not applied yet."""
    try:
        switch.daemon.cluster()
    except Forbidden:
        return  # the daemon runs; this user may not use its socket
    except (PortError, Declined):
        text = "note: kubesyncd does not answer; it acts on this once it runs: systemctl start kubesyncd"
        click.echo(text, err=True)


@kube.group(cls=Group)
def label() -> None:
    """Labels of this node, for node selectors."""


@label.command(cls=Command)
@click.argument("key", metavar="KEY")
@click.argument("value", metavar="VALUE")
@json_option
def add(key: str, value: str, as_json: bool) -> None:
    """Add a label to this node."""
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


@kube.command(cls=Command)
def reset() -> None:
    """Leave the master: kube containers stop, labels are cleared."""
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


# ---- config feature -------------------------------------------------------------------------------


def is_name(group: click.Group, words: Sequence[str]) -> bool:
    """Return whether `NAME …` was typed: the second word is a setting, or no command starts with the first."""
    second = words[1].lower() if len(words) > 1 else ""
    if second and (second == "-y" or any(word.startswith(second) for word in WORDS)):
        return True
    return not any(command.startswith(words[0].lower()) for command in group.commands)


@dataclass(frozen=True, slots=True)
class Wish:
    """The settings of a feature that one command changes; None: unchanged."""

    owner: Owner | None = None
    fallback: bool | None = None
    failmode: int | None = None
    policy: FailurePolicy | None = None

    def fields(self) -> dict[str, str]:
        """Return the settings as CONFIG_DB fields."""
        wanted = {
            "set_owner": None if self.owner is None else self.owner.value,
            "fallback_to_local": None if self.fallback is None else str(self.fallback).lower(),
            "kube_failure_detection": None if self.failmode is None else str(self.failmode),
            "failure_policy": None if self.policy is None else self.policy.value,
        }
        return {name: value for name, value in wanted.items() if value is not None}


def parse_wish(words: Sequence[str]) -> Wish:
    """Parse `owner kube fallback true …`, in any order, each setting at most once. Raises UsageError."""
    got: dict[str, str] = {}
    for at in range(0, len(words), 2):
        key = _setting(words[at])
        if key in got:
            raise click.UsageError(f"{key} is given twice")
        if at + 1 >= len(words):
            raise click.UsageError(f"{key} needs a value: {_values(key)}")
        got[key] = words[at + 1].lower()
    if not got:
        raise click.UsageError("no setting is given")
    return Wish(
        owner=Owner(_chosen("owner", got["owner"])) if "owner" in got else None,
        fallback=_chosen("fallback", got["fallback"]) == "true" if "fallback" in got else None,
        failmode=_minutes(got["failmode"]) if "failmode" in got else None,
        policy=FailurePolicy(_chosen("policy", got["policy"])) if "policy" in got else None,
    )


_CHOICES: Mapping[str, Mapping[str, str]] = {
    "owner": {"local": "local", "kube": "kube", "kubernetes": "kube"},
    "fallback": ON_OFF,
    "policy": {policy.value: policy.value for policy in FailurePolicy},
}


# Shell completion after each word.
OFFERED = {"owner": ["local", "kube"], "fallback": ["true", "false"], "policy": list(_CHOICES["policy"])}


def _setting(word: str) -> str:
    meant = [name for name in WORDS if name.startswith(word.lower())]
    if word.lower() in WORDS:
        meant = [word.lower()]
    if len(meant) != 1:
        raise click.UsageError(f"{word[:40]!a} is not one of {', '.join(WORDS)}")
    return meant[0]


def _values(key: str) -> str:
    if key == "failmode":
        return "minutes, 0 for never"
    return "true or false" if key == "fallback" else " or ".join(dict.fromkeys(_CHOICES[key].values()))


def _chosen(key: str, word: str) -> str:
    if word not in _CHOICES[key]:
        raise click.UsageError(f"invalid {key} {word[:40]!a}: must be {_values(key)}")
    return _CHOICES[key][word]


def _minutes(word: str) -> int:
    if not (word.isascii() and word.isdigit() and len(word) <= 7 and int(word) <= FAILURE_MINUTES_MAX):
        text = (
            f"invalid failmode {word[:20]!a}: must be whole minutes from 0 (never) to {FAILURE_MINUTES_MAX}"
        )
        raise click.UsageError(text)
    return int(word)


class Setting(click.ParamType):  # type: ignore[type-arg]
    """One word of `owner kube fallback true …`, with shell completion of the valid next words."""

    name = "setting"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        """See click."""
        from click.shell_completion import CompletionItem

        given = [word.lower() for word in ctx.params.get(str(param.name)) or ()]
        offered = [word for word in WORDS if word not in given[::2]]
        if len(given) % 2:
            offered = OFFERED.get(given[-1], [])
        return [CompletionItem(word) for word in offered if word.startswith(incomplete.lower())]


@click.command("NAME", cls=Command, options_metavar="[-y]")
@click.argument("name", metavar="NAME", type=FeatureName())
@click.argument(
    "words",
    metavar=FEATURE_FORM.removeprefix("NAME ").removesuffix(" [-y]"),
    nargs=-1,
    type=Setting(),
)
@click.option("-y", "--yes", is_flag=True, help="Proceed without confirmation.")
def each(name: str, words: tuple[str, ...], yes: bool) -> None:
    """Set a feature's owner, and what happens when kube cannot run it.

    owner: local (the image on the switch) or kube. fallback: run the local container while kube has none.
    failmode: minutes without a kube container until the feature has failed (0: never). policy: action on failure:
    alert, switch-to-local or rollback.
    """
    set_feature(name, parse_wish(words), sure=yes)


@config.group(cls=Group, each=each, is_name=is_name)
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
@_never_asked
def feature_owner(name: str, owner: str) -> None:
    """Set the owner of a feature."""
    set_feature(name, Wish(owner=Owner(owner)), sure=True)


@feature.command("fallback", cls=Command)
@click.argument("name", metavar="NAME", type=FeatureName())
@click.argument("switch", metavar="on|off", type=click.Choice(["on", "off"], case_sensitive=False))
@_never_asked
def feature_fallback(name: str, switch: str) -> None:
    """Run the local container while kube has none: on or off."""
    set_feature(name, Wish(fallback=switch == "on"), sure=True)


def set_feature(name: str, wish: Wish, *, sure: bool) -> None:
    """Check the change, print its effect, ask for confirmation, then write the feature's CONFIG_DB row."""
    switch = this_switch()
    stored = switch.redis.feature_rows(name)
    row = {} if stored.config else _first_row(switch, name)
    _possible(switch, name, stored, wish)
    fields = {**row, **switch.redis.schema.encode_config(wish.fields())}
    if not row and _stands(stored, fields):
        click.echo(f"{name}: nothing to change, already configured this way")
        return
    sentence, asks = consequence(name, stored, wish, joined=_joined(switch))
    ask_first(sentence, "Go on?", sure=sure or not asks)
    switch.redis.write_feature(name, fields)
    click.echo(f"{name}: {', '.join(f'{key}={value}' for key, value in fields.items())}")
    _warn_if_absent(switch)


def _first_row(switch: Switch, name: str) -> dict[str, str]:
    """Build the first row of a feature that has a service. `state` is that of its unit, so that SONiC's featured, which
    reads the row too, changes nothing. Raises Failure if the service does not exist.
    """
    unless(
        switch.has_unit(name),
        f"unknown feature {name}: it has neither a FEATURE row nor a service; "
        f"install it first: kubesync config feature install {name}",
    )
    return {"state": "enabled" if switch.in_use(name) else "disabled", "auto_restart": "enabled"}


def _possible(switch: Switch, name: str, stored: FeatureRows, wish: Wish) -> None:
    if wish.owner is not Owner.KUBE:
        return
    unless(
        name not in switch.settings.features.always_local,
        f"{name} can only be local, kubesyncd itself needs it; leave its owner as it is",
    )
    unless(
        not stored.means.local_only,
        f"{name} has one container per ASIC, which kube cannot run; leave its owner as it is",
    )


def _stands(stored: FeatureRows, fields: Mapping[str, str]) -> bool:
    there = {name.lower(): value for name, value in stored.config.items()}
    return all(there.get(name.lower()) == value for name, value in fields.items())


def _joined(switch: Switch) -> bool | None:
    """Return whether the switch has joined a master; None if the daemon does not answer."""
    try:
        return bool(switch.daemon.cluster()["joined"])
    except (PortError, Declined):
        return None


_BY_LOCAL = (State.LOCAL, State.LOCAL_TO_KUBE)


def consequence(name: str, stored: FeatureRows, wish: Wish, *, joined: bool | None) -> tuple[str, bool]:
    """Describe the effect of the change on running containers, and tell whether it needs confirmation."""
    before = stored.means
    state = classify(stored.row, before.owner, local_exited=False)
    owner = before.owner if wish.owner is None else wish.owner
    fallback = before.fallback if wish.fallback is None else wish.fallback
    if owner is before.owner:
        if owner is Owner.KUBE and state is State.KUBE_READY and fallback and not before.fallback:
            return f"{name} waits for kube; its local container will run until kube deploys", True
        return f"{name}: nothing restarts", False
    if state in (State.INIT, State.UNKNOWN):
        return f"{name} is down: nothing restarts, its next start follows the new owner", False
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
