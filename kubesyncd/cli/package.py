"""Compare and install service packages: `package sync|list`.

The daemon's unit runs `sync`; an operator may run it too.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import click

from kubesyncd.cli.click_groups import Command, Failure, Group
from kubesyncd.cli.install import installer
from kubesyncd.cli.output import json_option, print_json, put, table, this_switch
from kubesyncd.ports import PortError
from kubesyncd.services.catalog import Unusable, plan, wanted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kubesyncd.cli.switch import Switch
    from kubesyncd.services.catalog import Metadata, OfferedPackage
    from kubesyncd.services.catalog_source import CatalogSource, ServerFiles
    from kubesyncd.services.installed import Manifest
    from kubesyncd.services.package_sync import PackageResult, PackageSync

NO_SERVER = "no package server is configured; set url in [packages] of kubesyncd.toml"


class PackageRow(TypedDict):
    """One package, installed or offered. `step`: what the next sync does with it."""

    name: str
    installed: str
    offered: str
    step: str


class StepRow(TypedDict):
    """One step of a sync. `failure`: empty unless it failed."""

    step: str
    done: bool
    failure: str


@click.group("package", cls=Group)
def package() -> None:
    """Services installed as packages from a server."""


@package.command(cls=Command, options_metavar="[--dry-run]")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and change nothing.")
@json_option
def sync(dry_run: bool, as_json: bool) -> None:
    """Install, update and remove packages to match what this node is eligible for."""
    switch = this_switch()
    worker = _worker(switch)
    labels = _labels(switch)
    try:
        if dry_run:
            metadata, steps = asyncio.run(worker.plan(labels))
            _print_problems(metadata)
            _print([{"step": str(step), "done": False, "failure": ""} for step in steps], as_json=as_json)
            return
        results: Sequence[PackageResult] = asyncio.run(worker.run(labels))
    except Unusable as error:
        raise Failure(str(error)) from error
    _print(
        [{"step": str(r.step), "done": not r.failure, "failure": r.failure} for r in results], as_json=as_json
    )
    failed = [result for result in results if result.failure]
    if failed:
        text = f"{len(failed)} of {len(results)} packages failed"
        raise Failure(f"{text}; the first: {failed[0].step}: {failed[0].failure}")


@package.command("list", cls=Command)
@json_option
def list_packages(as_json: bool) -> None:
    """List installed packages, and those that the server offers to this node."""
    switch = this_switch()
    installed = installer(switch).installed()
    followed = bool(switch.settings.packages.url)
    labels = _labels_or_none(switch) if followed else None
    rows = _rows(installed, _offered(switch) if followed else None, labels)
    if as_json:
        print_json(rows)
        return
    if not rows:
        offers = "none is offered to this node" if followed else NO_SERVER
        click.echo(f"no packages: none is installed, and {offers}")
        return
    shown = table("name", "installed", "offered", "will be")
    for row in rows:
        shown.add_row(row["name"], row["installed"], row["offered"], row["step"])
    put(shown)


def _worker(switch: Switch) -> PackageSync:
    from kubesyncd.services.package_sync import PackageSync

    files = switch.package_files()
    return PackageSync(_source(switch, files), files, installer(switch))


def _source(switch: Switch, files: ServerFiles) -> CatalogSource:
    """Return the configured server's metadata. Raises Failure without a server."""
    from kubesyncd.runtime.state_files import DiskFile, state_file
    from kubesyncd.services.catalog_source import SEEN_FILE, CatalogSource

    server = switch.settings.packages
    if not server.url:
        raise Failure(NO_SERVER)
    seen = DiskFile(state_file(Path(switch.settings.paths.state_dir) / SEEN_FILE))
    return CatalogSource(server.url, server.pubkey, files, switch.is_true, seen)


def _labels(switch: Switch) -> Mapping[str, str]:
    """Return the own Node's labels, which eligibility depends on. Raises Failure if they are unknown."""
    labels = _labels_or_none(switch)
    if labels is None:
        text = "the API server has not reported this node's labels yet, so its eligible packages are unknown"
        raise Failure(f"{text}; see: kubesync show kubernetes status")
    return labels


def _labels_or_none(switch: Switch) -> Mapping[str, str] | None:
    return switch.daemon.cluster().get("node_labels")


def _offered(switch: Switch) -> Metadata | None:
    """Return the server's offer; print a note and return None if it is unknown."""
    try:
        metadata = asyncio.run(_source(switch, switch.package_files()).fetch())
    except (Failure, PortError, Unusable) as error:
        click.echo(f"note: offered packages are unknown: {error}", err=True)
        return None
    _print_problems(metadata)
    return metadata


def _print_problems(metadata: Metadata) -> None:
    for problem in metadata.problems:
        click.echo(f"note: {problem}", err=True)


def _rows(
    installed: Mapping[str, Manifest], offered: Metadata | None, labels: Mapping[str, str] | None
) -> list[PackageRow]:
    """Build a row for each installed service, and for each package that this node is eligible for."""
    from kubesyncd.services.installed import hashes

    steps: dict[str, str] = {}
    fitting: Mapping[str, OfferedPackage] = {}
    if offered is not None and labels is not None:
        steps = {step.name: step.do.value for step in plan(offered, labels, hashes(installed))}
        fitting = wanted(offered, labels)
    return [
        {
            "name": name,
            "installed": _version(installed.get(name)),
            "offered": fitting[name].version if name in fitting else "",
            "step": steps.get(name, ""),
        }
        for name in sorted({*installed, *fitting})
    ]


def _version(manifest: Manifest | None) -> str:
    if manifest is None:
        return ""
    return manifest.package.version if manifest.package else "by an operator"


def _print(steps: Sequence[StepRow], *, as_json: bool) -> None:
    if as_json:
        print_json(list(steps))
        return
    for step in steps:
        state = f"failed: {step['failure']}" if step["failure"] else "done" if step["done"] else "to do"
        click.echo(f"{step['step']}: {state}")
    if not steps:
        click.echo("all packages are up to date")
