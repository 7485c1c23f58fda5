"""Make the parts of the daemon from its ports. Only construction: no file, clock, socket or service is used here.

Knows the ports and no adapter: `wiring` chooses the adapters, and the tests' simulation makes other ports.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from kubesyncd.cluster.controller import ClusterController, ClusterPorts
from kubesyncd.cluster.listeners import Listeners
from kubesyncd.cluster.node_reports import NodeReports
from kubesyncd.core.conditions import ConditionKind
from kubesyncd.core.record import Record, rolled_back
from kubesyncd.features.health_checks import Checks
from kubesyncd.features.ledger import Ledger
from kubesyncd.features.registry import Reconcilers
from kubesyncd.features.surroundings import Surroundings
from kubesyncd.features.unit_watch import UnitWatch
from kubesyncd.features.wakes import Wakes
from kubesyncd.ports import FeatureStore
from kubesyncd.reboot.preparation import Preparation

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from kubesyncd.cluster.status import NodeNaming
    from kubesyncd.core.config_load import ConfigLoad
    from kubesyncd.core.model import MasterConfig, Timing
    from kubesyncd.features.fallback_keeper import FallbackKeeper
    from kubesyncd.features.surroundings import View
    from kubesyncd.features.table_restorer import TableRestorer
    from kubesyncd.images.store import ImageStore
    from kubesyncd.join.controller import JoinController
    from kubesyncd.ports import Cluster, Containers, DurableFile, Hooks, SwitchFiles, Units
    from kubesyncd.runtime.context import Runtime


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
    names: NodeNaming
    switch: SwitchFiles
    hooks: Hooks


@dataclass(frozen=True, slots=True)
class Files:
    """The files that the daemon writes."""

    ledger: DurableFile
    boot_mark: DurableFile
    labels: DurableFile
    hold: DurableFile


@dataclass(frozen=True, slots=True)
class Boot:
    """The ID of this boot, and the features to which a prepared reboot has promised their local container."""

    id: str
    falls_back: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that decisions depend on.

    `sonic_names`: both databases have SONiC's field names, so its scripts are answered as they expect it: they ask by
    STATE_DB's row to be admitted, and get a container's short ID.
    """

    timing: Timing
    always_local: frozenset[str]
    sonic_names: bool = False


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one run of the daemon.

    `restorer` restores a loaded CONFIG_DB before any component reads it. `background`: the work, by name, of components
    that no other one calls. Without `fallbacks`, the databases do not have SONiC's field names.
    """

    ports: Ports
    runtime: Runtime
    rules: Rules
    ledger: Ledger
    wakes: Wakes
    reconcilers: Reconcilers
    cluster: ClusterController
    reports: NodeReports
    images: ImageStore
    join: JoinController
    restorer: TableRestorer
    unit_watch: UnitWatch
    preparation: Preparation
    background: Mapping[str, Callable[[], Coroutine[Any, Any, None]]]
    fallbacks: FallbackKeeper | None = None


def assemble(
    ports: Ports,
    files: Files,
    boot: Boot,
    rules: Rules,
    *,
    runtime: Runtime,
    images: ImageStore,
    join: JoinController,
    restorer: TableRestorer,
) -> Parts:
    """Make all parts, in the order in which they need each other."""
    wakes, ledger = Wakes(), Ledger(files.ledger, boot.id, files.boot_mark)
    reports = NodeReports(runtime)
    cluster = ClusterController(
        _cluster_ports(ports, files, join),
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
            images=images,
            ledger=ledger,
            timing=rules.timing,
            runtime=runtime,
            wakes=wakes,
            always_local=rules.always_local,
            by_row=rules.sonic_names,
            first_record=partial(_first_record, images, boot.falls_back),
            told=partial(_report, reports),
            ledger_lost=partial(_lose, ledger, ports.store, runtime),
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
        images=images,
        join=join,
        restorer=restorer,
        unit_watch=UnitWatch(reconcilers, ports.units, rules.timing, runtime),
        preparation=Preparation(
            hold=files.hold,
            boot_id=boot.id,
            reconcilers=reconcilers,
            cluster=cluster,
            images=images,
            timing=rules.timing,
            log=runtime.log,
        ),
        background={"checks": Checks(ports.hooks, reconcilers, rules.timing, runtime).run},
    )


def _cluster_ports(ports: Ports, files: Files, join: JoinController) -> ClusterPorts:
    return ClusterPorts(
        store=ports.store,
        units=ports.units,
        connect=ports.connect,
        labels_file=files.labels,
        switch=ports.switch,
        names=ports.names,
        credential_fits=join.fits,
        is_joining=lambda: join.joining,
        is_leaving=lambda: join.leaving,
    )


def _first_record(images: ImageStore, falls_back: frozenset[str], feature: str) -> Record:
    """Return the initial record of a feature without one in the ledger: rollbacks and promises outlive the boot."""
    record = Record(boot_fallback=feature in falls_back)
    kept = images.remembered(feature)
    if not kept.failure:
        return record
    return rolled_back(record, kept.failure, kept.failed, kept.failed_newest)


def _lose(ledger: Ledger, store: LoadingStore, runtime: Runtime) -> None:
    """Take the ledger for lost, because a row of STATE_DB shows that this boot is not new."""
    problem = ledger.lose()
    store.config_load = replace(store.config_load, seen=ledger.config_loaded)
    runtime.log.error("ledger_lost", alert=True, why=problem)


def _report(reports: NodeReports, feature: str, view: View | None) -> None:
    """Report a feature's view to the fleet's operator; None: the feature is uninstalled."""
    if view is None:
        reports.forget(feature)
    else:
        no_way_back = next((c.what for c in view.conditions if c.kind is ConditionKind.NO_WAY_BACK), "")
        reports.feature(feature, view.plan.state.value, view.record.failure, no_way_back)
