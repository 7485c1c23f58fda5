"""List and remove feature images: `image list`, `image gc`; clear a failure: `clear NAME`.

The daemon does the work; these commands send the request and print the answer.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import click

from kubesyncd.cli.click_groups import Command, Group
from kubesyncd.cli.output import FeatureName, ago, json_option, print_json, put, table, this_switch
from kubesyncd.core.model import SHORT_ID

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from kubesyncd.core.descriptions import ImageDescription, RemovedImageDescription

# Removing an image is limited by the disk and may take a minute.
GC_S = 300.0
CLEAR_S = 15.0
MIB = 1 << 20


@click.group(cls=Group)
def image() -> None:
    """Images that features start from, and those kept for a rollback."""


@image.command("list", cls=Command, options_metavar="[--json]")
@json_option
def list_images(as_json: bool) -> None:
    """List every image that kubesyncd ran here, and its role for its feature.

    local: the feature starts from it; previous: a rollback starts it; old: `image gc` removes it.
    """
    found: list[ImageDescription] = [json.loads(line) for line in this_switch().daemon.ask("images") if line]
    if as_json:
        print_json(found)
    elif not found:
        click.echo("no image from Kubernetes yet; features start from the images of the switch")
    else:
        put(_table(found))


@image.command("gc", cls=Command, options_metavar="[--json]")
@json_option
def collect(as_json: bool) -> None:
    """Remove old images: those that ran here, are used by no container and needed by no rollback."""
    lines = this_switch().daemon.ask("image-gc", within_s=GC_S)
    removed: list[RemovedImageDescription] = [json.loads(line) for line in lines if line]
    if as_json:
        print_json(removed)
        return
    for entry in removed:
        click.echo(f"{entry['feature']}: removed {entry['removed']}")
    if not removed:
        click.echo("nothing to remove")


@click.command(cls=Command)
@click.argument("name", metavar="NAME", type=FeatureName())
def clear(name: str) -> None:
    """Clear a feature's failure: end its rollback, and let Kubernetes run it again at once."""
    for line in this_switch().daemon.ask("clear", name, within_s=CLEAR_S):
        click.echo(f"{name}: {line}")


def _table(found: Sequence[ImageDescription]) -> Table:
    made = table("Feature", "Image", "Role", "Names", "Size", "Age")
    for entry in found:
        made.add_row(*_row(entry))
    return made


def _row(entry: ImageDescription) -> tuple[str, ...]:
    names = "\n".join(entry["names"]) or "(none)"
    size = f"{entry['size'] / MIB:.0f} MiB" if entry["size"] else ""
    short = entry["image"].partition(":")[2][:SHORT_ID]
    return entry["feature"], short, entry["role"], names, size, ago(entry["created"], time.time())
