"""Start the daemon: read the command line and the settings, set up the log, run the app."""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kubesyncd import __version__, settings
from kubesyncd.api.peer import identify_peer
from kubesyncd.core import protocol
from kubesyncd.runtime import lean_imports
from kubesyncd.runtime.sdnotify import listen_fds

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from kubesyncd.api.peer import Peer

EXIT_SETTINGS = 78  # sysexits' EX_CONFIG


def main(argv: list[str] | None = None, *, identify: Callable[[socket.socket], Peer] = identify_peer) -> int:
    """Run the daemon; `identify` returns the peer of a socket. Returns the process's exit code."""
    parser = argparse.ArgumentParser(
        prog="kubesyncd", description="Keeps SONiC features running, locally or by Kubernetes."
    )
    parser.add_argument("--config", type=Path, help=f"the settings file (default {settings.DEFAULT_FILE})")
    parser.add_argument("--version", action="version", version=f"kubesyncd {__version__}")
    chosen: Path | None = parser.parse_args(argv).config
    path, inherited = chosen or settings.DEFAULT_FILE, listen_fds()
    try:
        current = settings.load(path, required=chosen is not None)
    except settings.SettingsError as error:
        print(f"kubesyncd: {error}", file=sys.stderr)
        return EXIT_SETTINGS
    lean_imports.load()
    return _run(current, path, required=chosen is not None, inherited=inherited, identify=identify)


def _run(
    current: settings.Settings,
    path: Path,
    *,
    required: bool,
    inherited: dict[str, socket.socket],
    identify: Callable[[socket.socket], Peer],
) -> int:
    """Run the daemon, again with new settings after each reload."""
    # Not before `lean_imports.load`: these import the libraries that it reduces.
    from kubesyncd.daemon import app
    from kubesyncd.daemon.sockets import StartError
    from kubesyncd.runtime.log import logger

    proven: settings.Settings | None = None
    while True:
        log = logger(current.log)
        try:
            ending = asyncio.run(app.run(current, log, inherited=inherited, identify=identify))
        except StartError as error:
            log.error("start", why=str(error))
            return protocol.EXIT_FAILED
        except settings.SettingsError as error:
            # An address that only its adapter can judge.
            if proven is None:
                print(f"kubesyncd: {path}: {error}", file=sys.stderr)
                return EXIT_SETTINGS
            _log_refused(log, f"{path}: {error}")
            current, proven = proven, None
            continue
        if ending is app.Ending.STOP:
            return protocol.EXIT_DONE
        proven = current
        # The parts of the ended run are reference cycles: free their memory before the next run makes its own.
        gc.unfreeze()
        gc.collect()
        try:
            current = settings.load(path, required=required)
        except settings.SettingsError as error:
            _log_refused(log, str(error))


def _log_refused(log: FilteringBoundLogger, why: str) -> None:
    log.error("reload", why=f"{why}; the previous settings stay in force")


if __name__ == "__main__":
    sys.exit(main())
