"""Bring this node to the packages that the server offers, in one pass: remove, then install.

Knows the supply, archives and the installer. A package that cannot be installed does not stop the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubesyncd.ports import PortError
from kubesyncd.services import catalog, definition, package_archive
from kubesyncd.services.catalog import Do, Unusable
from kubesyncd.services.installed import Package, Phase, hashes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kubesyncd.services.catalog import Metadata, Step
    from kubesyncd.services.catalog_watcher import Files, Supply
    from kubesyncd.services.installer import Installer


@dataclass(frozen=True, slots=True)
class Result:
    """One step and its result; `failure` is empty where it was done."""

    step: Step
    failure: str = ""


class PackageSync:
    """The packages of one node."""

    def __init__(self, supply: Supply, files: Files, installer: Installer) -> None:
        self._supply = supply
        self._files = files
        self._installer = installer

    async def plan(self, labels: Mapping[str, str]) -> tuple[Metadata, tuple[Step, ...]]:
        """The offered metadata, and the steps to do. Raises Unusable, Missing, Refused, Unavailable."""
        metadata = await self._supply.look()
        return metadata, catalog.plan(metadata, labels, hashes(self._installer.installed()))

    async def run(self, labels: Mapping[str, str]) -> tuple[Result, ...]:
        """Do the steps. Raises as `plan`."""
        await self._installer.recover()
        metadata, steps = await self.plan(labels)
        self._supply.follow(metadata)
        return tuple([await self._tried(step) for step in steps])

    async def _tried(self, step: Step) -> Result:
        try:
            await self._do(step)
        except (PortError, Unusable) as error:
            return Result(step, str(error))
        return Result(step)

    async def _do(self, step: Step) -> None:
        there = self._installer.installed().get(step.name)
        if step.package is None or (there is not None and there.phase is Phase.REMOVING):
            await self._installer.uninstall(step.name)
        if step.package is None:
            return
        url = catalog.archive_url(self._supply.url, step.package)
        got = await self._files.get(url, package_archive.ARCHIVE_BYTES_MAX)
        spec, programs = package_archive.unpack(step.package, got.body or b"")
        made = definition.files(spec, programs)
        origin = Package(step.package.version, step.package.sha256)
        await self._installer.install(spec, made, replace=step.do is Do.UPDATE, package=origin)
