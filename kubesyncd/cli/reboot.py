"""Prepare this switch for a reboot: `reboot prepare warm|fast|cold`, and restore after an upgrade.

The daemon handles images, the hold and the kubelet. This module does what needs root's access to the whole system: it
copies files of other programs and runs hooks. All steps together take at most `reboot_s_max`. One failed step undoes
all others.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kubesyncd.cli.click_groups import Command, Group
from kubesyncd.cli.output import json_option, print_json, this_switch
from kubesyncd.cli.switch_daemon import Declined
from kubesyncd.core import protocol
from kubesyncd.ports import PortError, Unavailable
from kubesyncd.reboot.context_backup import ContextBackup, places, sources
from kubesyncd.reboot.hold import (
    HOLD_FILE,
    PROMISED_FILE,
    WORDS,
    Grade,
    Kind,
    PreparationStep,
    decode,
    kind_of,
)
from kubesyncd.runtime.clock import boot_id
from kubesyncd.runtime.state_files import StateFile
from kubesyncd.services.installed import FOLDER, read_manifests

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kubesyncd.cli.switch import Switch
    from kubesyncd.core.descriptions import PreparationStepDescription
    from kubesyncd.ports import Hooks
    from kubesyncd.services.installed import Manifest

# Time limit of an undo. After a failed preparation, the undo gets this share of the preparation's own limit.
UNDO_S = 5.0
UNDO_SHARE = 1 / 6
# Suffix of a hook that must succeed: `50-cache.abort`. A failure of any other hook is a warning.
ABORT = ".abort"
# Below the install root, as manifests name it.
HOOKS = "/etc/kubesyncd/hooks"
# What SONiC's scripts say for the kinds.
SAID = [word for words in WORDS.values() for word in words]
SHOWN = {Grade.OK: "ok   ", Grade.WARN: "warn ", Grade.FAIL: "FAIL "}


@click.group(cls=Group)
def reboot() -> None:
    """Prepare a reboot and restore after it, for the reboot scripts."""


@reboot.command(cls=Command, options_metavar="[--undo] [--dry-run] [--json]")
@click.argument("kind", metavar="|".join(Kind), type=click.Choice(SAID), required=False)
@click.option("--undo", is_flag=True, help="Undo the preparation: the reboot is cancelled.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and change nothing.")
@json_option
def prepare(kind: str | None, undo: bool, dry_run: bool, as_json: bool) -> None:
    """Prepare features, images, kubelet and certificates for a reboot, within 30 seconds.

    SONiC's own words are kinds too, such as the REBOOT_TYPE of its scripts: fastfast-reboot is a warm reboot.

    The last line begins with "prepared" (exit code 0) or "not prepared" (1, and nothing is held).
    Running it again is safe.
    """
    if undo:
        click.echo(_taken_back(this_switch()))
        return
    wanted = kind_of(kind or "")
    if wanted is None:
        raise click.UsageError(f"the kind of reboot is missing; use {', '.join(Kind)}")
    work = PreparationRun(this_switch(), wanted, dry=dry_run)
    steps = work.run()
    failed = [step for step in steps if step.grade is Grade.FAIL]
    if failed and not dry_run:
        steps.append(work.take_back())
    warnings = sum(step.grade is Grade.WARN for step in steps)
    summary = _summary(wanted, failed, warnings, time.monotonic() - work.begun, dry=dry_run)
    if as_json:
        told = [asdict(step) for step in steps]
        print_json(
            {
                "prepared": not failed,
                "dry_run": dry_run,
                "kind": wanted,
                "steps": told,
                "warnings": warnings,
                "summary": summary,
            }
        )
    else:
        for step in steps:
            click.echo(f"{SHOWN[step.grade]}{step.what}: {step.text}")
        click.echo(summary)
    sys.exit(protocol.EXIT_FAILED if failed else protocol.EXIT_DONE)


def _summary(kind: str, failed: Sequence[PreparationStep], warnings: int, took_s: float, *, dry: bool) -> str:
    if failed:
        return f"not prepared for a {kind} reboot: {failed[0].what}: {failed[0].text}"
    would = "would be " if dry else ""
    many = "no warnings" if not warnings else "1 warning" if warnings == 1 else f"{warnings} warnings"
    return f"{would}prepared for a {kind} reboot: {many}, {took_s:.1f} s"


@reboot.command(cls=Command, hidden=True)
def restore() -> None:
    """Restore what an earlier boot has saved and this image lacks; once. For kubesyncd-restore.service."""
    switch = this_switch()
    for folder in (*backup_folders(switch), _moved(switch)):
        for path in _restoring(switch, folder).restore(but=_lifted(switch), then=_enabler(switch)):
            click.echo(f"restored {path}")


def _restoring(switch: Switch, folder: Path) -> ContextBackup:
    """Build the context backup of `folder`, with all places that it may restore to, on this image and the last one."""
    from kubesyncd.services.definition import SCRIPT_FOLDER, UNIT_FOLDER

    hooks = switch.settings.paths.hooks_dir
    ours = (*places(switch.settings, more=(UNIT_FOLDER, SCRIPT_FOLDER, HOOKS)), Path(hooks))
    return ContextBackup(folder, ours, _boot_id(switch))


def _enabler(switch: Switch) -> Callable[[tuple[str, ...]], None]:
    """Return the function that enables operators' features as services of this image."""
    units = switch.units()

    async def enable(services: tuple[str, ...]) -> None:
        missing = [service for service in services if not await units.starts_at_boot(service)]
        if missing:
            await units.reload()
        for service in missing:
            await units.enable(service)
            await units.restart(service)
            click.echo(f"enabled {service}.service")

    return lambda services: asyncio.run(enable(services))


