"""Diagnose this switch: `doctor` prints one line per check, with the fix where one is needed.

Each check covers one subject and is independent of the others; if one service is down, the rest is still checked.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import click

from kubesyncd.cli import checks_kubernetes, checks_switch
from kubesyncd.cli import migrate as migration
from kubesyncd.cli.click_groups import Command, failure_of
from kubesyncd.cli.diagnosis import CheckGrade, CheckResult, Diagnosis, split_fix
from kubesyncd.cli.output import json_option, print_json, put, this_switch
from kubesyncd.cli.scripts import check_scripts
from kubesyncd.cli.switch_daemon import Declined
from kubesyncd.core import protocol
from kubesyncd.ports import Forbidden, PortError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.table import Table

    Check: TypeAlias = Callable[[Diagnosis], Iterator[CheckResult]]


@click.command(cls=Command, options_metavar="[--json]")
@click.argument(
    "paths", nargs=-1, type=click.Path(exists=True, path_type=Path), metavar="[--scripts [PATH]...]"
)
@click.option("--migrate", is_flag=True, help="Print the steps to migrate from ctrmgrd; change nothing.")
@click.option(
    "--scripts",
    is_flag=True,
    help="Print the docker calls in scripts that miss a container of Kubernetes: in the scripts and folders PATH, or"
    " wherever SONiC has scripts.",
)
@json_option
@click.pass_context
def doctor(ctx: click.Context, paths: tuple[Path, ...], as_json: bool, migrate: bool, scripts: bool) -> None:
    """Check all that kubesyncd needs; each line names the fix."""
    if scripts:
        left = not check_scripts(this_switch(), paths, as_json=as_json)
        ctx.exit(protocol.EXIT_FAILED if left else protocol.EXIT_DONE)
    if paths:
        raise click.UsageError("a PATH needs --scripts: kubesync doctor --scripts PATH")
    if migrate:
        migration.migrate(this_switch(), as_json=as_json)
        return
    results = list(examine(Diagnosis(this_switch())))
    if as_json:
        print_json([asdict(result) for result in results])
    else:
        put(report(results))
    ctx.exit(protocol.EXIT_FAILED if any(r.grade is CheckGrade.BAD for r in results) else protocol.EXIT_DONE)


def examine(diagnosis: Diagnosis) -> Iterator[CheckResult]:
    """Yield all results, in the order in which a fault spreads."""
    down: dict[str, str] = {}
    for subject, check in CHECKS:
        try:
            yield from check(diagnosis)
        except Declined as error:
            yield CheckResult(subject, CheckGrade.BAD, *split_fix(str(error)))
        except PortError as error:
            if error.service in down:
                yield CheckResult(subject, CheckGrade.SKIP, f"not checked: {down[error.service]}")
                continue
            refused = isinstance(error, Forbidden)
            down[error.service] = f"{error.service} {'refuses this user' if refused else 'does not answer'}"
            yield CheckResult(subject, CheckGrade.BAD, *split_fix(str(failure_of(error))))


def report(results: list[CheckResult]) -> Table:
    """Build the printed table of results."""
    from rich.table import Table
    from rich.text import Text

    styles = {
        CheckGrade.GOOD: "green",
        CheckGrade.WARN: "yellow",
        CheckGrade.BAD: "bold red",
        CheckGrade.SKIP: "dim",
    }
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for result in results:
        said = Text(result.found)
        if result.fix:
            said.append(f"; {result.fix}", "" if result.grade is CheckGrade.SKIP else "bold")
        grid.add_row(Text(result.grade.value.ljust(4), styles[result.grade]), result.subject, said)
    return grid


CHECKS: tuple[tuple[str, Check], ...] = (
    ("settings", checks_switch.settings_file),
    ("daemon", checks_switch.daemon),
    ("socket", checks_switch.sockets),
    ("redis", checks_switch.redis),
    ("names", checks_switch.field_names),
    ("docker", checks_switch.docker),
    ("files", checks_switch.files),
    ("container", checks_switch.containers),
    ("master", checks_kubernetes.master),
    ("kubelet", checks_kubernetes.kubelet),
    ("images", checks_kubernetes.kubelet_images),
    ("certificate", checks_kubernetes.certificates),
    ("clock", checks_kubernetes.clock_skew),
    ("manifest", checks_kubernetes.manifests),
    ("reboot", checks_switch.reboot),
)
