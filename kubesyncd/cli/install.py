"""Install a Kubernetes-only service on this switch: `config feature install|uninstall`.

All arguments are checked first; `installer` writes the files, and undoes it on failure.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kubesyncd.cli.click_groups import Command, Failure
from kubesyncd.cli.output import FeatureName, json_option, print_json, this_switch
from kubesyncd.cli.switch_daemon import Declined
from kubesyncd.core import protocol
from kubesyncd.ports import Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kubesyncd.cli.switch import Switch
    from kubesyncd.services.definition import ServiceFile, ServiceSpec
    from kubesyncd.services.installer import Installer, InstallResult

# Longer than a unit's TimeoutStopSec: its feature may use all its grace periods.
STOP_S = 150.0


class SwitchRows:
    """Implement ports.FeatureRows with Redis and the daemon, for the commands."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch

    def daemon_answers(self) -> None:
        """See ports.FeatureRows."""
        try:
            self._switch.daemon.cluster()
        except Declined as no:
            raise Unavailable("kubesyncd", f"it declines requests ({no}); try again") from no

    def feature_row(self, feature: str) -> dict[str, str]:
        """See ports.FeatureRows."""
        return dict(self._switch.redis.feature_rows(feature).config)

    def replace_feature_row(self, feature: str, fields: Mapping[str, str]) -> None:
        """See ports.FeatureRows."""
        self._switch.redis.replace_feature(feature, fields)

    def forget(self, feature: str) -> None:
        """See ports.FeatureRows."""
        try:
            # A unit that had failed, or ran without kubesyncd, sent no stop request: systemd stops no unit twice.
            self._switch.daemon.ask("stop", feature, within_s=STOP_S)
            self._switch.daemon.ask("forget", feature)
        except Declined as no:
            raise Refused("kubesyncd", str(no)) from no
        self._switch.redis.remove_state(feature)


def installer(switch: Switch) -> Installer:
    """Build the installer of this switch."""
    from kubesyncd.services.installer import Installer
    from kubesyncd.services.service_disk import ServiceDisk

    settings = switch.settings
    return Installer(
        disk=ServiceDisk(Path(settings.paths.install_root), Path(settings.paths.state_dir)),
        units=switch.units(change_s=STOP_S),
        rows=SwitchRows(switch),
        ours=switch.redis.schema.encode_config,
        always_local=frozenset(settings.features.always_local),
    )


@click.command("install", cls=Command, options_metavar="[--file FILE] [--replace] [--dry-run]")
@click.argument("name", metavar="[NAME]", type=FeatureName(), required=False)
@click.argument("words", metavar="[required SERVICE…]", nargs=-1)
@click.option(
    "--file", "file", metavar="FILE", help="Read a YAML description instead (see docs/features.md)."
)
@click.option("--replace", is_flag=True, help="Replace an existing service.")
@click.option("--dry-run", is_flag=True, help="Print the files, and write nothing.")
@json_option
def install(
    name: str | None, words: tuple[str, ...], file: str | None, replace: bool, dry_run: bool, as_json: bool
) -> None:
    """Install the service of a feature that only Kubernetes runs: unit, scripts, FEATURE row.

    It runs only while the required services run (default: swss).
    """
    # Here and below: sonic-utilities import this module with every command; asyncio and templates are slow to load.
    import asyncio

    from kubesyncd.services import definition

    spec = _described(name, words, file)
    made = definition.files(spec)
    switch = this_switch()
    services = installer(switch)
    if dry_run:
        asyncio.run(services.check(spec, made, replace=replace))
        _show_files(made, as_json=as_json)
        return
    done = asyncio.run(services.install(spec, made, replace=replace))
    if as_json:
        print_json(_described_result(done))
        return
    for path in done.manifest.files:
        click.echo(path)
    click.echo(_sentence(spec.name, done))


def _described(name: str | None, words: Sequence[str], file: str | None) -> ServiceSpec:
    """Build the service from the arguments or the file. Raises UsageError, Failure."""
    from kubesyncd.services import definition

    try:
        if file is None:
            if name is None:
                raise click.UsageError("neither a NAME nor a --file is given")
            return definition.service(name, _required(words))
        if words:
            raise click.UsageError("give required services in the FILE or after NAME, not in both")
        spec = definition.parse(_read(file))
    except definition.InvalidService as error:
        where = f"{file}: " if file is not None else ""
        raise Failure(f"{where}{error}", protocol.EXIT_USAGE) from None
    if name not in (None, spec.name):
        raise click.UsageError(f"{file} describes {spec.name}, not {name}")
    return spec


def _required(words: Sequence[str]) -> list[str]:
    from kubesyncd.services import definition

    if not words:
        return list(definition.DEFAULT_REQUIRES)
    if not "required".startswith(words[0].lower()) or len(words[0]) < 3:
        raise click.UsageError(f"{words[0][:40]!a} is not known after NAME, only `required SERVICE…`")
    names = [name for word in words[1:] for name in word.split(",") if name]
    if not names:
        raise click.UsageError("required needs at least one service")
    return names


def _read(file: str) -> bytes:
    from kubesyncd.services import definition

    try:
        with Path(file).open("rb") as source:
            return source.read(definition.TEXT_BYTES_MAX + 1)
    except OSError as error:
        raise Failure(f"{file} cannot be read: {error.strerror}; give a file with a description") from error


def _show_files(made: Sequence[ServiceFile], *, as_json: bool) -> None:
    if as_json:
        print_json([{"path": f.path, "mode": f"{f.mode:04o}", "content": f.content.decode()} for f in made])
        return
    for file in made:
        click.echo(f"==> {file.path} ({file.mode:04o})\n{file.content.decode()}")
    click.echo("nothing was written; leave --dry-run out to install it")


def _described_result(done: InstallResult) -> dict[str, object]:
    return {
        "feature": done.manifest.name,
        "files": dict(done.manifest.files),
        "row": dict(done.manifest.row),
        "started": done.started,
        "waits_for": list(done.waits_for),
    }


def _sentence(name: str, done: InstallResult) -> str:
    if done.started:
        return (
            f"{name} is installed and starts now; Kubernetes runs it once it is deployed: show feature {name}"
        )
    return f"{name} is installed; it starts together with {', '.join(done.waits_for)}, which does not run now"


@click.command("uninstall", cls=Command, options_metavar="[--force]")
@click.argument("name", metavar="NAME", type=FeatureName())
@click.option("--force", is_flag=True, help="Also remove files that were changed since.")
@json_option
def uninstall(name: str, force: bool, as_json: bool) -> None:
    """Stop an installed feature, then remove the files of `install` and its rows in both databases."""
    import asyncio

    manifest = asyncio.run(installer(this_switch()).uninstall(name, force=force))
    if as_json:
        print_json({"feature": name, "files": list(manifest.files)})
        return
    for path in manifest.files:
        click.echo(path)
    click.echo(f"{name} is removed" + (", its own service is restored" if manifest.row_before else ""))
