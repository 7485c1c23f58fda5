"""Change the configuration: `config kube …` and `config feature …`.

Everything typed is checked before anything is written, and everything of one command is written at once. What is
written is all that these commands do: the daemon hears of it from Redis. Labels alone go to the daemon itself.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from kubesyncd.cli.click_groups import Command, Failure, Group
from kubesyncd.cli.install import install, uninstall
from kubesyncd.cli.output import FeatureName, ask_first, json_option, print_json, reader, unless
from kubesyncd.cli.switch import Declined
from kubesyncd.core import protocol
from kubesyncd.core.labels import Change, InvalidLabel, feature_of
from kubesyncd.core.model import FailurePolicy, Owner
from kubesyncd.core.parse import FAILURE_MINUTES_MAX, is_host
from kubesyncd.core.state import State, classify
from kubesyncd.ports import Forbidden, PortError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kubesyncd.cli.switch import Reader, Stored

JOIN_S_MAX = 600.0
# Beyond the daemon's own wait for the master's answer.
LABEL_MARGIN_S = 1.0

ON_OFF = {"on": "true", "off": "false", "true": "true", "false": "false", "yes": "true", "no": "false"}
WORDS = ("owner", "fallback", "failmode", "policy")
FEATURE_FORM = "NAME [owner local|kube] [fallback true|false] [failmode MINUTES] [policy POLICY] [-y]"


@click.group(cls=Group, aliases={"kubernetes": "kube"})
def config() -> None:
    """Say what this switch should do."""


# ---- config kube ----------------------------------------------------------------------------------


@config.group(cls=Group)
def kube() -> None:
    """Master, labels, joining and leaving."""


@kube.group(cls=Group)
def server() -> None:
    """The Kubernetes master this switch belongs to."""


@server.command(cls=Command)
@click.argument("address", metavar="ADDRESS")
def ip(address: str) -> None:
    """Set the master's address (its VIP), IP or host name."""
    _set_master("IP", address)


@server.command(cls=Command)
@click.argument("number", metavar="N")
def port(number: str) -> None:
    """Set the master's port, 1 to 65535 (6443 when never set)."""
    if not (number.isascii() and number.isdigit() and len(number) <= 5 and 1 <= int(number) <= 65535):
        raise click.UsageError(f"port {number[:20]!a} is no number from 1 to 65535")
    _set_master("port", str(int(number)))


@server.command(cls=Command)
@click.argument("switch", metavar="on|off", type=click.Choice(["on", "off"], case_sensitive=False))
def insecure(switch: str) -> None:
    """Whether its certificate goes unchecked (off when never set)."""
    _set_master("insecure", _capital(switch))
    if switch == "on":
        click.echo("warning: anybody on the way can now pose as the master; turn it off as soon as you can")


@server.command(cls=Command)
@click.argument("switch", metavar="on|off", type=click.Choice(["on", "off"], case_sensitive=False))
def disable(switch: str) -> None:
    """Whether to stay away from it (off when never set).

    Containers that run are left as they are.
    """
    _set_master("disable", _capital(switch))


kube.add_command(disable)


def _capital(switch: str) -> str:
    """As the design document's KUBERNETES_MASTER table spells it."""
    return "True" if switch == "on" else "False"


def _set_master(field: str, value: str) -> None:
    if field == "IP" and not is_host(value):
        host, _, number = value.rpartition(":")
        with_port = is_host(host) and number.isdigit()
        hint = f"; its port is a setting of its own: server port {number[:5]}" if with_port else ""
        raise click.UsageError(f"{value[:64]!a} is no address or host name{hint}")
    switch = reader()
    name = field.lower() if switch.settings.schema.names == "sonic" else field
    stored, _, _ = switch.master()
    before = next((text for key, text in stored.items() if key.lower() == field.lower()), None)
    if before == value:
        click.echo(f"{name} is {value} already")
        return
    switch.write_master({name: value})
    click.echo(f"{name} {value}" if before is None else f"{name} {value} (was {before})")
    _warn_if_absent(switch)


def _warn_if_absent(switch: Reader) -> None:
    """What is written stands; the operator should know that nobody acts on it yet."""
    try:
        switch.cluster()
    except Forbidden:
        return  # it is there, and this user may not ask it
    except (PortError, Declined):
        text = "note: kubesyncd does not answer; it acts on this once it runs: systemctl start kubesyncd"
        click.echo(text, err=True)


@kube.group(cls=Group)
def label() -> None:
    """Labels of this node, by which manifests choose it."""


@label.command(cls=Command)
@click.argument("key", metavar="KEY")
@click.argument("value", metavar="VALUE")
@json_option
def add(key: str, value: str, as_json: bool) -> None:
    """Give this node a label."""
    _change_label(key, value, as_json=as_json)


