"""Install and remove a service completely or not at all.

Reaches disk, systemd and rows through its parameters; knows nothing of the contents of the files (`definition`).
Before any change, a manifest records the new state and the old one. An installation that fails is rolled back at once;
one interrupted by a power cut is rolled back by the next command. A removal is repeated until it is complete.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kubesyncd.ports import Forbidden, PortError, Refused, Unavailable
from kubesyncd.runtime.state_files import StateFile, atomic_write, sync_folder
from kubesyncd.services.definition import KUBE_ONLY, row, unit_path
from kubesyncd.services.installed import (
    FOLDER,
    INSTALLED_MAX,
    SERVICE,
    InstallPhase,
    Manifest,
    encode,
    read_manifests,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from kubesyncd.services.definition import ServiceFile, ServiceSpec
    from kubesyncd.services.installed import PackageOrigin

# Suffixes of copies beside a file while it is being replaced; systemd and run-parts ignore both.
NEW, OLD = ".kubesync-new", ".kubesync-old"


class ServiceUnits(Protocol):
    """The systemd calls that installation and removal need (adapters.systemd)."""

    async def has_unit(self, feature: str) -> bool:
        """Whether the service exists."""

    async def active(self, feature: str) -> bool:
        """Whether the service runs."""

    async def starts_at_boot(self, feature: str) -> bool:
        """Whether the service is enabled."""

    async def reload(self) -> None:
        """Read all unit files again."""

    async def enable(self, feature: str) -> None:
        """Enable the service according to its current unit file."""

    async def disable(self, feature: str) -> None:
        """Disable the service."""

    async def stop(self, feature: str) -> None:
        """Stop the service; return when it has ended."""

    async def restart(self, feature: str) -> None:
        """Start the service, or restart it where it runs; return once the job is queued."""


class Rows(Protocol):
    """The feature's rows, and the daemon, which keeps one of them."""

    def daemon_answers(self) -> None:
        """Check that the daemon answers. Raises Unavailable."""

    def feature_row(self, feature: str) -> dict[str, str]:
        """CONFIG_DB's row as stored; empty where it does not exist. Raises Unavailable, Refused."""

    def replace_feature_row(self, feature: str, fields: Mapping[str, str]) -> None:
        """Make CONFIG_DB's row exactly `fields`; remove it where they are empty. Raises Unavailable."""

    def forget(self, feature: str) -> None:
        """Make the daemon forget the feature and remove its STATE_DB row. Raises Unavailable, Refused."""


@dataclass(frozen=True, slots=True)
class InstallResult:
    """Result of an installation. `waits_for`: required services that do not run; the service starts with them."""

    manifest: Manifest
    started: bool
    waits_for: tuple[str, ...] = ()


