"""Save the parts of this switch's membership that the next image needs, and restore them exactly once.

A SONiC upgrade keeps /etc/sonic, but not /var/lib/kubelet, /etc/kubernetes or kubesyncd's own state. Knows files;
knows nothing of their contents. `save` is done before the reboot, `restore` by a separate unit before kubesyncd and
the kubelet start. Both can be interrupted anywhere: a file that is not listed in the manifest is ignored, and the
manifest is written last and removed last.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kubesyncd.core.model import valid_feature_name
from kubesyncd.ports import Refused, Unavailable
from kubesyncd.runtime import codec
from kubesyncd.runtime.codec import Undecodable
from kubesyncd.runtime.state_files import atomic_write, sync_folder
from kubesyncd.services.installed import FOLDER, InstallPhase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from kubesyncd.services.installed import Manifest
    from kubesyncd.settings import Settings

SERVICE = "saved context"
VERSION = 1
FILES_MAX = 1024
FILE_BYTES_MAX = 4 << 20
MANIFEST = "manifest.json"
RESTORED = "restored.json"
# Subset of the kubelet's folder: the rest belongs to pods that will not exist any more.
KUBELET_FILES = ("config.yaml", "kubeadm-flags.env", "pki")
KUBERNETES_FILES = ("kubelet.conf", "pki")


@dataclass(frozen=True, slots=True)
class Item:
    """One file, or (with `link`) one symbolic link. `sha256`: of the copy, whose name is its number."""

    path: str
    mode: int = 0
    sha256: str = ""
    link: str = ""


@dataclass(frozen=True, slots=True)
class _SavedContext:
    """The manifest. `boot_id`: of the boot that saved it; `services`: those to be enabled again."""

    boot_id: str
    services: tuple[str, ...]
    items: tuple[Item, ...]


def sources(settings: Settings, installed: Mapping[str, Manifest]) -> tuple[Path, ...]:
    """Return the paths to save.

    The kubelet's files and certificates, admin.conf, the label queue and all other state, operators' hooks, and the
    units and scripts of the `installed` features.
    """
    root, hooks = Path(settings.paths.install_root), Path(settings.paths.hooks_dir)
    whole = (manifest for manifest in installed.values() if manifest.phase is InstallPhase.INSTALLED)
    files = (root / path.lstrip("/") for manifest in whole for path in manifest.files)
    return (*places(settings), *sorted(hooks.glob("*.d")), *files)


def places(settings: Settings, *, more: Iterable[str] = ()) -> tuple[Path, ...]:
    """Return the paths that may be saved and restored. `more`: folders below the install root."""
    kubernetes = Path(settings.kube.kubeconfig).parent
    kubelet = Path(settings.paths.kubelet_dir)
    return (
        Path(settings.kube.kubeconfig),
        *(kubernetes / name for name in KUBERNETES_FILES),
        *(kubelet / name for name in KUBELET_FILES),
        Path(settings.kube.admin_conf),
        Path(settings.paths.state_dir),
        Path(settings.paths.state_dir) / FOLDER,
        *(Path(settings.paths.install_root) / folder.lstrip("/") for folder in more),
    )


class ContextBackup:
    """The backup folder that the next image finds.

    `paths`: what to save, or what may be restored below. `boot_id`: this boot's.
    """

    def __init__(
        self,
        folder: Path,
        paths: Iterable[Path],
        boot_id: str,
    ) -> None:
        self._folder = folder
        self._paths = tuple(dict.fromkeys(paths))
        self._boot_id = boot_id

    def found(self) -> list[Path]:
        """Find the files and links to save, in order. Raises Refused where they are too many."""
        found = list(dict.fromkeys(each for path in self._paths for each in _files(path)))
        if len(found) > FILES_MAX:
            raise Refused(
                SERVICE,
                f"{len(found)} files to save, at most {FILES_MAX} allowed; remove files from {found[-1].parent}",
            )
        return found

    def save(self, within_s: float, services: Iterable[str] = ()) -> int:
        """Copy everything; return the number of files. A repeated call saves again.

        `services`: those to be enabled again. Raises Refused, Unavailable.
        """
        found, deadline = self.found(), time.monotonic() + within_s
        items: list[Item] = []
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder.chmod(0o700)
            self.drop()
            for number, path in enumerate(found):
                if time.monotonic() > deadline:
                    detail = f"{len(found)} files were not saved in {self._folder} within {within_s:.0f} s"
                    raise Unavailable(SERVICE, f"{detail}; check the disk")
                items.append(self._copied(number, path))
            saved = _SavedContext(self._boot_id, tuple(services), tuple(items))
            atomic_write(self._folder / MANIFEST, codec.encode(saved, version=VERSION), 0o600)
        except OSError as error:
            detail = f"{error.filename or self._folder} cannot be saved: {error.strerror}; free disk space, or use sudo"
            raise Unavailable(SERVICE, detail) from error
        return len(items)

    def restore(
        self, *, but: Path | None = None, then: Callable[[tuple[str, ...]], None] = lambda _: None
    ) -> list[str]:
        """Restore what is missing (except `but`), once: nothing is left to do afterwards. Return the restored paths.

        An existing file is newer or as old, and stays. Nothing happens in the boot that saved the context. `then` gets
        the services that were enabled; where it raises, the whole restore is repeated after the next boot.
        Raises Refused where the copies differ from what was saved, Unavailable.
        """
        try:
            listed = self._listed()
            if listed is None:
                return []
            items, services = listed
            wanted = [(number, item) for number, item in enumerate(items) if item.path != str(but)]
            restored = [item.path for number, item in wanted if self._put_back(number, item)]
            then(services)
            os.replace(self._folder / MANIFEST, self._folder / RESTORED)
            sync_folder(self._folder)
        except OSError as error:
            raise Unavailable(SERVICE, f"{error.filename or self._folder}: {error.strerror}") from error
        self._forget_copies()
        return restored

    def drop(self) -> None:
        """Remove the backup: the reboot was cancelled. Raises Unavailable."""
        try:
            with suppress(FileNotFoundError, NotADirectoryError):
                (self._folder / MANIFEST).unlink()
        except OSError as error:
            raise Unavailable(SERVICE, f"{error.filename}: {error.strerror}") from error
        self._forget_copies()

    def _copied(self, number: int, path: Path) -> Item:
        if path.is_symlink():
            return Item(str(path), link=os.readlink(path))
        data = path.read_bytes()
        atomic_write(self._copy(number), data, 0o600)
        return Item(str(path), stat.S_IMODE(path.stat().st_mode), hashlib.sha256(data).hexdigest())

    def _listed(self) -> tuple[tuple[Item, ...], tuple[str, ...]] | None:
        """Read the context of an earlier boot that is not restored yet, and its services. Raises Refused."""
        try:
            data = (self._folder / MANIFEST).read_bytes()
            saved = codec.decode(_SavedContext, data, version=VERSION)
        except FileNotFoundError:
            return None
        except Undecodable as error:
            raise Refused(SERVICE, f"invalid manifest {self._folder / MANIFEST}: {error}") from error
        foreign = [item.path for item in saved.items if not self._ours(item)]
        if foreign:
            raise Refused(SERVICE, f"{foreign[0][:80]!a} is not a saved path, or its mode is invalid")
        if saved.boot_id == self._boot_id:
            return None
        return saved.items, tuple(filter(valid_feature_name, saved.services))

    def _ours(self, item: Item) -> bool:
        """Return whether the item may be restored: a saved path, with permission bits only."""
        path = Path(item.path)
        inside = any(path == ours or ours in path.parents for ours in self._paths)
        return inside and path.is_absolute() and ".." not in path.parts and 0 <= item.mode <= 0o7777

    def _put_back(self, number: int, item: Item) -> bool:
        target = Path(item.path)
        if os.path.lexists(target):
            return False
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if item.link:
            target.symlink_to(item.link)
            return True
        data = self._copy(number).read_bytes()
        if hashlib.sha256(data).hexdigest() != item.sha256:
            raise Refused(SERVICE, f"the copy of {item.path} is damaged")
        atomic_write(target, data, item.mode)
        return True

    def _forget_copies(self) -> None:
        with suppress(OSError):
            for copy in self._folder.glob("file-*"):
                copy.unlink()

    def _copy(self, number: int) -> Path:
        return self._folder / f"file-{number:03}"


def _files(path: Path) -> list[Path]:
    """List the file or link, or the direct entries of the folder; no other kinds, and no long files."""
    if path.is_symlink() or path.is_file():
        entries = [path]
    elif path.is_dir():
        # Names with a dot are temporary files of other programs.
        entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    else:
        return []
    return [e for e in entries if e.is_symlink() or (e.is_file() and e.stat().st_size <= FILE_BYTES_MAX)]