def _lifted(switch: Switch) -> Path | None:
    """Return the hold's file if the daemon has already lifted the hold in this boot: it must not be restored."""
    state = Path(switch.settings.paths.state_dir)
    promised = decode(StateFile(state / PROMISED_FILE).load())
    return state / HOLD_FILE if promised.boot_id == _boot_id(switch) else None


def _boot_id(switch: Switch) -> str:
    return boot_id(Path(switch.settings.paths.boot_id))


def backup_folders(switch: Switch) -> tuple[Path, ...]:
    """Return the context backup's folders; on an upgrade, first the one that becomes the next image's /etc/sonic."""
    ours = Path(switch.settings.paths.carry_dir)
    upgrade = Path(switch.settings.paths.upgrade_dir)
    return (upgrade / ours.name, ours) if upgrade.is_dir() else (ours,)


def _moved(switch: Switch) -> Path:
    """Return the folder to which the first boot of another SONiC moves an upgrade's context backup."""
    ours = Path(switch.settings.paths.carry_dir)
    return ours.parent / Path(switch.settings.paths.upgrade_dir).name / ours.name


def _backup(switch: Switch, folder: Path) -> ContextBackup:
    return ContextBackup(folder, sources(switch.settings, _installed(switch)), _boot_id(switch))


def _installed(switch: Switch) -> dict[str, Manifest]:
    return read_manifests(Path(switch.settings.paths.state_dir) / FOLDER)


async def _enabled(switch: Switch, within_s: float) -> list[str]:
    """Return operators' features that start at boot. Raises Unavailable."""
    units = switch.units()
    try:
        async with asyncio.timeout(within_s):
            return [name for name in _installed(switch) if await units.starts_at_boot(name)]
    except TimeoutError:
        raise Unavailable("systemd", "it did not answer in time") from None


def _taken_back(switch: Switch) -> str:
    """Lift the hold, then remove the copies: a switch without a kubelet is worse than one with an extra copy."""
    step: PreparationStepDescription = json.loads(switch.daemon.ask("reboot-undo", within_s=UNDO_S)[0])
    for folder in backup_folders(switch):
        _backup(switch, folder).drop()
    return f"{step['what']}: {step['text']}"