@label.command(cls=Command)
@click.argument("key", metavar="KEY")
@json_option
def drop(key: str, as_json: bool) -> None:
    """Take a label from this node."""
    _change_label(key, None, as_json=as_json)


def _change_label(key: str, value: str | None, *, as_json: bool) -> None:
    try:
        change = str(Change(key, value))
    except InvalidLabel as error:
        # The reason names the fix itself.
        raise Failure(str(error), protocol.EXIT_USAGE) from None
    switch = reader()
    # A quick question first: a daemon that hangs is found out in no time, a master that does takes its own.
    switch.cluster()
    within_s = switch.settings.timing.label_wait_s + LABEL_MARGIN_S
    said = switch.ask("label", change, within_s=within_s)
    outcome = said[0] if said else "queued"
    state = switch.cluster()
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
    # Where one has failed the kubelet is being stopped, if it is not yet.
    if outcome.startswith("queued") and state["joined"] and not state["kubelet_may_run"]:
        outcome = f"{outcome.removesuffix(')')}; the kubelet is stopped until then)"
    click.echo(f"{change}: {outcome}")
    _note_if_a_features(switch, key)


def _note_if_a_features(switch: Reader, key: str) -> None:
    """A feature's own label is kubesyncd's: what was typed will not last."""
    feature = feature_of(key)
    with suppress(PortError):
        if feature and switch.stored(feature).config:
            text = f"note: {key} follows the feature's owner; set that: kubesync config feature {feature} owner kube"
            click.echo(text, err=True)


@kube.command(cls=Command, options_metavar="[-f]")
@click.option("-f", "--force", is_flag=True, help="Join anew where this switch has joined already.")
def join(force: bool) -> None:
    """Join the configured master."""
    _ask_long("join", "1" if force else "0", done="joined; see: kubesync show kubernetes status")


@kube.command(cls=Command)
def reset() -> None:
    """Leave the master: kube containers end, labels are forgotten."""
    _ask_long("reset", done="this switch has left its master")


def _ask_long(*request: str, done: str) -> None:
    """A verb that takes its time, told step by step; `done` where the daemon has no words of its own."""
    switch = reader()
    switch.cluster()
    try:
        lines = switch.ask(*request, within_s=JOIN_S_MAX, say=click.echo)
    except Declined as no:
        if "unknown verb" in str(no):
            text = (
                f"this kubesyncd knows no {request[0]}; update it, then restart: systemctl restart kubesyncd"
            )
            raise Failure(text, protocol.EXIT_UNAVAILABLE) from None
        raise
    for line in lines or [done]:
        click.echo(line)


# ---- config feature -------------------------------------------------------------------------------


def is_name(group: click.Group, words: Sequence[str]) -> bool:
    """Whether `NAME …` was typed and no command of the group: a setting comes second, or no command begins so."""
    second = words[1].lower() if len(words) > 1 else ""
    if second and (second == "-y" or any(word.startswith(second) for word in WORDS)):
        return True
    return not any(command.startswith(words[0].lower()) for command in group.commands)


@dataclass(frozen=True, slots=True)
class Wish:
    """What one command wants of a feature, in the design document's words; None: as it is."""

    owner: Owner | None = None
    fallback: bool | None = None
    failmode: int | None = None
    policy: FailurePolicy | None = None

    def fields(self) -> dict[str, str]:
        """As CONFIG_DB fields."""
        wanted = {
            "set_owner": None if self.owner is None else self.owner.value,
            "fallback_to_local": None if self.fallback is None else str(self.fallback).lower(),
            "kube_failure_detection": None if self.failmode is None else str(self.failmode),
            "failure_policy": None if self.policy is None else self.policy.value,
        }
        return {name: value for name, value in wanted.items() if value is not None}


def parse_wish(words: Sequence[str]) -> Wish:
    """`owner kube fallback true …`, in any order, each word at most once. Raises UsageError."""
    got: dict[str, str] = {}
    for at in range(0, len(words), 2):
        key = _setting(words[at])
        if key in got:
            raise click.UsageError(f"{key} is given twice")
        if at + 1 >= len(words):
            raise click.UsageError(f"{key} needs a value: {_values(key)}")
        got[key] = words[at + 1].lower()
    if not got:
        raise click.UsageError("nothing to change was given")
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


# What a shell offers after each word.
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
        raise click.UsageError(f"{key} {word[:40]!a} is not {_values(key)}")
    return _CHOICES[key][word]


