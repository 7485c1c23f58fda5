"""Run the daemon with one set of settings: boot state, wiring, one task group, sockets, signals, readiness.

It decides nothing.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import resource
import signal
from contextlib import ExitStack, contextmanager
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kubesyncd.api import peer
from kubesyncd.api.connections import Connections, connections_max
from kubesyncd.api.messages import Role
from kubesyncd.daemon.endpoint import Endpoint
from kubesyncd.daemon.parts import Boot
from kubesyncd.daemon.sockets import Rights, bind, gid_of, only_daemon
from kubesyncd.daemon.supervisor import Daemon
from kubesyncd.daemon.wiring import build
from kubesyncd.reboot.hold import HOLD_FILE, PROMISED_FILE, begin_boot
from kubesyncd.runtime.clock import boot_id
from kubesyncd.runtime.lock_holder import LOOK
from kubesyncd.runtime.sdnotify import is_supervised, notify, watchdog_s
from kubesyncd.runtime.state_files import OPEN_FOLDER, StateFile

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Mapping

    from structlog.typing import FilteringBoundLogger

    from kubesyncd.api.peer import Peer
    from kubesyncd.api.server import Server
    from kubesyncd.daemon.sockets import RunFolder, RunLock
    from kubesyncd.daemon.wiring import Wired
    from kubesyncd.runtime.alerts import AlertLog
    from kubesyncd.runtime.context import Runtime
    from kubesyncd.settings import Settings


class Ending(Enum):
    """Why the daemon ends."""

    STOP = "stop"
    RELOAD = "reload"
    # By itself; systemd starts it again, in a new folder.
    FOLDER_LOST = "run folder lost"


class _Ended(Exception):
    """The end of the daemon ends the task group."""


_SIGNALS = {signal.SIGTERM: Ending.STOP, signal.SIGINT: Ending.STOP, signal.SIGHUP: Ending.RELOAD}
_END_S_MAX = 10.0


async def run(
    settings: Settings,
    log: FilteringBoundLogger,
    *,
    inherited: Mapping[str, socket.socket],
    run_folder: RunFolder,
    identify: Callable[[socket.socket], Peer] = peer.identify_peer,
    refused: str = "",
) -> Ending:
    """Run until a signal, or the loss of its run folder, ends the daemon. `inherited`: sockets from systemd, by role.

    `run_folder`: the same one in each run of this process. `refused`: why a reload has kept these settings. Raises
    StartError, and an ExceptionGroup of the errors that stopped a part.
    """
    ending = _ending_signal()
    # Before any part is made: a second daemon must not touch a container or a file.
    folders = Path(settings.paths.run_dir), Path(settings.paths.state_dir)
    wanted = {role: _wanted(settings, role) for role in Role}
    with only_daemon(*folders) as locks, _sockets(wanted, inherited) as sockets:
        wired = build(settings, _begin_boot(settings, log), random.SystemRandom(), log)
        places = _Places(locks)
        run_folder.find(folders[0])
        if is_supervised(os.environ):
            places.end_without(run_folder, wired.parts.runtime.alert_log("run folder"), ending)
        tell = partial(_tell, refused)
        try:
            daemon = Daemon(
                wired.parts,
                identify=identify,
                tell=tell,
                connections=Connections(connections_max(resource.getrlimit(resource.RLIMIT_NOFILE)[0])),
                look=places.look,
            )
            endpoints = partial(_endpoints, wanted, inherited, sockets, wired.parts.runtime)
            await _live(daemon, ending, log, places, endpoints, tell)
        finally:
            places.close()
            await _close(wired)
    return ending.result()


class _Places:
    """The daemon's places in the file system: the locks on its folders, and its sockets."""

    def __init__(self, locks: tuple[RunLock, ...]) -> None:
        self._locks = locks
        self._endpoints: list[Endpoint] = []
        self._is_lost: Callable[[], bool] = lambda: False
        asyncio.get_running_loop().add_signal_handler(LOOK, self.look)

    def end_without(self, folder: RunFolder, alerts: AlertLog, ending: asyncio.Future[Ending]) -> None:
        """End the daemon once its run folder is gone and it may not make it again, as in its unit's sandbox."""

        def is_lost() -> bool:
            lost = folder.is_lost()
            if lost and not ending.done():
                what = f"{folder.path} is gone, and kubesyncd may not make it again"
                then = "it ends, and systemd starts it again with a new one"
                alerts.begin(
                    "run_folder", f"{what}; {then}. Running containers reach it once they are started again"
                )
                ending.set_result(Ending.FOLDER_LOST)
            return lost

        self._is_lost = is_lost

    def listen(self, endpoints: Callable[[Server], list[Endpoint]], server: Server) -> None:
        """Begin to serve the sockets."""
        self._endpoints = endpoints(server)
        self.look()

    def look(self) -> None:
        """Put right what a cleaner of /run, or another program, has changed."""
        if self._is_lost():
            return
        # The sockets before the locks: of rights that their folder lacks there is an alert.
        for endpoint in self._endpoints:
            endpoint.look()
        for lock in self._locks:
            lock.renew()

    async def end(self, server: Server) -> None:
        """Stop listening and end every connection; clients ask the next daemon again."""
        endpoints = self.close()
        await server.close()
        for endpoint in endpoints:
            await endpoint.ended(_END_S_MAX)

    def close(self) -> list[Endpoint]:
        """Stop listening; return the sockets that were closed."""
        asyncio.get_running_loop().remove_signal_handler(LOOK)
        endpoints, self._endpoints = self._endpoints, []
        for endpoint in endpoints:
            endpoint.close()
        return endpoints