class PreparationRun:
    """One run of `reboot prepare`. `begun`: when, by time.monotonic."""

    def __init__(self, switch: Switch, kind: Kind, *, dry: bool) -> None:
        self.begun = time.monotonic()
        self._switch = switch
        self._kind = kind
        self._dry = dry
        self._timing = switch.settings.timing
        self._deadline = self.begun + self._timing.reboot_s_max * (1 - UNDO_SHARE)

    def run(self) -> list[PreparationStep]:
        """Run all steps in order, up to the first one that fails. Raises Unavailable if the daemon does not answer."""
        try:
            steps = self._daemon()
        except PortError as error:
            if not self._held:
                raise
            return [PreparationStep(Grade.FAIL, "kubesyncd", error.detail)]
        for part in (self._save, self._hooks):
            if any(step.grade is Grade.FAIL for step in steps):
                break
            steps += part()
        return steps

    @property
    def _held(self) -> bool:
        """True if the daemon set the hold before it stopped answering."""
        return (Path(self._switch.settings.paths.state_dir) / HOLD_FILE).exists()

    def take_back(self) -> PreparationStep:
        """Undo the preparation after a failure."""
        try:
            return PreparationStep(Grade.OK, "undo", _taken_back(self._switch))
        except (PortError, Declined) as error:
            return PreparationStep(Grade.FAIL, "undo", f"{error}; run: kubesync reboot prepare --undo")

    def _daemon(self) -> list[PreparationStep]:
        request = ("reboot-prepare", self._kind.value, str(int(self._dry)))
        lines = self._switch.daemon.ask(*request, within_s=self._left_s())
        return [_step(json.loads(line)) for line in lines if line]

    def _save(self) -> list[PreparationStep]:
        """Save certificates and state for an image that is about to boot for the first time."""
        steps: list[PreparationStep] = []
        try:
            services = asyncio.run(_enabled(self._switch, self._left_s()))
        except PortError as error:
            return [PreparationStep(Grade.FAIL, "context", error.detail)]
        for folder in backup_folders(self._switch):
            try:
                backup = _backup(self._switch, folder)
                count = len(backup.found()) if self._dry else backup.save(self._left_s(), services)
            except PortError as error:
                return [*steps, PreparationStep(Grade.FAIL, "context", error.detail)]
            would = "would be " if self._dry else ""
            steps.append(PreparationStep(Grade.OK, "context", f"{count} files {would}saved in {folder}"))
        return steps

    def _hooks(self) -> list[PreparationStep]:
        steps: list[PreparationStep] = []

        def left_out(hook: str, why: str) -> None:
            if why:
                steps.append(PreparationStep(Grade.WARN, Path(hook).name, f"skipped: {why}"))

        folder = f"{self._kind.value}-reboot.d"
        hooks = self._switch.hooks(left_out)
        for name in hooks.names(folder):
            if self._dry:
                steps.append(PreparationStep(Grade.OK, name, "would be run"))
                continue
            steps.append(self._hook(hooks, folder, name))
            if steps[-1].grade is Grade.FAIL:
                break
        return steps

    def _hook(self, hooks: Hooks, folder: str, name: str) -> PreparationStep:
        bad = Grade.FAIL if name.endswith(ABORT) else Grade.WARN
        seconds = min(self._timing.hook_s_max, self._left_s())
        if seconds <= 0:
            return PreparationStep(bad, name, f"not run: no time is left of {self._timing.reboot_s_max:g} s")
        try:
            ran = asyncio.run(hooks.run(folder, name, (self._kind.value,), seconds))
        except PortError as error:
            return PreparationStep(bad, name, error.detail)
        return (
            PreparationStep(Grade.OK, name, "done")
            if ran.good
            else PreparationStep(bad, name, f"it failed: {ran.text}")
        )

    def _left_s(self) -> float:
        return max(0.0, self._deadline - time.monotonic())


def _step(tree: PreparationStepDescription) -> PreparationStep:
    try:
        return PreparationStep(Grade(tree["grade"]), tree["what"], tree["text"])
    except (LookupError, ValueError) as error:
        raise Unavailable("kubesyncd", f"invalid answer: {error!r}") from error