def _minutes(word: str) -> int:
    if not (word.isascii() and word.isdigit() and len(word) <= 7 and int(word) <= FAILURE_MINUTES_MAX):
        text = f"failmode {word[:20]!a} is no whole number of minutes from 0 (never) to {FAILURE_MINUTES_MAX}"
        raise click.UsageError(text)
    return int(word)


class Setting(click.ParamType):  # type: ignore[type-arg]
    """One of the words `owner kube fallback true …`; a shell is offered those that may come next."""

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
@click.option("-y", "--yes", is_flag=True, help="Go on without being asked.")
def each(name: str, words: tuple[str, ...], yes: bool) -> None:
    """Say who runs a feature, and what happens when kube cannot.

    owner: local (the image on the switch) or kube. fallback: whether the local container runs while kube has
    none. failmode: after so many minutes without a kube container the feature has failed (0: never). policy:
    what is done then, alert, switch-to-local or rollback.
    """
    set_feature(name, parse_wish(words), sure=yes)


@config.group(cls=Group, each=each, is_name=is_name)
def feature() -> None:
    """Who runs a feature.

    Most of it is one command: config feature NAME [owner local|kube] [fallback true|false] [failmode MINUTES]
    [policy alert|switch-to-local|rollback] [-y]
    """


for command in (install, uninstall):
    feature.add_command(command)


# sonic-utilities' own forms ask nothing; scripts may say so all the same.
_never_asked = click.option("-y", "--yes", is_flag=True, hidden=True, expose_value=False)


@feature.command("owner", cls=Command)
@click.argument("name", metavar="NAME", type=FeatureName())
@click.argument("owner", metavar="local|kube", type=click.Choice(["local", "kube"], case_sensitive=False))
@_never_asked
def feature_owner(name: str, owner: str) -> None:
    """Say who runs a feature."""
    set_feature(name, Wish(owner=Owner(owner)), sure=True)


@feature.command("fallback", cls=Command)
@click.argument("name", metavar="NAME", type=FeatureName())
@click.argument("switch", metavar="on|off", type=click.Choice(["on", "off"], case_sensitive=False))
@_never_asked
def feature_fallback(name: str, switch: str) -> None:
    """Whether the local container runs while kube has none."""
    set_feature(name, Wish(fallback=switch == "on"), sure=True)


def set_feature(name: str, wish: Wish, *, sure: bool) -> None:
    """Write a feature's CONFIG_DB row, once it is clear that it can be meant and what it will do."""
    switch = reader()
    stored = switch.stored(name)
    row = {} if stored.config else _first_row(switch, name)
    _possible(switch, name, stored, wish)
    fields = {**row, **switch.schema.encode_config(wish.fields())}
    if not row and _stands(stored, fields):
        click.echo(f"{name}: nothing to change, it is configured so already")
        return
    sentence, asks = consequence(name, stored, wish, joined=_joined(switch))
    ask_first(sentence, "Go on?", sure=sure or not asks)
    switch.write_feature(name, fields)
    click.echo(f"{name}: {', '.join(f'{key}={value}' for key, value in fields.items())}")
    _warn_if_absent(switch)


def _first_row(switch: Reader, name: str) -> dict[str, str]:
    """The row of a feature that has a service and none yet. `state` says what its unit is: SONiC's featured,
    which reads the row too, then changes nothing. Raises Failure where there is no such service.
    """
    unless(
        switch.has_unit(name),
        f"{name} is no feature of this switch: it has neither a FEATURE row nor a service; "
        f"install it first: kubesync config feature install {name}",
    )
    return {"state": "enabled" if switch.in_use(name) else "disabled", "auto_restart": "enabled"}


def _possible(switch: Reader, name: str, stored: Stored, wish: Wish) -> None:
    if wish.owner is not Owner.KUBE:
        return
    unless(
        name not in switch.settings.features.always_local,
        f"{name} can only be local, kubesyncd itself needs it; leave its owner as it is",
    )
    unless(
        not stored.means.local_only,
        f"{name} has a container per ASIC, and kube can run none of these; leave its owner as it is",
    )


def _stands(stored: Stored, fields: Mapping[str, str]) -> bool:
    there = {name.lower(): value for name, value in stored.config.items()}
    return all(there.get(name.lower()) == value for name, value in fields.items())


def _joined(switch: Reader) -> bool | None:
    """Whether the switch has joined a master; None: the daemon does not say."""
    try:
        return bool(switch.cluster()["joined"])
    except (PortError, Declined):
        return None


_BY_LOCAL = (State.LOCAL, State.LOCAL_TO_KUBE)


def consequence(name: str, stored: Stored, wish: Wish, *, joined: bool | None) -> tuple[str, bool]:
    """What the change will do to what runs, in a sentence, and whether that is worth a question."""
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
