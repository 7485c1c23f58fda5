"""Bring this node to the packages that the server offers, in one pass: remove, then install.

Knows the source, archives and the installer. A package that cannot be installed does not stop the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubesyncd.ports import PortError
from kubesyncd.services import catalog, definition, package_archive
from kubesyncd.services.catalog import PackageAction, Unusable
from kubesyncd.services.installed import InstallPhase, PackageOrigin, hashes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kubesyncd.services.catalog import Metadata, PackageStep
    from kubesyncd.services.catalog_source import CatalogSource, ServerFiles
    from kubesyncd.services.installer import Installer


@dataclass(frozen=True, slots=True)
class PackageResult:
    """One step and its result; `failure` is empty where it was done."""

    step: PackageStep
    failure: str = ""


class PackageSync:
    """The packages of one node."""

    def __init__(self, source: CatalogSource, files: ServerFiles, installer: Installer) -> None:
        self._source = source
        self._files = files
        self._installer = installer

    async def plan(self, labels: Mapping[str, str]) -> tuple[Metadata, tuple[PackageStep, ...]]:
        """Return the offered metadata, and the steps to do. Raises Unusable, Missing, Refused, Unavailable."""
        metadata = await self._source.fetch()
        return metadata, catalog.plan(metadata, labels, hashes(self._installer.installed()))

    async def run(self, labels: Mapping[str, str]) -> tuple[PackageResult, ...]:
        """Do the steps. Raises as `plan`."""
        await self._installer.recover()
        metadata, steps = await self.plan(labels)
        await self._source.accept(metadata)
        return tuple([await self._tried(step) for step in steps])

    async def _tried(self, step: PackageStep) -> PackageResult:
        try:
            await self._do(step)
        except (PortError, Unusable) as error:
            return PackageResult(step, str(error))
        return PackageResult(step)

    async def _do(self, step: PackageStep) -> None:
        there = self._installer.installed().get(step.name)
        if step.package is None or (there is not None and there.phase is InstallPhase.REMOVING):
            await self._installer.uninstall(step.name)
        if step.package is None:
            return
        url = catalog.archive_url(self._source.url, step.package)
        got = await self._files.get(url, package_archive.ARCHIVE_BYTES_MAX)
        spec, programs = package_archive.unpack(step.package, got.body or b"")
        made = definition.files(spec, programs)
        origin = PackageOrigin(step.package.version, step.package.sha256)
        await self._installer.install(spec, made, replace=step.do is PackageAction.UPDATE, package=origin)