class Installer:
    """Install and remove services, one at a time. `root`: where `/` is, another folder in tests.

    `ours`: kubesyncd's CONFIG_DB fields in this switch's spelling; `always_local`: features that always run locally.
    `after_step` is called after every change, for tests that interrupt there.
    """

    def __init__(
        self,
        *,
        root: Path,
        state_dir: Path,
        units: ServiceUnits,
        rows: Rows,
        ours: Callable[[Mapping[str, str]], dict[str, str]] = dict,
        always_local: frozenset[str] = frozenset(),
        after_step: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._root = root
        self._folder = state_dir / FOLDER
        self._units = units
        self._rows = rows
        self._ours = ours
        self._always_local = always_local
        self._after_step = after_step

    # ---- reading --------------------------------------------------------------------------------

    def installed(self) -> dict[str, Manifest]:
        """All manifests by feature. Raises Unavailable."""
        return read_manifests(self._folder)

    async def check(
        self, spec: ServiceSpec, files: tuple[ServiceFile, ...], *, replace: bool = False
    ) -> None:
        """Check whether `install` would continue. Raises Refused with the reason and the fix, Unavailable."""
        name, there = spec.name, self.installed().get(spec.name)
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
            await self._check_stranger(name, replace=replace)
        self._check_paths(files, there)
        for service in spec.requires:
            if not await self._units.has_unit(service):
                text = f"{name} requires {service}, but {service}.service does not exist; name services of this switch"
                raise Refused(SERVICE, text)

    async def _check_stranger(self, name: str, *, replace: bool) -> None:
        """Check a name that kubesync has not installed but that is in use."""
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

    def _check_paths(self, files: tuple[ServiceFile, ...], there: Manifest | None) -> None:
        for file in files:
            at = self._at(file.path)
            known = there is not None and file.path in there.files
            if at.is_symlink() or (at.exists() and not known):
                raise Refused(SERVICE, f"{at} exists and was not written by kubesync; move it away first")

    # ---- installing -----------------------------------------------------------------------------

    async def install(
        self,
        spec: ServiceSpec,
        files: tuple[ServiceFile, ...],
        *,
        replace: bool = False,
        package: PackageOrigin | None = None,
    ) -> InstallResult:
        """Write all files, enable and start the service. Raises Refused, Unavailable; nothing is left then."""
        with self._alone():
            await self._recover()
            await self.check(spec, files, replace=replace)
            journal = await self._journal(spec, files, package)
            ran = journal.previous is not None and await self._units.active(spec.name)
            try:
                await self._put(journal, files)
                manifest = self._finished(journal)
                self._save(manifest)
            except BaseException as error:
                await self._take_back_or_say(journal, error)
                raise
            await self._clear(journal)
            return await self._start(manifest, spec, ran=ran)

    async def _journal(
        self, spec: ServiceSpec, files: tuple[ServiceFile, ...], package: PackageOrigin | None
    ) -> Manifest:
        """Write the new state and the old one to disk before any change."""
        name, previous = spec.name, self.installed().get(spec.name)
        if len(self.installed()) >= INSTALLED_MAX:
            raise Refused(
                SERVICE, f"the limit of {INSTALLED_MAX} installed services is reached; uninstall one first"
            )
        now = self._rows.feature_row(name)
        ours = self._ours(KUBE_ONLY)
        # An update keeps the row as its operator has set it since.
        wanted = now if previous is not None and now else {**row(ours), **now, **ours}
        journal = Manifest(
            name=name,
            phase=InstallPhase.INSTALLING,
            files={file.path: hashlib.sha256(file.content).hexdigest() for file in files},
            folders=self._missing_folders(files, previous),
            row_before=now if previous is None else previous.row_before,
            row=wanted,
            enabled_before=await self._enabled_before(name, previous),
            package=package,
            row_now=now,
            previous=previous,
        )
        self._save(journal)
        return journal

    async def _enabled_before(self, name: str, previous: Manifest | None) -> bool:
        if previous is not None:
            return previous.enabled_before
        return await self._units.has_unit(name) and await self._units.starts_at_boot(name)

    def _missing_folders(self, files: tuple[ServiceFile, ...], previous: Manifest | None) -> tuple[str, ...]:
        made = dict.fromkeys(previous.folders if previous is not None else ())
        for file in files:
            for folder in reversed(Path(file.path).parents):
                if not self._at(str(folder)).exists():
                    made[str(folder)] = None
        return tuple(made)

    async def _put(self, journal: Manifest, files: tuple[ServiceFile, ...]) -> None:
        """Write every file beside its destination first: a full disk is detected before any change."""
        try:
            for folder in journal.folders:
                self._at(folder).mkdir(mode=0o755, exist_ok=True)
            for file in files:
                atomic_write(self._beside(file.path, NEW), file.content, file.mode)
                self._after_step(f"write {file.path}")
            for file in files:
                self._exchange(file.path)
                self._after_step(f"place {file.path}")
            for path in journal.previous.files if journal.previous is not None else ():
                if path not in journal.files:
                    self._rename(self._at(path), self._beside(path, OLD))
                    self._after_step(f"remove {path}")
            for parent in {self._at(path).parent for path in journal.files}:
                sync_folder(parent)
        except OSError as error:
            raise _disk(error) from error
        await self._units.reload()
        self._after_step("reload")
        await self._units.enable(journal.name)
        self._after_step("enable")
        if journal.row != journal.row_now:
            self._rows.replace_feature_row(journal.name, journal.row)
        self._after_step("row")

    def _exchange(self, path: str) -> None:
        at, old = self._at(path), self._beside(path, OLD)
        old.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            os.link(at, old)
        self._beside(path, NEW).replace(at)

    @staticmethod
    def _rename(source: Path, target: Path) -> None:
        with suppress(FileNotFoundError):
            source.replace(target)

    @staticmethod
    def _finished(journal: Manifest) -> Manifest:
        return replace(journal, phase=InstallPhase.INSTALLED, row_now={}, previous=None)

    async def _clear(self, journal: Manifest) -> None:
        """Remove the copies kept beside an update; the next installation removes what cannot be removed now."""
        paths = {*journal.files, *(journal.previous.files if journal.previous is not None else ())}
        for path in sorted(paths):
            with suppress(OSError):
                self._beside(path, OLD).unlink(missing_ok=True)
        self._drop_folders(tuple(str(Path(path).parent) for path in paths - set(journal.files)), journal)

    async def _start(self, manifest: Manifest, spec: ServiceSpec, *, ran: bool) -> InstallResult:
        """Start the service, unless a required service is stopped: then it starts together with that service."""
        resting = tuple([name for name in spec.requires if not await self._units.active(name)])
        if resting and not ran:
            return InstallResult(manifest, started=False, waits_for=resting)
        await self._units.restart(spec.name)
        return InstallResult(manifest, started=True)

    # ---- rollback -------------------------------------------------------------------------------

    async def recover(self) -> tuple[str, ...]:
        """Roll back interrupted commands. Return the features. Raises Unavailable."""
        with self._alone():
            return await self._recover()

    async def _recover(self) -> tuple[str, ...]:
        interrupted = [m for m in self.installed().values() if m.phase is InstallPhase.INSTALLING]
        for journal in interrupted:
            await self._take_back(journal)
        return tuple(journal.name for journal in interrupted)

    async def _take_back_or_say(self, journal: Manifest, error: BaseException) -> None:
        try:
            await self._take_back(journal)
        except PortError as second:
            text = f"{error}; rollback failed ({second}): the next install or uninstall repeats it"
            raise Unavailable(SERVICE, text) from error

    async def _take_back(self, journal: Manifest) -> None:
        """Restore the earlier state, whichever step was the last.

        Where a step of the rollback fails, the journal is kept and the other steps are done. Raises the first error.
        """
        name, previous = journal.name, journal.previous
        again = previous is not None or journal.enabled_before
        errors: list[PortError] = []
        if not again and self._at(unit_path(name)).exists():
            with suppress(Refused), _noted(errors):
                await self._units.disable(name)
        with _noted(errors):
            self._restore_files(journal)
        with _noted(errors):
            await self._units.reload()
        if again:
            with _noted(errors):
                await self._units.enable(name)
        with _noted(errors):
            if self._rows.feature_row(name) != journal.row_now:
                self._rows.replace_feature_row(name, journal.row_now)
        if errors:
            raise errors[0]
        if previous is None:
            self._manifest_file(name).unlink(missing_ok=True)
        else:
            self._save(previous)

    def _restore_files(self, journal: Manifest) -> None:
        before = journal.previous.files if journal.previous is not None else {}
        try:
            for path in {**journal.files, **before}:
                self._restore(path, had=path in before)
            self._drop_folders(tuple(reversed(journal.folders)), journal.previous)
        except OSError as error:
            raise _disk(error) from error

    def _restore(self, path: str, *, had: bool) -> None:
        at, old = self._at(path), self._beside(path, OLD)
        self._beside(path, NEW).unlink(missing_ok=True)
        if had:
            self._rename(old, at)
        else:
            at.unlink(missing_ok=True)

    def _drop_folders(self, folders: tuple[str, ...], keep: Manifest | None) -> None:
        """Remove the created folders that are empty."""
        for folder in folders:
            if keep is None or not any(path.startswith(f"{folder}/") for path in keep.files):
                with suppress(OSError):
                    self._at(folder).rmdir()

    # ---- removing -------------------------------------------------------------------------------

    async def uninstall(self, name: str, *, force: bool = False) -> Manifest:
        """Stop the feature, then remove all files that kubesync wrote and both rows. `force`: also files changed since.

        Raises Refused, Unavailable; once started, a removal is repeated until it is complete.
        """
        with self._alone():
            await self._recover()
            manifest = self.installed().get(name)
            if manifest is None:
                text = f"{name} was not installed by kubesync; nothing is removed. Installed: "
                raise Refused(SERVICE, text + (", ".join(sorted(self.installed())) or "none"))
            changed = [path for path, sha256 in manifest.files.items() if self._changed(path, sha256)]
            if changed and not force:
                text = (
                    f"{changed[0]} was changed since it was installed; save it, then add --force to remove it"
                )
                raise Refused(SERVICE, f"{name}: {text}")
            self._rows.daemon_answers()
            manifest = replace(manifest, phase=InstallPhase.REMOVING)
            self._save(manifest)
            await self._remove(manifest)
            return manifest

    def _changed(self, path: str, sha256: str) -> bool:
        try:
            return hashlib.sha256(self._at(path).read_bytes()).hexdigest() != sha256
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _disk(error) from error

    async def _remove(self, manifest: Manifest) -> None:
        name = manifest.name
        if self._at(unit_path(name)).exists():
            await self._units.stop(name)
            self._after_step("stop")
            await self._units.disable(name)
            self._after_step("disable")
        try:
            for path in manifest.files:
                self._restore(path, had=False)
                self._beside(path, OLD).unlink(missing_ok=True)
                self._after_step(f"remove {path}")
            self._drop_folders(tuple(reversed(manifest.folders)), None)
        except OSError as error:
            raise _disk(error) from error
        await self._units.reload()
        self._after_step("reload")
        self._rows.replace_feature_row(name, manifest.row_before)
        self._after_step("row")
        if not manifest.row_before:
            self._rows.forget(name)
            self._after_step("forget")
        elif manifest.enabled_before:
            await self._units.enable(name)
            await self._units.restart(name)
        self._manifest_file(name).unlink(missing_ok=True)

    # ---- files ----------------------------------------------------------------------------------

    def _at(self, path: str) -> Path:
        assert path.startswith("/"), path
        return self._root / path.lstrip("/")

    def _beside(self, path: str, suffix: str) -> Path:
        at = self._at(path)
        return at.with_name(f".{at.name}{suffix}")

    def _manifest_file(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _save(self, manifest: Manifest) -> None:
        StateFile(self._manifest_file(manifest.name)).save(encode(manifest))
        self._after_step(f"manifest {manifest.phase.value}")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Allow one installation or removal at a time. The kernel releases the lock however a process ends."""
        try:
            self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            lock = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _disk(error) from error
        try:
            _locked(lock)
            yield
        finally:
            os.close(lock)


def _locked(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Refused(
            SERVICE, "another installation or removal is running; try again when it has ended"
        ) from None


@contextmanager
def _noted(errors: list[PortError]) -> Iterator[None]:
    try:
        yield
    except PortError as error:
        errors.append(error)


def _disk(error: OSError) -> PortError:
    reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    if error.errno in (errno.EACCES, errno.EPERM):
        return Forbidden(SERVICE, f"{reason}; use sudo")
    return Unavailable(
        SERVICE, f"{reason}; nothing else was done; free disk space or check the folder, then try again"
    )
