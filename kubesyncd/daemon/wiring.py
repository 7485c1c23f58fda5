"""Choose the adapters for one set of settings and make the daemon's parts with them.

The only module that knows all adapters. It uses no file, socket or service: that begins when the parts are started.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kubesyncd.adapters import kube_lean
from kubesyncd.adapters.db_schema import normal, schema
from kubesyncd.adapters.docker_containers import DockerContainers
from kubesyncd.adapters.docker_images import DockerImages
from kubesyncd.adapters.hooks import HookFolders
from kubesyncd.adapters.redis_store import RedisStore
from kubesyncd.adapters.sonic_files import (
    CTRMGRD_SETTINGS,
    CTRMGRD_UNIT,
    field_names,
    image_name,
    os_version,
)
from kubesyncd.adapters.systemd import SystemdUnits
from kubesyncd.daemon.parts import Files, Ports, Rules, assemble
from kubesyncd.features.fallback_keeper import FallbackKeeper
from kubesyncd.features.table_restorer import TableRestorer
from kubesyncd.images.store import ImageStore
from kubesyncd.join.controller import JoinController
from kubesyncd.join.files import JoinFiles
from kubesyncd.join.node_names import NodeNames, node_names
from kubesyncd.reboot.hold import HOLD_FILE
from kubesyncd.runtime import boot_mark_file, fallback_file, feature_table_file
from kubesyncd.runtime.clock import boottime
from kubesyncd.runtime.context import Runtime
from kubesyncd.runtime.state_files import OPEN_FOLDER, DiskFile, StateFile, state_file
from kubesyncd.services.installed import FOLDER, InstalledServices

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from random import Random

    from structlog.typing import FilteringBoundLogger

    from kubesyncd.core.certificate_life import CertificateLife
    from kubesyncd.core.model import MasterConfig
    from kubesyncd.daemon.parts import Boot, Parts
    from kubesyncd.ports import Cluster
    from kubesyncd.services.catalog_source import CatalogSource
    from kubesyncd.services.catalog_watcher import CatalogWatcher
    from kubesyncd.settings import Settings


@dataclass(frozen=True, slots=True)
class Wired:
    """The parts, and the adapters that are closed at the end. `files` are those that are written in the background."""

    parts: Parts
    store: RedisStore
    containers: DockerContainers
    files: tuple[DiskFile, ...]


def build(settings: Settings, boot: Boot, rng: Random, log: FilteringBoundLogger) -> Wired:
    """Make the daemon's parts. Needs a running loop."""
    source = _catalog_source(settings) if settings.packages.url else None
    state_dir, run_dir = Path(settings.paths.state_dir), Path(settings.paths.run_dir)
    runtime = Runtime(boottime, time.time, rng, log)
    spelled = field_names(settings)
    log.info("field_names", names=spelled.names, why=spelled.why)
    rules = Rules(settings.timing, frozenset(settings.features.always_local), spelled.names == "sonic")
    mark = DiskFile(state_file(state_dir / boot_mark_file.FILE, 0o644))
    # Any user's command reads it.
    history = DiskFile(state_file(state_dir / fallback_file.FILE, 0o644))
    fallbacks = FallbackKeeper(history, partial(_was_ctrmgrds, settings), settings.timing, runtime)
    store = RedisStore(
        settings.redis,
        spelled.names,
        rng,
        rules.always_local,
        kube=kube_lean.available(),
        restores=True,
    )
    if spelled.names == "sonic":
        store.keeps_off = fallbacks.keeps_off
    containers, units = (
        DockerContainers(settings.docker, settings.kube.namespaces, rng, names=runtime.kube_names),
        SystemdUnits(settings.systemd),
    )
    hooks, join_files = runtime.alert_log("hooks"), JoinFiles(settings)
    names = node_names(settings, join_files, _CertifiedName(join_files.kubeconfig))
    hold, labels, images, saved = (
        DiskFile(state_file(state_dir / name))
        for name in (HOLD_FILE, "labels.json", "images.json", feature_table_file.FILE)
    )
    # Any user's client reads these two where no daemon runs.
    ledger = DiskFile(StateFile(run_dir / "features.json", 0o644, folder_mode=OPEN_FOLDER))
    installed = InstalledServices(state_dir / FOLDER)
    parts = assemble(
        Ports(
            store=store,
            containers=containers,
            units=units,
            connect=_connector(settings, names),
            names=names,
            switch=_SwitchFiles(settings),
            hooks=HookFolders(
                Path(settings.paths.hooks_dir),
                lambda hook, why: hooks.warn("hook_left_out", why, about=hook, hook=hook),
            ),
        ),
        Files(ledger, mark, labels, hold),
        boot,
        rules,
        runtime=runtime,
        images=_image_store(settings, runtime, images),
        join=_join_controller(settings, runtime, store, units, join_files, names),
        restorer=_table_restorer(settings, runtime, store, units, installed, saved),
    )
    parts.ledger.boot.names = spelled.names
    if spelled.names == "sonic":
        parts = replace(parts, fallbacks=fallbacks)
    if source is not None:
        packages = _catalog_watcher(settings, source, units, installed, parts)
        parts = replace(parts, background={**parts.background, "packages": packages.run})
    return Wired(parts, store, containers, (ledger, hold, labels, images, saved, mark, history))


