"""Add our `show` commands to sonic-utilities, from their `show/plugins` folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kubesyncd.cli.plugins.exec_proxy import become, stand_in
from kubesyncd.cli.plugins.merge import accept_names, accept_nothing, answer_to, take_over
from kubesyncd.cli.show import show

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def register(cli: click.Group, run: Callable[[Sequence[str]], None] = become) -> None:
    """Extend `show`; `run` executes the words typed.

    Its `feature` group keeps all its commands, and runs ours if none is typed; so does its `kubernetes server`. Ours
    replace its other kubernetes commands of the same name, which read keys that kubesyncd does not write.
    """
    mine = stand_in(show, ["show"], run)
    feature, kubernetes = mine.commands["feature"], mine.commands["kubernetes"]
    their_feature = cli.commands.get("feature")
    if their_feature is None:
        cli.add_command(feature)
    elif isinstance(their_feature, click.Group):
        accept_names(their_feature, feature, no_command)
        accept_nothing(their_feature, feature)
    their_kubernetes = cli.commands.get("kubernetes")
    if their_kubernetes is None:
        cli.add_command(kubernetes)
    elif isinstance(their_kubernetes, click.Group):
        take_over(their_kubernetes, kubernetes)
    answer_to(cli, "kube", kubernetes)


def no_command(group: click.Group, words: Sequence[str]) -> bool:
    """Return whether no command of the group starts with the first word."""
    return not any(name.startswith(words[0].lower()) for name in group.commands)
