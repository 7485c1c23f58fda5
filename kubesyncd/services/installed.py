"""Read and write the manifests of the services installed on this switch, one file per service.

Limited to what the daemon needs: knows nothing of the contents of a service's files, and changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping  # noqa: TC003 - the codec reads the annotation
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from kubesyncd.core.model import FEATURE_NAME
from kubesyncd.core.text import shown
from kubesyncd.ports import Unavailable
from kubesyncd.runtime import codec
from kubesyncd.runtime.codec import Undecodable
from kubesyncd.runtime.file_stamp import stamp_of
from kubesyncd.runtime.state_files import StateFile

if TYPE_CHECKING:
    from pathlib import Path

SERVICE = "install"
VERSION = 1
INSTALLED_MAX = 512
# Below the state folder.
FOLDER = "installed"
# In place of an archive's hash: the service differs from every offered package.
UNFINISHED = "unfinished"


class InstallPhase(StrEnum):
    """Phase of an installation."""

    INSTALLING = "installing"
    INSTALLED = "installed"
    REMOVING = "removing"


@dataclass(frozen=True, slots=True)
class PackageOrigin:
    """Origin of a service that a package installed."""

    version: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was installed. `files`: path to SHA-256; `folders`: created for them, in that order.

    `row_before`, `enabled_before`: the feature's state before the installation (an image's own, with --replace), which
    an uninstall restores. While installing: `row_now` is the row to restore on failure, and `previous` the manifest
    whose files are kept next to the new ones.
    """

    name: str
    phase: InstallPhase = InstallPhase.INSTALLED
    files: Mapping[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    row_before: Mapping[str, str] = field(default_factory=dict)
    row: Mapping[str, str] = field(default_factory=dict)
    enabled_before: bool = False
    package: PackageOrigin | None = None
    row_now: Mapping[str, str] = field(default_factory=dict)
    previous: Manifest | None = None


def encode(manifest: Manifest) -> bytes:
    """Encode the manifest for storage."""
    return codec.encode(manifest, version=VERSION, indent=1)


def hashes(installed: Mapping[str, Manifest]) -> dict[str, str]:
    """Return the archive's SHA-256 of each service, as for `catalog.plan`: empty for an operator's own."""
    return {name: _hash(manifest) for name, manifest in installed.items()}


def _hash(manifest: Manifest) -> str:
    if manifest.package is None:
        return ""
    return manifest.package.sha256 if manifest.phase is InstallPhase.INSTALLED else UNFINISHED


def read_manifests(folder: Path) -> dict[str, Manifest]:
    """Read all manifests in `folder` by feature. Raises Unavailable where one cannot be read."""
    read = ((path.stem, _read(path)) for path in _paths(folder))
    return {name: manifest for name, manifest in read if manifest is not None}


def _paths(folder: Path) -> list[Path]:
    """Return the files of manifests. Raises Unavailable."""
    try:
        found = sorted(path for path in folder.glob("*.json") if FEATURE_NAME.fullmatch(path.stem))
    except OSError as error:
        raise Unavailable(SERVICE, f"{folder} cannot be read: {error.strerror}") from error
    return found[: 2 * INSTALLED_MAX]


def _read(path: Path) -> Manifest | None:
    """Read one manifest; None: it is gone. Raises Unavailable."""
    data = StateFile(path).load()
    try:
        return None if data is None else _manifest(path.stem, data)
    except Undecodable as error:
        raise Unavailable(SERVICE, f"{path} cannot be used ({error}); move it away") from error


class InstalledServices:
    """What the daemon needs of the manifests in `folder`, read beside its loop, and only those that have changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[Path, _Known] = {}

    async def rows(self) -> dict[str, Mapping[str, str]]:
        """Return the CONFIG_DB row of each installed service; only `uninstall` removes one. Raises Unavailable."""
        return {name: found.row for name, found in (await self._read()).items() if found.row}

    async def hashes(self) -> dict[str, str]:
        """Return the archive's SHA-256 of each service, as for `catalog.plan`: empty for an operator's own.

        Raises Unavailable.
        """
        return {name: found.archive for name, found in (await self._read()).items()}

    async def _read(self) -> dict[str, _Known]:
        self._known = known = await asyncio.to_thread(self._read_changed, self._known)
        return {path.stem: found for path, found in known.items()}

    def _read_changed(self, before: Mapping[Path, _Known]) -> dict[Path, _Known]:
        known: dict[Path, _Known] = {}
        for path in _paths(self._folder):
            now = stamp_of(path)
            if now is None:
                continue
            found = before.get(path)
            if found is None or found.stamp != now:
                manifest = _read(path)
                if manifest is None:
                    continue
                row = manifest.row if manifest.phase is InstallPhase.INSTALLED else {}
                found = _Known(now, row, _hash(manifest))
            known[path] = found
        return known


@dataclass(frozen=True, slots=True)
class _Known:
    """One manifest: the file's identity, the row of an installed service, and its archive's hash."""

    stamp: tuple[int, int, int]
    row: Mapping[str, str]
    archive: str


def _manifest(name: str, data: bytes) -> Manifest:
    manifest = codec.decode(Manifest, data, version=VERSION)
    if manifest.name != name:
        raise Undecodable(f"it is the manifest of {shown(manifest.name)}")
    return manifest