def _was_ctrmgrds(settings: Settings) -> bool:
    """Return whether ctrmgrd's files are on this switch, and no start of kubesyncd has marked it."""
    root, mark = settings.paths.install_root, Path(settings.paths.state_dir) / boot_mark_file.FILE
    return not mark.exists() and any(
        os.path.exists(f"{root}{path}") for path in (CTRMGRD_UNIT, CTRMGRD_SETTINGS)
    )


def _image_store(settings: Settings, runtime: Runtime, file: DiskFile) -> ImageStore:
    names = Path(settings.images.names_file)
    return ImageStore(
        DockerImages(settings.docker),
        file,
        lambda feature: image_name(names, feature),
        runtime.log,
        adopting=settings.images.adopt,
        rng=runtime.rng,
    )


def _join_controller(
    settings: Settings,
    runtime: Runtime,
    store: RedisStore,
    units: SystemdUnits,
    files: JoinFiles,
    names: NodeNames,
) -> JoinController:
    return JoinController(
        store=store,
        jobs=units,
        files=files,
        kube=settings.kube,
        loaded=lambda: store.config_load.seen,
        runtime=runtime,
        able=kube_lean.available,
        name_problem=names.problem,
    )


class _CertifiedName:
    """The Node's name in the kubelet's credential. Its reader is imported once there is one."""

    def __init__(self, kubeconfig: Path) -> None:
        self._kubeconfig = kubeconfig
        self._reader: Callable[[], str] | None = None

    def __call__(self) -> str:
        if self._reader is None:
            if not self._kubeconfig.exists():
                return ""
            try:
                from kubesyncd.adapters.kube_credential import CertifiedName
            except ImportError:  # without the Kubernetes packages
                return ""
            self._reader = CertifiedName(self._kubeconfig)
        return self._reader()


def _table_restorer(
    settings: Settings,
    runtime: Runtime,
    store: RedisStore,
    units: SystemdUnits,
    installed: InstalledServices,
    file: DiskFile,
) -> TableRestorer:
    """Make the restorer of the FEATURE table."""
    return TableRestorer(
        store,
        file=file,
        installed_rows=installed.rows,
        has_unit=units.has_unit,
        ours=schema(field_names(settings).names).own_config_names,
        normal=normal,
        wall=runtime.wall,
        log=runtime.log,
    )


class _SwitchFiles:
    """The facts of ports.SwitchFiles, read from the files that the settings name."""

    def __init__(self, settings: Settings) -> None:
        self._kubeconfig = Path(settings.kube.kubeconfig)
        self._hold = Path(settings.paths.state_dir) / HOLD_FILE
        self._version = Path(settings.paths.sonic_version)

    def hold_exists(self) -> bool:
        """Return whether a reboot is being prepared."""
        return self._hold.exists()

    def os_version(self) -> str:
        """Return the SONiC version."""
        return os_version(self._version)

    def credential_life(self) -> CertificateLife | None:
        """Return the validity of the kubelet's certificate. Import its reader on first use."""
        from kubesyncd.adapters.kube_credential import known_life

        return known_life(self._kubeconfig)


def _connector(settings: Settings, names: NodeNames) -> Callable[[MasterConfig], Cluster]:
    def connect(master: MasterConfig) -> Cluster:
        """Import and make the Kubernetes adapter; a switch without a master never loads it."""
        from kubesyncd.adapters.kube_node import KubeCluster

        return KubeCluster(Path(settings.kube.kubeconfig), names.current, master)

    return connect


def _catalog_source(settings: Settings) -> CatalogSource:
    """Make the source of packages; imported only where one is configured."""
    from kubesyncd.adapters.package_server import HttpsFiles
    from kubesyncd.adapters.signatures import is_true
    from kubesyncd.services.catalog_source import SEEN_FILE, CatalogSource

    wanted = settings.packages
    seen = DiskFile(state_file(Path(settings.paths.state_dir) / SEEN_FILE))
    return CatalogSource(wanted.url, wanted.pubkey, HttpsFiles(wanted.ca_file), is_true, seen)


def _catalog_watcher(
    settings: Settings, source: CatalogSource, units: SystemdUnits, installed: InstalledServices, parts: Parts
) -> CatalogWatcher:
    """Make the watcher of `source`; imported only where packages are configured."""
    from kubesyncd.services.catalog_watcher import CatalogWatcher

    wanted = settings.packages

    def labels() -> Mapping[str, str] | None:
        return parts.cluster.node_labels

    return CatalogWatcher(
        source,
        labels=labels,
        installed=installed.hashes,
        jobs=units,
        unit=wanted.unit,
        interval_s=wanted.interval_s,
        runtime=parts.runtime,
    )
