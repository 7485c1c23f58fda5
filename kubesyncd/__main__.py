"""Start the daemon: read the command line and the settings, set up the log, run the app."""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kubesyncd import __version__, settings
from kubesyncd.api.peer import identify_peer
from kubesyncd.core import protocol
from kubesyncd.daemon.start_check import check_start
from kubesyncd.runtime import lean_imports
from kubesyncd.runtime.log_stream import take_over_stderr
from kubesyncd.runtime.sdnotify import listen_fds, notify_and_wait

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from kubesyncd.api.peer import Peer
    from kubesyncd.runtime.log_stream import LogStream

EXIT_SETTINGS = 78  # sysexits' EX_CONFIG
EXIT_AGAIN = 75  # sysexits' EX_TEMPFAIL; systemd starts the daemon again


def main(argv: list[str] | None = None, *, identify: Callable[[socket.socket], Peer] = identify_peer) -> int:
    """Run the daemon; `identify` returns the peer of a socket. Returns the process's exit code."""
    parser = argparse.ArgumentParser(
        prog="kubesyncd", description="Keeps SONiC features running, locally or by Kubernetes."
    )
    parser.add_argument("--config", type=Path, help=f"the settings file (default {settings.DEFAULT_FILE})")
    parser.add_argument(
        "--check",
        type=Path,
        nargs="?",
        const=settings.DEFAULT_FILE,
        metavar="FILE",
        help="print all errors of the settings file, and start nothing",
    )
    parser.add_argument("--version", action="version", version=f"kubesyncd {__version__}")
    given = parser.parse_args(argv)
    stderr = take_over_stderr()
    chosen: Path | None = given.config
    if given.check is not None:
        return _check(
            chosen or given.check, required=chosen is not None or given.check != settings.DEFAULT_FILE
        )
    file, inherited = _File(chosen or settings.DEFAULT_FILE, required=chosen is not None), listen_fds()
    try:
        current = file.read()
    except settings.SettingsError as error:
        return _refuse(error.problems)
    lean_imports.load()
    return _run(current, file, stderr, inherited=inherited, identify=identify)


@dataclass(frozen=True, slots=True)
class _File:
    """The settings file; `required`: the command line names it, so it must exist."""

    path: Path
    required: bool

    def read(self) -> settings.Settings:
        """Return the settings. Raises SettingsError."""
        return check_start(self.path, required=self.required).valid()


def _check(path: Path, *, required: bool) -> int:
    """Print all errors of a settings file, one line each."""
    try:
        problems = check_start(path, required=required).problems
    except settings.SettingsError as error:
        problems = error.problems
    for problem in problems:
        print(f"kubesyncd: {problem}", file=sys.stderr)
    if problems:
        return EXIT_SETTINGS
    print(f"kubesyncd: {path}: valid")
    return protocol.EXIT_DONE


def _refuse(problems: Sequence[str]) -> int:
    """Print why the daemon does not start, also in `systemctl status`."""
    for problem in problems:
        print(f"kubesyncd: {problem}", file=sys.stderr)
    more = f" ({len(problems) - 1} more: kubesyncd --check)" if len(problems) > 1 else ""
    notify_and_wait(f"STATUS=not started: {problems[0]}{more}")
    return EXIT_SETTINGS


def _run(
    current: settings.Settings,
    file: _File,
    stderr: LogStream,
    *,
    inherited: dict[str, socket.socket],
    identify: Callable[[socket.socket], Peer],
) -> int:
    """Run the daemon, again with new settings after each reload."""
    # Not before `lean_imports.load`: these import the libraries that it reduces.
    from kubesyncd.daemon import app
    from kubesyncd.daemon.sockets import RunFolder, StartError
    from kubesyncd.runtime.log import log_libraries, logger

    run_folder, refused = RunFolder(), ""
    while True:
        log = logger(current.log, stderr)
        log_libraries(log)
        try:
            ending = asyncio.run(
                app.run(
                    current,
                    log,
                    inherited=inherited,
                    run_folder=run_folder,
                    identify=identify,
                    refused=refused,
                )
            )
        except StartError as error:
            return _refuse([str(error)])
        if ending is app.Ending.STOP:
            return protocol.EXIT_DONE
        if ending is app.Ending.FOLDER_LOST:
            return EXIT_AGAIN
        # The parts of the ended run are reference cycles: free their memory before the next run makes its own.
        gc.unfreeze()
        gc.collect()
        try:
            current, refused = file.read(), ""
        except settings.SettingsError as error:
            refused = f"{error}; the previous settings stay in force"
            log.error("reload", why=refused, problems=error.problems)


if __name__ == "__main__":
    sys.exit(main())
