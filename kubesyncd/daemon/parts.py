"""Make the parts of the daemon from its ports. Only construction: no file, clock, socket or service is used here.

Knows the ports and no adapter: `wiring` chooses the adapters, and the tests' simulation makes other ports.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from kubesyncd.cluster.controller import ClusterController, ClusterPorts
from kubesyncd.cluster.listeners import Listeners
from kubesyncd.cluster.node_reports import NodeReports
from kubesyncd.core.record import Record, rolled_back
from kubesyncd.features.health_checks import Checks
from kubesyncd.features.ledger import Ledger
from kubesyncd.features.registry import Reconcilers
from kubesyncd.features.surroundings import Surroundings
from kubesyncd.features.wakes import Wakes
from kubesyncd.images.store import NoImageStore
from kubesyncd.ports import FeatureStore
from kubesyncd.reboot.preparation import Preparation

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubesyncd.core.config_load import ConfigLoad
    from kubesyncd.core.model import MasterConfig, Timing
    from kubesyncd.features.surroundings import View
    from kubesyncd.features.table_restorer import TableRestorer
    from kubesyncd.images.store import ImageStore
    from kubesyncd.join.controller import JoinController
    from kubesyncd.ports import Cluster, Containers, DurableFile, File, Hooks, SwitchFiles, Units
    from kubesyncd.runtime.context import Runtime
    from kubesyncd.services.catalog_watcher import CatalogWatcher


class LoadingStore(FeatureStore, Protocol):
    """The FeatureStore with its state of CONFIG_DB loads (S10), which the ledger restores after a restart."""

    config_load: ConfigLoad


@dataclass(frozen=True, slots=True)
class Ports:
    """The external services. `connect` makes an API server's adapter; ImportError: no Kubernetes packages."""

    store: LoadingStore
    containers: Containers
    units: Units
    connect: Callable[[MasterConfig], Cluster]
    switch: SwitchFiles
    hooks: Hooks | None = None


@dataclass(frozen=True, slots=True)
class Files:
    """The files that the daemon writes; without `hold`, no reboot can be prepared."""

    ledger: File
    labels: DurableFile
    hold: DurableFile | None = None


@dataclass(frozen=True, slots=True)
class Boot:
    """The ID of this boot, and the features to which a prepared reboot has promised their local container."""

    id: str
    falls_back: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that decisions depend on."""

    timing: Timing
    always_local: frozenset[str]


@dataclass(frozen=True, slots=True)
class Options:
    """Parts that a switch may lack.

    Without `join`, the node never joins or leaves; `restorer` restores a loaded CONFIG_DB before any component reads
    it.
    """

    images: ImageStore | None = None
    join: JoinController | None = None
    restorer: TableRestorer | None = None


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one run of the daemon."""

    ports: Ports
    runtime: Runtime
    rules: Rules
    ledger: Ledger
    wakes: Wakes
    reconcilers: Reconcilers
    cluster: ClusterController
    reports: NodeReports
    options: Options
    checks: Checks | None = None
    preparation: Preparation | None = None
    packages: CatalogWatcher | None = None


def assemble(
    ports: Ports,
    files: Files,
    boot: Boot,
    rules: Rules,
    *,
    runtime: Runtime,
    options: Options | None = None,
) -> Parts:
    """Make all parts, in the order in which they need each other."""
    options = options or Options()
    wakes, ledger = Wakes(), Ledger(files.ledger, boot.id)
    reports = NodeReports(runtime)
    cluster = ClusterController(
        _cluster_ports(ports, files.labels, options.join),
        timing=rules.timing,
        runtime=runtime,
        listeners=Listeners(wake_feature=wakes.wake, linked=reports.linked, notice=reports.notice),
    )
    reconcilers = Reconcilers(
        Surroundings(
            store=ports.store,
            containers=ports.containers,
            units=ports.units,
            labels=cluster,
            images=options.images or NoImageStore(),
            ledger=ledger,
            timing=rules.timing,
            runtime=runtime,
            wakes=wakes,
            always_local=rules.always_local,
            first_record=partial(_first_record, options.images, boot.falls_back),
            told=partial(_report, reports),
        )
    )
    return Parts(
        ports=ports,
        runtime=runtime,
        rules=rules,
        ledger=ledger,
        wakes=wakes,
        reconcilers=reconcilers,
        cluster=cluster,
        reports=reports,
        options=options,
        checks=Checks(ports.hooks, reconcilers, rules.timing, runtime) if ports.hooks is not None else None,
        preparation=_preparation(files.hold, boot, options.images, reconcilers, cluster, rules, runtime),
    )


def _cluster_ports(ports: Ports, labels: DurableFile, join: JoinController | None) -> ClusterPorts:
    """Choose the cluster's ports; without a join controller, any credential counts as the configured master's."""
    return ClusterPorts(
        store=ports.store,
        units=ports.units,
        connect=ports.connect,
        labels_file=labels,
        switch=ports.switch,
        credential_fits=ports.switch.kubeconfig_exists if join is None else join.fits,
        is_joining=lambda: join is not None and join.joining,
    )


def _preparation(
    hold: DurableFile | None,
    boot: Boot,
    images: ImageStore | None,
    reconcilers: Reconcilers,
    cluster: ClusterController,
    rules: Rules,
    runtime: Runtime,
) -> Preparation | None:
    """Make the daemon's part of a prepared reboot, which needs a hold and images."""
    if images is None or hold is None:
        return None
    return Preparation(
        hold=hold,
        boot_id=boot.id,
        reconcilers=reconcilers,
        cluster=cluster,
        images=images,
        timing=rules.timing,
        log=runtime.log,
    )


def _first_record(images: ImageStore | None, falls_back: frozenset[str], feature: str) -> Record:
    """Return the initial record of a feature without one in the ledger: rollbacks and promises outlive the boot."""
    record = Record(boot_fallback=feature in falls_back)
    kept = images.remembered(feature) if images is not None else None
    if kept is None or not kept.failure:
        return record
    return rolled_back(record, kept.failure, kept.failed, kept.failed_newest)


def _report(reports: NodeReports, feature: str, view: View | None) -> None:
    """Report a feature's view to the fleet's operator; None: the feature is uninstalled."""
    if view is None:
        reports.forget(feature)
    else:
        reports.feature(feature, view.plan.state.value, view.record.failure)
