"""Read and write the manifests of the services installed on this switch, one file per service.

Limited to what the daemon needs: knows nothing of the contents of a service's files, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - the codec reads the annotation
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from kubesyncd.core.model import FEATURE_NAME
from kubesyncd.core.text import shown
from kubesyncd.ports import Unavailable
from kubesyncd.runtime import codec
from kubesyncd.runtime.codec import Undecodable
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
    try:
        names = sorted(path.stem for path in folder.glob("*.json"))
    except OSError as error:
        raise Unavailable(SERVICE, f"{folder} cannot be read: {error.strerror}") from error
    found = {}
    for name in names[: 2 * INSTALLED_MAX]:
        data = StateFile(folder / f"{name}.json").load()
        if data is None or FEATURE_NAME.fullmatch(name) is None:
            continue
        try:
            found[name] = _manifest(name, data)
        except Undecodable as error:
            text = f"{folder / name}.json cannot be used ({error}); move it away"
            raise Unavailable(SERVICE, text) from error
    return found


def _manifest(name: str, data: bytes) -> Manifest:
    manifest = codec.decode(Manifest, data, version=VERSION)
    if manifest.name != name:
        raise Undecodable(f"it is the manifest of {shown(manifest.name)}")
    return manifest


def rows_to_keep(installed: Mapping[str, Manifest]) -> dict[str, dict[str, str]]:
    """Return the CONFIG_DB row of each installed service; only `uninstall` removes one."""
    return {name: dict(m.row) for name, m in installed.items() if m.phase is InstallPhase.INSTALLED and m.row}
