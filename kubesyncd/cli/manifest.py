"""Print the DaemonSet for a feature, or check one: `manifest NAME|--check FILE`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kubesyncd.cli.click_groups import Command, Failure
from kubesyncd.cli.output import FeatureName, json_option, print_json, reader
from kubesyncd.cli.rules.daemonset import Local, daemonset, local_of
from kubesyncd.cli.rules.daemonset_lint import RULES, Finding, Weight, check
from kubesyncd.core import protocol
from kubesyncd.core.labels import self_description
from kubesyncd.ports import PortError

if TYPE_CHECKING:
    from kubesyncd.cli.switch import Reader

DOCKER_S = 2.0
FILE_BYTES_MAX = 4 << 20
# A manifest is for switches of one platform: the image knows its hardware.
SELECTED = frozenset({"worker.sonic/platform"})


@click.command("manifest", cls=Command, options_metavar="[--image IMAGE] [--any-platform] [--json]")
@click.argument("name", metavar="NAME|--check FILE", type=FeatureName(), required=False)
@click.option(
    "--check", "file", metavar="FILE", help="Say which mandates this manifest breaks (- for standard input)."
)
@click.option("--image", default="", metavar="IMAGE", help="The image to deploy, best by its digest.")
@click.option("--namespace", default="sonic", metavar="NAMESPACE", help="Where the DaemonSet lives.")
@click.option("--any-platform", is_flag=True, help="For switches of every platform, not only this one's.")
@json_option
def manifest(
    name: str | None, file: str | None, image: str, namespace: str, any_platform: bool, as_json: bool
) -> None:
    """Print a DaemonSet for a feature, made after the container this switch runs; or check one.

    Apply it with: kubesync manifest snmp | kubectl apply -f -
    """
    if (name is None) is (file is None):
        raise Failure("give a feature's name, or --check and a file", protocol.EXIT_USAGE)
    if file is not None:
        _say(check(_documents(file)), as_json=as_json)
        return
    assert name is not None
    select = {} if any_platform else _platform(reader())
    made = daemonset(name, _local(reader(), name), image=image, namespace=namespace, select=select)
    if as_json:
        print_json(made)
        return
    import yaml

    class Plain(yaml.SafeDumper):
        """What occurs twice is written twice: people read it, and edit one of them."""

        def ignore_aliases(self, data: object) -> bool:
            del data
            return True

    click.echo(yaml.dump(made, Dumper=Plain, sort_keys=False, default_flow_style=False), nl=False)


def _local(switch: Reader, name: str) -> Local:
    """How the switch runs the feature; nothing known where it does not, or Docker does not say."""
    from kubesyncd.adapters.docker_sync import inspect

    try:
        found = inspect(switch.settings.docker.url, name, DOCKER_S)
    except PortError as error:
        click.echo(f"kubesync: {error}; the manifest has no mounts but the switch's own folder", err=True)
        return Local()
    if found is None:
        click.echo(
            f"kubesync: {name} has no local container to go by; add its mounts and its image", err=True
        )
        return Local()
    return local_of(found)


def _platform(switch: Reader) -> dict[str, str]:
    try:
        metadata = switch.device_metadata()
    except PortError:
        return {}
    described = {change.key: change.value for change in self_description(metadata, "")}
    return {key: value for key, value in described.items() if key in SELECTED and value}


def _documents(file: str) -> list[Any]:
    """The YAML documents of a file, or of standard input. Raises Failure."""
    import yaml

    try:
        text = sys.stdin.read(FILE_BYTES_MAX) if file == "-" else Path(file).read_bytes()[:FILE_BYTES_MAX]
        return list(yaml.safe_load_all(text))
    except OSError as error:
        raise Failure(
            f"{file}: {error.strerror}; give a file that can be read", protocol.EXIT_USAGE
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        at = f" at line {where.line + 1}" if where is not None else ""
        raise Failure(f"{file} is no YAML{at}; correct it") from error


def _say(found: tuple[Finding, ...], *, as_json: bool) -> None:
    """Each finding with its rule and its fix; exit code 1 where a mandate is broken."""
    broken = sum(finding.weight is Weight.BREAKS for finding in found)
    if as_json:
        print_json(
            [
                {
                    "rule": f.rule,
                    "weight": f.weight.value,
                    "where": f.where,
                    "problem": f.problem,
                    "fix": f.fix,
                }
                for f in found
            ]
        )
    else:
        for finding in found:
            click.echo(
                f"{finding.where}: {finding.weight.value} {finding.rule}: {finding.problem}; {finding.fix}"
            )
            click.echo(f"    {RULES[finding.rule]}")
        if not found:
            click.echo(f"keeps all {len(RULES)} rules")
    if broken:
        raise Failure(f"{broken} mandate{'s' * (broken > 1)} broken")
