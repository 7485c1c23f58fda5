"""Describe a feature for `show`, `explain` and `watch`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubesyncd.core.model import Owner
from kubesyncd.core.reasons import BACK_OFF
from kubesyncd.core.record import lacking, project
from kubesyncd.core.state import meaning

if TYPE_CHECKING:
    from kubesyncd.core.descriptions import (
        ComplaintDescription,
        ConfigDescription,
        ContainerDescription,
        FeatureDescription,
        LabelDescription,
        NextDescription,
        RowDescription,
    )
    from kubesyncd.core.health import Complaint
    from kubesyncd.core.model import Container, FeatureConfig, LabelView, Row
    from kubesyncd.features.reconciler import Reconciler
    from kubesyncd.features.surroundings import View

# One line of a reply holds a feature, however many containers Docker has.
CONTAINERS_SHOWN_MAX = 16


def describe(reconciler: Reconciler, view: View, now: float) -> FeatureDescription:
    """Describe a feature as `reconciler` observed it; `now` is BOOTTIME."""
    record, plan = view.record, view.plan
    return {
        "feature": reconciler.name,
        "state": plan.state.value,
        # The kube container is deployed, and does not stay up.
        "meaning": plan.why if plan.why.startswith(BACK_OFF) else meaning(plan.state, reconciler.name),
        "since": _since(reconciler, view),
        "why": plan.why,
        "next_in_s": None if plan.wake_at is None else round(max(0.0, plan.wake_at - now), 1),
        "next": _next(reconciler, view),
        "config": describe_config(view.config),
        "row": describe_row(project(record, view.observed)),
        "joined": view.observed.joined,
        "no_deploy": view.observed.no_deploy,
        "no_way_back": lacking(record, view.observed),
        "waiting": sorted(view.observed.asking),
        "stopping": sorted(view.observed.stopping),
        "granted": record.grant,
        "proven": record.proven,
        "label": describe_label(view.observed.label),
        "crashes": record.crashes,
        "refused_for_s": round(max(0.0, record.refuse_until - now), 1),
        "rolled_back": record.rolled_back,
        "failed_image": record.health.failed_image,
        "boot_fallback": record.boot_fallback,
        "troubles": list(reconciler.problems),
        "conditions": [condition.text for condition in view.conditions],
        "complaints": [describe_complaint(c) for c in record.health.complaints],
        "starts_in_vain": len(record.health.starts),
        "containers": [describe_container(c) for c in _shown(view)],
        "history": [
            {"at": t.at, "from": t.source.value, "to": t.target.value, "why": t.why}
            for t in reconciler.history
        ],
    }


def _shown(view: View) -> list[Container]:
    """Return the containers to describe: all that run, and the newest ended ones."""
    running = [c for c in view.observed.containers if c.running]
    ended = [c for c in view.observed.containers if not c.running]
    return [*running, *ended[len(ended) - max(0, CONTAINERS_SHOWN_MAX - len(running)) :]]


def describe_config(config: FeatureConfig) -> ConfigDescription:
    """Describe the configuration."""
    return {
        "set_owner": config.set_owner.value,
        "fallback": config.fallback,
        "failure_minutes": config.failure_minutes,
        "failure_policy": None if config.failure_policy is None else config.failure_policy.value,
        "local_only": config.local_only,
        "why_local": config.why_local,
        "always_local": config.always_local,
    }


def describe_row(row: Row) -> RowDescription:
    """Describe the STATE_DB row."""
    return {
        "system_state": row.system_state.value,
        "current_owner": row.current_owner.value,
        "transition_mode": row.transition_mode.value,
        "docker_id": row.docker_id,
        "update_ts": row.update_ts,
        "failure": row.failure,
        "revision": row.revision,
        "startup": row.startup.value,
        "version": row.version,
    }


def describe_label(label: LabelView) -> LabelDescription:
    """Describe the state of the feature's label."""
    return {
        "value": label.value.value,
        "pending": label.pending,
        "failed": label.failed,
        "refused": label.refused,
        "contested": label.contested,
        "queued_at": label.queued_at,
        "acked_at": label.acked_at,
    }


def describe_container(container: Container) -> ContainerDescription:
    """Describe a container."""
    return {
        "id": container.id,
        "owner": container.owner.value,
        "running": container.running,
        "exit_code": container.exit_code,
        "started": container.started,
        "image": container.image,
        "gone": container.gone,
        "image_id": container.image_id,
        "paused": container.paused,
        "restarting": container.restarting,
        "restart_policy": container.restart_policy,
        "by_policy": container.by_policy,
        "unread": container.unread,
        "oom_killed": container.oom_killed,
        "unhealthy": container.unhealthy,
        "stop_timeout_s": container.stop_timeout_s,
        "pod": container.pod,
        "version": container.version,
        "restarts": container.restarts,
    }


def describe_complaint(complaint: Complaint) -> ComplaintDescription:
    """Describe a report that a container is unhealthy."""
    return {
        "container_id": complaint.container_id,
        "source": complaint.source,
        "reason": complaint.reason,
    }


def _since(reconciler: Reconciler, view: View) -> float:
    """Return when the state began (seconds since the epoch).

    For a state that existed at the first observation: when its owner was recorded.
    """
    seen_at = reconciler.history[-1].at if reconciler.history else 0.0
    if len(reconciler.history) == 1 and view.record.owner is not Owner.NONE and view.record.owner_ts:
        return float(min(seen_at, view.record.owner_ts))
    return seen_at


def _next(reconciler: Reconciler, view: View) -> NextDescription | None:
    """Describe the next change by time alone: the state and its reason, and what it will prove."""
    foreseen = reconciler.foreseen()
    if foreseen is None:
        return None
    record, plan = foreseen
    return {
        "state": plan.state.value,
        "why": plan.why,
        "acts": plan.action is not None,
        "stable": record.proven and not view.record.proven,
        "failed": record.failure if not view.record.failure else "",
    }
