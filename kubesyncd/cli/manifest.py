"""Print the DaemonSet for a feature, or check one: `manifest NAME|--check FILE`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kubesyncd.cli.click_groups import Command, Failure
from kubesyncd.cli.output import FeatureName, json_option, print_json, this_switch, unless
from kubesyncd.cli.rules.daemonset import Local, daemonset, left_out, local_of
from kubesyncd.cli.rules.daemonset_lint import RULES, Finding, Weight, check
from kubesyncd.cli.rules.kube_syntax import is_dns_label, is_image
from kubesyncd.core import protocol
from kubesyncd.core.kube_names import kube_name, why_not_kube
from kubesyncd.core.labels import self_description
from kubesyncd.core.text import shown
from kubesyncd.ports import PortError

if TYPE_CHECKING:
    from kubesyncd.cli.switch import Switch

FILE_BYTES_MAX = 4 << 20
# Labels that limit a manifest to one platform: images depend on the hardware.
SELECTED = frozenset({"worker.sonic/platform"})


@click.command("manifest", cls=Command, options_metavar="[--image IMAGE] [--any-platform] [--json]")
@click.argument("name", metavar="NAME|--check FILE", type=FeatureName(), required=False)
@click.option(
    "--check",
    "file",
    metavar="FILE",
    help="Report the mandates that this manifest breaks (- for standard input).",
)
@click.option("--image", default="", metavar="IMAGE", help="The image to deploy, preferably by digest.")
@click.option("--namespace", default="sonic", metavar="NAMESPACE", help="Namespace of the DaemonSet.")
@click.option("--any-platform", is_flag=True, help="For switches of every platform, not only this one's.")
@json_option
def manifest(
    name: str | None, file: str | None, image: str, namespace: str, any_platform: bool, as_json: bool
) -> None:
    """Print a DaemonSet for a feature, based on this switch's local container; or check one.

    Apply it with: kubesync manifest snmp | kubectl apply -f -
    """
    if (name is None) is (file is None):
        raise Failure("give a feature's name, or --check and a file", protocol.EXIT_USAGE)
    if file is not None:
        _print_findings(check(_documents(file)), as_json=as_json)
        return
    assert name is not None
    unless(kube_name(name), why_not_kube(name, {}))
    unless(
        is_dns_label(namespace),
        f"invalid namespace {shown(namespace)}; use lower-case letters, digits and -, at most 63 characters",
        protocol.EXIT_USAGE,
    )
    unless(not image or is_image(image), f"invalid image {shown(image)}; write it as REGISTRY/name:VERSION")
    select = {} if any_platform else _platform(this_switch())
    made = daemonset(name, _local(this_switch(), name), image=image, namespace=namespace, select=select)
    if as_json:
        print_json(made)
        return
    import yaml

    class Plain(yaml.SafeDumper):
        """A YAML dumper without aliases, so that each repeated value can be edited by itself."""

        def ignore_aliases(self, data: object) -> bool:
            del data
            return True

    click.echo(yaml.dump(made, Dumper=Plain, sort_keys=False, default_flow_style=False), nl=False)


def _local(switch: Switch, name: str) -> Local:
    """Return how the switch runs the feature; an empty Local if it has no container or Docker does not answer."""
    try:
        found = switch.local_container(name)
    except PortError as error:
        click.echo(f"kubesync: {error}; the manifest has no mount except kubesyncd's folder", err=True)
        return Local()
    if found is None:
        click.echo(
            f"kubesync: {name} has no local container to copy from; add its mounts and its image", err=True
        )
        return Local()
    local = local_of(found)
    if lost := left_out(local):
        click.echo(
            f"kubesync: Kubernetes cannot express, so left out: {', '.join(map(shown, lost))}", err=True
        )
    return local


def _platform(switch: Switch) -> dict[str, str]:
    try:
        metadata = switch.redis.device_metadata()
    except PortError:
        return {}
    described = {change.key: change.value for change in self_description(metadata, "")}
    return {key: value for key, value in described.items() if key in SELECTED and value}


def _documents(file: str) -> list[Any]:
    """Return the YAML documents of a file, or of standard input. Raises Failure."""
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
        raise Failure(f"invalid YAML in {file}{at}; correct it") from error


def _print_findings(found: tuple[Finding, ...], *, as_json: bool) -> None:
    """Print each finding with its rule and its fix. Raises Failure if a mandate is broken."""
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
