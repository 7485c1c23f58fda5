"""Plan an installation: check that nothing is in its way, and record the new state and the old one.

Reads disk, systemd and rows through ports, and changes none of them.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from kubesyncd.ports import Refused
from kubesyncd.services.definition import KUBE_ONLY, row
from kubesyncd.services.installed import INSTALLED_MAX, SERVICE, InstallPhase, Manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from kubesyncd.ports import FeatureRows, ServiceUnits
    from kubesyncd.services.definition import ServiceFile, ServiceSpec
    from kubesyncd.services.installed import PackageOrigin
    from kubesyncd.services.service_disk import ServiceDisk


class InstallPlanner:
    """Plan installations. Parameters as for Installer."""

    def __init__(
        self,
        disk: ServiceDisk,
        units: ServiceUnits,
        rows: FeatureRows,
        ours: Callable[[Mapping[str, str]], dict[str, str]],
        always_local: frozenset[str],
    ) -> None:
        self._disk = disk
        self._units = units
        self._rows = rows
        self._ours = ours
        self._always_local = always_local

    # ---- checks ---------------------------------------------------------------------------------

    async def check(self, spec: ServiceSpec, files: tuple[ServiceFile, ...], *, replace: bool) -> None:
        """Check that the service may be installed. Raises Refused with the reason and the fix, Unavailable."""
        name, there = spec.name, self._disk.installed().get(spec.name)
        if name in self._always_local:
            raise Refused(
                SERVICE, f"{name} always runs locally because kubesyncd itself needs it; choose another name"
            )
        if there is not None and there.phase is InstallPhase.REMOVING:
            raise Refused(
                SERVICE, f"{name}: its removal was interrupted; run: config feature uninstall {name}"
            )
        if there is not None and not replace:
            raise Refused(SERVICE, f"{name} is installed already; add --replace to install it again")
        if there is None:
            await self._check_name(name, replace=replace)
        self._check_paths(files, there)
        for service in spec.requires:
            if not await self._units.has_unit(service):
                text = f"{name} requires {service}, but {service}.service does not exist; name services of this switch"
                raise Refused(SERVICE, text)

    async def _check_name(self, name: str, *, replace: bool) -> None:
        """Check a name that kubesync has not installed but that may be in use."""
        feature, unit = bool(self._rows.feature_row(name)), await self._units.has_unit(name)
        if unit and not feature and replace:
            text = (
                f"{name}.service is not a feature of this switch and is never replaced; choose another name"
            )
            raise Refused(SERVICE, text)
        if (unit or feature) and not replace:
            what = " and ".join(["a service"] * unit + ["a FEATURE row"] * feature)
            fix = f"to let Kubernetes run it: config feature {name} owner kube; to replace its service: --replace"
            raise Refused(SERVICE, f"{name} has {what} already; {fix}")

    def _check_paths(self, files: Iterable[ServiceFile], there: Manifest | None) -> None:
        for file in files:
            at = self._disk.at(file.path)
            known = there is not None and file.path in there.files
            if at.is_symlink() or (at.exists() and not known):
                raise Refused(SERVICE, f"{at} exists and was not written by kubesync; move it away first")

    # ---- the journal ----------------------------------------------------------------------------

    async def journal(
        self, spec: ServiceSpec, files: tuple[ServiceFile, ...], package: PackageOrigin | None
    ) -> Manifest:
        """Build the manifest of the installation to begin, with the state to restore where it fails. Raises Refused."""
        name, installed = spec.name, self._disk.installed()
        previous = installed.get(name)
        if len(installed) >= INSTALLED_MAX:
            raise Refused(
                SERVICE, f"the limit of {INSTALLED_MAX} installed services is reached; uninstall one first"
            )
        now = self._rows.feature_row(name)
        ours = self._ours(KUBE_ONLY)
        # An update keeps the row as its operator has set it since.
        wanted = now if previous is not None and now else {**row(ours), **now, **ours}
        made = previous.folders if previous is not None else ()
        return Manifest(
            name=name,
            phase=InstallPhase.INSTALLING,
            files={file.path: hashlib.sha256(file.content).hexdigest() for file in files},
            folders=tuple(dict.fromkeys((*made, *self._disk.missing_folders(files)))),
            row_before=now if previous is None else previous.row_before,
            row=wanted,
            enabled_before=await self._enabled_before(name, previous),
            package=package,
            row_now=now,
            previous=previous,
        )

    async def _enabled_before(self, name: str, previous: Manifest | None) -> bool:
        if previous is not None:
            return previous.enabled_before
        return await self._units.has_unit(name) and await self._units.starts_at_boot(name)