def _tell(refused: str, *assignments: str) -> None:
    """Notify systemd; `refused` is a part of each status."""
    notify(
        *(f"{said}; {refused}" if refused and said.startswith("STATUS=") else said for said in assignments)
    )


def _begin_boot(settings: Settings, log: FilteringBoundLogger) -> Boot:
    """Read which boot this is, and lift the hold of an earlier one."""
    state_dir, this_boot = Path(settings.paths.state_dir), boot_id(Path(settings.paths.boot_id))
    hold, promised = StateFile(state_dir / HOLD_FILE), StateFile(state_dir / PROMISED_FILE)
    return Boot(this_boot, begin_boot(hold, promised, this_boot, log))


def _ending_signal() -> asyncio.Future[Ending]:
    """Create a future that receives why the daemon ends, from the first signal that says so."""
    loop = asyncio.get_running_loop()
    ending: asyncio.Future[Ending] = loop.create_future()

    def end(why: Ending) -> None:
        if not ending.done():
            ending.set_result(why)

    for number, why in _SIGNALS.items():
        loop.add_signal_handler(number, end, why)
    return ending


async def _live(
    daemon: Daemon,
    ending: asyncio.Future[Ending],
    log: FilteringBoundLogger,
    places: _Places,
    endpoints: Callable[[Server], list[Endpoint]],
    tell: Callable[..., None],
) -> None:
    """Run all parts until it is known why the daemon ends."""
    try:
        async with asyncio.TaskGroup() as tasks:
            server = daemon.start(tasks, watchdog_s(os.environ))
            places.listen(endpoints, server)
            # A full collection of all libraries' objects would stop the loop for 20 ms, in the midst of a hand-over.
            gc.collect()
            gc.freeze()
            tell("READY=1", "STATUS=watching")
            log.info("ready")
            why = await ending
            tell("RELOADING=1" if why is Ending.RELOAD else "STOPPING=1")
            log.info("ending", why=why.value)
            await places.end(server)
            raise _Ended  # noqa: TRY301 - this is how a task group is ended from inside
    except* _Ended:
        pass


async def _close(wired: Wired) -> None:
    await wired.containers.close(drain_s=15.0)
    await wired.store.close()
    # After a reload the next run reads what this one has written.
    await asyncio.gather(*(file.settled() for file in wired.files))


def _wanted(settings: Settings, role: Role) -> tuple[Path, Rights]:
    """Return where a socket should be, and who should be able to use it."""
    # Containers run as any user; users of the host socket have access to Docker anyway.
    mode, group = (0o666, "") if role is Role.CONTAINER else (0o660, settings.sockets.group)
    path = Path(getattr(settings.sockets, role.value))
    # Any other folder may be an operator's, and private.
    ours = path.is_relative_to(settings.paths.run_dir)
    return path, Rights(mode, gid_of(group), OPEN_FOLDER if ours else 0)


@contextmanager
def _sockets(
    wanted: Mapping[Role, tuple[Path, Rights]], inherited: Mapping[str, socket.socket]
) -> Iterator[Mapping[Role, socket.socket]]:
    """Give the socket of each role, which nothing serves yet. Raises StartError."""
    with ExitStack() as opened:
        sockets = {}
        for role, (path, rights) in wanted.items():
            from_systemd = inherited.get(role.value)
            sock = bind(path, rights) if from_systemd is None else from_systemd.dup()
            sockets[role] = opened.enter_context(sock)
        yield sockets


def _endpoints(
    wanted: Mapping[Role, tuple[Path, Rights]],
    inherited: Mapping[str, socket.socket],
    sockets: Mapping[Role, socket.socket],
    runtime: Runtime,
    server: Server,
) -> list[Endpoint]:
    """Serve the sockets."""
    made = []
    for role, sock in sockets.items():
        path, rights = wanted[role]
        ours = role.value not in inherited
        made.append(
            Endpoint(
                sock,
                path if ours else Path(sock.getsockname() or path),
                rights,
                ours=ours,
                serve=partial(server.serve, role),
                alerts=runtime.alert_log(f"{role.value} socket"),
            )
        )
    return made
