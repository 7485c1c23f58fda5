"""Change the configuration: the group `config`. All arguments are checked before anything is written."""

from __future__ import annotations

import click

from kubesyncd.cli.click_groups import Group
from kubesyncd.cli.config_feature import feature
from kubesyncd.cli.config_kube import kube


@click.group(cls=Group, aliases={"kubernetes": "kube"})
def config() -> None:
    """Change the configuration of this switch."""


for command in (kube, feature):
    config.add_command(command)
