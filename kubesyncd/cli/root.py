"""Register the commands of `kubesync`.

To add a command, import it here and add it to its group.
"""

from __future__ import annotations

import click

from kubesyncd import __version__
from kubesyncd.cli.click_groups import Group
from kubesyncd.cli.config import config
from kubesyncd.cli.diagram import diagram
from kubesyncd.cli.doctor import doctor
from kubesyncd.cli.explain import explain, watch
from kubesyncd.cli.feature_table import feature_table
from kubesyncd.cli.images import clear, image
from kubesyncd.cli.manifest import manifest
from kubesyncd.cli.output import SETTINGS_FILE
from kubesyncd.cli.package import package
from kubesyncd.cli.reboot import reboot
from kubesyncd.cli.show import show
from kubesyncd.cli.timeline import timeline


@click.group(
    cls=Group, context_settings={"help_option_names": ["-h", "--help"]}, options_metavar="[--config FILE]"
)
@click.option("--config", SETTINGS_FILE, metavar="FILE", help="kubesyncd's settings file.")
@click.version_option(__version__, prog_name="kubesync", message="%(prog)s %(version)s")
def root(**_options: object) -> None:
    """Show and configure features that run from the switch's own image or from Kubernetes.

    Commands may be abbreviated to a unique prefix: `kubesync sh fea` is `kubesync show feature`.
    """


for command in (
    config,
    show,
    explain,
    watch,
    timeline,
    diagram,
    doctor,
    manifest,
    package,
    feature_table,
    image,
    clear,
    reboot,
):
    root.add_command(command)
