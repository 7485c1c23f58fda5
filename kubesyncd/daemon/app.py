"""Run the daemon with one set of settings: adapters, one task group, signals, readiness.

The only module that knows the adapters. It decides nothing.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from kubesyncd.adapters import kube_lean
from kubesyncd.adapters.db_schema import normal, schema
from kubesyncd.adapters.docker_containers import DockerContainers
from kubesyncd.adapters.docker_images import DockerImages
from kubesyncd.adapters.hooks import HookFolders
from kubesyncd.adapters.redis_store import RedisStore
from kubesyncd.adapters.sonic_files import image_name, os_version
from kubesyncd.adapters.systemd import SystemdUnits
from kubesyncd.api import peer
from kubesyncd.api.messages import Role
from kubesyncd.core import saved_features
from kubesyncd.core.config_load import ConfigLoad
from kubesyncd.core.protocol import REQUEST_BYTES_MAX
from kubesyncd.daemon.sockets import BACKLOG, bind
from kubesyncd.daemon.supervisor import Daemon, Outside
from kubesyncd.features.config_backup import TableRestorer
from kubesyncd.images.store import ImageStore
from kubesyncd.join.controller import JoinController
from kubesyncd.join.files import JoinFiles
from kubesyncd.reboot.hold import HOLD_FILE, PROMISED_FILE, begin_boot
from kubesyncd.runtime.clock import boot_id, boottime
from kubesyncd.runtime.sdnotify import notify, watchdog_s
from kubesyncd.runtime.state_files import DiskFile, StateFile
from kubesyncd.services.installed import FOLDER, of_installed, read_manifests
from kubesyncd.settings import SettingsError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from structlog.typing import FilteringBoundLogger

    from kubesyncd.api.peer import Peer
    from kubesyncd.api.server import Server
    from kubesyncd.core.model import MasterConfig
    from kubesyncd.ports import Cluster
    from kubesyncd.services.catalog_watcher import Follower
    from kubesyncd.settings import Settings


class Ending(Enum):
    """Why the daemon ends."""

    STOP = "stop"
    RELOAD = "reload"


class _Ended(Exception):
    """A signal ends the task group."""


class App:
    """One run of the daemon with one set of settings."""

    def __init__(
        self,
        settings: Settings,
        log: FilteringBoundLogger,
        *,
        inherited: Mapping[str, socket.socket],
        identify: Callable[[socket.socket], Peer] = peer.identify_peer,
    ) -> None:
        self._settings = settings
        self._log = log
        self._inherited = inherited
        self._ending: asyncio.Future[Ending] | None = None
        self._files: list[DiskFile] = []
        rng = random.SystemRandom()
        always_local = frozenset(settings.features.always_local)
        run_dir, state_dir = Path(settings.paths.run_dir), Path(settings.paths.state_dir)
        self._store = RedisStore(
            settings.redis, settings.schema.names, rng, always_local, kube=kube_lean.available()
        )
        self._containers = DockerContainers(settings.docker, rng)
        units = SystemdUnits(settings.systemd)
        outside = Outside(
            store=self._store,
            containers=self._containers,
            units=units,
            connect=self._connect,
            kubeconfig_exists=Path(settings.kube.kubeconfig).exists,
            hold=self._durable(HOLD_FILE),
            hold_exists=(state_dir / HOLD_FILE).exists,
            ledger_file=StateFile(run_dir / "features.json", 0o644),
            labels_file=self._durable("labels.json"),
            boot_id=boot_id(settings),
            falls_back=begin_boot(
                StateFile(state_dir / HOLD_FILE), StateFile(state_dir / PROMISED_FILE), boot_id(settings), log
            ),
            identify=identify,
            clock=boottime,
            wall=time.time,
            rng=rng,
            log=log,
            tell=notify,
            shelf=ImageStore(
                DockerImages(settings.docker),
                self._durable("images.json"),
                lambda feature: image_name(Path(settings.images.names_file), feature),
                log,
                adopting=settings.images.adopt,
                rng=rng,
            ),
            hooks=HookFolders(
                Path(settings.paths.hooks_dir),
                lambda hook, why: log.warning("hook_left_out", hook=hook, why=why),
            ),
            os_version=lambda: os_version(Path(settings.paths.sonic_version)),
            credential_ends=lambda: _credential_ends(Path(settings.kube.kubeconfig)),
            membership=lambda labels: JoinController(
                store=self._store,
                jobs=units,
                board=JoinFiles(settings),
                labels=labels,
                kube=settings.kube,
                loaded=lambda: self._store.load.seen,
                rng=rng,
                clock=boottime,
                log=log,
                able=kube_lean.available,
            ),
            mend=self._mender(units, log).mend,
            follower=follows(settings, units, rng, log) if settings.packages.url else None,
        )
        self._daemon = Daemon(outside, settings.timing, always_local)

    def _durable(self, name: str) -> DiskFile:
        """A file of the state folder."""
        self._files.append(DiskFile(StateFile(Path(self._settings.paths.state_dir) / name)))
        return self._files[-1]

    def _mender(self, units: SystemdUnits, log: FilteringBoundLogger) -> TableRestorer:
        """Restores FEATURE rows that a load of CONFIG_DB has lost."""
        state_dir = Path(self._settings.paths.state_dir)
        self._store.load = ConfigLoad(restores=True)
        return TableRestorer(
            self._store,
            file=self._durable(saved_features.FILE),
            installed_rows=lambda: of_installed(read_manifests(state_dir / FOLDER)),
            has_unit=units.has_unit,
            ours=schema(self._settings.schema.names).own_config_names,
            normal=normal,
            wall=time.time,
            log=log,
        )

    def _connect(self, master: MasterConfig) -> Cluster:
        """Import and make the Kubernetes adapter; a switch without a master never loads it."""
        from kubesyncd.adapters.kube_node import KubeCluster

        kube = self._settings.kube
        return KubeCluster(Path(kube.kubeconfig), kube.node_name, master)

    async def run(self) -> Ending:
        """Run until a signal ends it. Raises StartError, and an ExceptionGroup of the errors that stopped a part."""
        loop = asyncio.get_running_loop()
        ending: asyncio.Future[Ending] = loop.create_future()
        self._ending = ending
        for number, why in _SIGNALS.items():
            loop.add_signal_handler(number, self.end, why)
        try:
            async with asyncio.TaskGroup() as tasks:
                await self._live(tasks, ending)
                raise _Ended  # noqa: TRY301 - this is how a task group is ended from inside
        except* _Ended:
            pass
        finally:
            await self._containers.close(drain_s=15.0)
            await self._store.close()
            # After a reload the next run reads what this one has written.
            await asyncio.gather(*(file.settled() for file in self._files))
        return ending.result()

    def end(self, why: Ending) -> None:
        """Ask the daemon to end."""
        if self._ending is not None and not self._ending.done():
            self._ending.set_result(why)

    async def _live(self, tasks: asyncio.TaskGroup, ending: asyncio.Future[Ending]) -> None:
        """Run all parts until a signal arrives."""
        server = self._daemon.start(tasks, watchdog_s(os.environ))
        listeners = [await self._listen(server, role) for role in Role]
        notify("READY=1", "STATUS=watching")
        self._log.info("ready")
        why = await ending
        notify("STOPPING=1" if why is Ending.STOP else "RELOADING=1")
        self._log.info("ending", why=why.value)
        for listener in listeners:
            listener.close()
        await server.close()

    # ---- sockets --------------------------------------------------------------------------------

    async def _listen(self, server: Server, role: Role) -> asyncio.Server:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await server.serve(role, reader, writer)

        sock = self._inherited.get(role.value)
        if sock is None:
            path = Path(getattr(self._settings.sockets, role.value))
            # Containers run as any user; users of the host socket have access to Docker anyway.
            mode, group = (0o666, "") if role is Role.CONTAINER else (0o660, self._settings.sockets.group)
            sock = bind(path, mode, group)
        else:
            sock = sock.dup()
        return await asyncio.start_unix_server(serve, sock=sock, limit=REQUEST_BYTES_MAX, backlog=BACKLOG)


def follows(
    settings: Settings, units: SystemdUnits, rng: random.Random, log: FilteringBoundLogger
) -> Callable[[Callable[[], Mapping[str, str] | None]], Follower]:
    """A factory of the package server's follower, imported only where one is configured. Raises SettingsError."""
    from kubesyncd.adapters.package_server import HttpsFiles
    from kubesyncd.adapters.signatures import is_true
    from kubesyncd.services.catalog import Unusable
    from kubesyncd.services.catalog_watcher import SEEN_FILE, Follower, Supply
    from kubesyncd.services.installed import hashes

    wanted, state_dir = settings.packages, Path(settings.paths.state_dir)
    files, seen = HttpsFiles(wanted.ca_file), StateFile(state_dir / SEEN_FILE)
    try:
        supply = Supply(wanted.url, wanted.pubkey, files, is_true, seen)
    except Unusable as error:
        raise SettingsError(str(error)) from error
    return lambda labels: Follower(
        supply,
        labels=labels,
        installed=lambda: hashes(read_manifests(state_dir / FOLDER)),
        jobs=units,
        unit=wanted.unit,
        interval_s=wanted.interval_s,
        clock=boottime,
        rng=rng,
        log=log,
    )


_SIGNALS = {signal.SIGTERM: Ending.STOP, signal.SIGINT: Ending.STOP, signal.SIGHUP: Ending.RELOAD}


def _credential_ends(kubeconfig: Path) -> float | None:
    """When the certificate in `kubeconfig` expires (seconds since the epoch); imports its reader on first use."""
    from kubesyncd.adapters.kubeconfig import ends_at

    return ends_at(kubeconfig)
