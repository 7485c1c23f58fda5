"""Add our `config` commands to sonic-utilities, from their `config/plugins` folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kubesyncd.cli.config import config
from kubesyncd.cli.config_feature import is_name
from kubesyncd.cli.plugins.exec_proxy import become, kept, stand_in
from kubesyncd.cli.plugins.merge import accept_names, add_missing, answer_to, around, take_over

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def register(cli: click.Group, run: Callable[[Sequence[str]], None] = become) -> None:
    """Extend `config`; `run` executes the words typed. Its `feature` group keeps its commands, except `fallback`.

    Theirs writes a text that ctrmgrd takes for the opposite, and that does not end a setting kept from ctrmgrd's time.
    Its `load_minigraph` keeps the Kubernetes fields of FEATURE. Its `kubernetes` group writes for another daemon:
    labels that kubesyncd does not read, and a master that is never verified. Our commands replace those of the same
    name there.
    """
    around(cli.commands.get("load_minigraph"), kept)
    mine = stand_in(config, ["config"], run)
    feature, kube = mine.commands["feature"], mine.commands["kube"]
    their_feature = cli.commands.get("feature")
    if their_feature is None:
        cli.add_command(feature)
    elif isinstance(their_feature, click.Group):
        their_feature.add_command(feature.commands["fallback"], "fallback")
        add_missing(their_feature, feature)
        accept_names(their_feature, feature.each, is_name)
    their_kube = cli.commands.get("kubernetes")
    if their_kube is None:
        cli.add_command(kube, "kubernetes")
    elif isinstance(their_kube, click.Group):
        take_over(their_kube, kube)
    answer_to(cli, "kube", kube)
