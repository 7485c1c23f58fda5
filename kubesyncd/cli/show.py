"""Show the configuration and the state: the group `show`. Each table is also available as JSON."""

from __future__ import annotations

import click

from kubesyncd.cli.click_groups import Group
from kubesyncd.cli.show_feature import feature
from kubesyncd.cli.show_kubernetes import kubernetes


@click.group(cls=Group, aliases={"kube": "kubernetes"})
def show() -> None:
    """Show the configuration and the state."""


for command in (kubernetes, feature):
    show.add_command(command)
