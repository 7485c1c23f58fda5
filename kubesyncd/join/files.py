"""Exchange files between the daemon and a join, and hold the lock of the running job.

The daemon writes the request and reads the progress. The job reads the request, writes the progress, and holds the
lock while it works. Knows paths and modes; `join.plan` and `join.progress` define the contents.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kubesyncd.join import plan, progress
from kubesyncd.join.plan import Found
from kubesyncd.ports import Refused, Unavailable
from kubesyncd.runtime import codec
from kubesyncd.runtime.codec import Undecodable
from kubesyncd.runtime.state_files import OPEN_FOLDER, StateFile, atomic_write, make_folder, state_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kubesyncd.join.plan import Membership
    from kubesyncd.join.progress import Progress
    from kubesyncd.settings import Settings

SERVICE = "state file"
MEMBERSHIP_FILE = "membership.json"
PURGE_FILE = "purge"
CREDENTIAL_FILE = "join.conf"
# Added to the name of an operator's file that a join or a reset would replace or remove.
ASIDE = ".operator"
LOCK_S_MAX = 2.0
# Left by kubeadm after an interrupted join; kubeadm refuses to join while these exist.
RESIDUE = ("bootstrap-kubelet.conf", "pki/ca.crt")


class JoinFiles:
    """The files of one switch."""

    def __init__(self, settings: Settings) -> None:
        self._run = Path(settings.paths.run_dir)
        self._state = Path(settings.paths.state_dir)
        self.kubeconfig = Path(settings.kube.kubeconfig)
        self.admin_conf = Path(settings.kube.admin_conf)
        self.admin_conf_aside = self.admin_conf.with_name(f"{self.admin_conf.name}{ASIDE}")
        self.credential = self._run / CREDENTIAL_FILE
        self._membership = state_file(self._state / MEMBERSHIP_FILE, 0o644)
        self._progress = StateFile(self._run / progress.FILE, 0o644, folder_mode=OPEN_FOLDER)
        self._request = self._run / progress.REQUEST_FILE
        self._lock = self._run / progress.LOCK_FILE
        self._purge = state_file(self._state / PURGE_FILE)

    # ---- for both -------------------------------------------------------------------------------

    def found(self) -> Found:
        """Read what a join has left on this switch. Raises Unavailable."""
        return Found(
            credential=self.kubeconfig.exists(),
            residue=any((self.kubeconfig.parent / name).exists() for name in RESIDUE),
            membership=self.membership(),
        )

    def progress(self) -> Progress | None:
        """Read the progress of the last job of this boot. Raises Unavailable."""
        return progress.decode(self._progress.load())

    def membership(self) -> Membership | None:
        """Read the membership record. Raises Unavailable."""
        return plan.decode_membership(self._membership.load())

    def forget_membership(self) -> None:
        """Remove the membership record: neither joined nor left by an operator. Raises Unavailable."""
        _forget(self._state / MEMBERSHIP_FILE)

    # ---- for the daemon -------------------------------------------------------------------------

    def working(self) -> bool:
        """Return whether a job holds the lock. A killed job does not."""
        try:
            descriptor = os.open(self._lock, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def request(self, *, force: bool) -> None:
        """Write the request for the job about to start. Raises Unavailable."""
        try:
            make_folder(self._run, OPEN_FOLDER)
            atomic_write(self._request, codec.encode({"force": force}), 0o600)
        except OSError as error:
            raise Unavailable(SERVICE, f"{self._request} cannot be written: {error.strerror}") from error

    @property
    def requested(self) -> bool:
        """Whether a request waits for its job."""
        return self._request.exists()

    def withdraw(self) -> None:
        """Withdraw the request: the job is obsolete, or did not start."""
        with suppress(OSError):
            self._request.unlink()

    @property
    def purge_due(self) -> bool:
        """Whether a reset asks to clear the queued labels."""
        return (self._state / PURGE_FILE).exists()

    def purged(self) -> None:
        """Record that the queued labels are cleared."""
        with suppress(OSError):
            (self._state / PURGE_FILE).unlink()

    # ---- for the job ----------------------------------------------------------------------------

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Run one job at a time. Raises Refused while another job runs."""
        make_folder(self._run, OPEN_FOLDER)
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            _take(descriptor)
            yield
        finally:
            os.close(descriptor)

    def take_request(self) -> bool:
        """Remove the daemon's request; return whether it was forced."""
        try:
            data = self._request.read_bytes()
            self._request.unlink()
            return codec.entry(bool, data, "force")
        except (OSError, Undecodable):
            return False

    def report(self, now: Progress) -> None:
        """Write the job's progress; a full disk must not stop the job."""
        with suppress(Unavailable):
            self._progress.save(progress.encode(now))

    def record(self, membership: Membership) -> None:
        """Record the join or the leave. Raises Unavailable."""
        self._membership.save(plan.encode_membership(membership))

    def write_secret(self, path: Path, data: bytes) -> None:
        """Write a credential, mode 0600, atomically. Raises Unavailable."""
        StateFile(path, 0o600).save(data)

    def move(self, path: Path, to: Path) -> None:
        """Rename a file of an operator, and let only root read it. Raises Unavailable."""
        try:
            path.chmod(0o600)
            path.replace(to)
        except OSError as error:
            raise Unavailable(SERVICE, f"{path} cannot be moved to {to}: {error.strerror}") from error

    def forget(self, *paths: Path) -> None:
        """Remove these files. Raises Unavailable."""
        for path in paths:
            _forget(path)

    def ask_to_purge(self) -> None:
        """Ask the daemon to clear queued labels, now or at its next start. Raises Unavailable."""
        self._purge.save(b"")


def _forget(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise Unavailable(SERVICE, f"{path} cannot be removed: {error.strerror}") from error


def _take(descriptor: int) -> None:
    """Take the lock. The daemon holds it for an instant when it checks; another job holds it for long."""
    deadline = time.monotonic() + LOCK_S_MAX
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise Refused("join", "another join or reset is under way; wait for it") from None
            time.sleep(0.05)
