"""Describe a feature for `show`, `explain` and `watch`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kubesyncd.core.model import Owner
from kubesyncd.core.record import project
from kubesyncd.core.state import MEANING

if TYPE_CHECKING:
    from kubesyncd.features.reconciler import Reconciler
    from kubesyncd.features.surroundings import View

# One line of a reply holds a feature, however many containers Docker has.
CONTAINERS_SHOWN_MAX = 16


def described(reconciler: Reconciler, view: View, now: float) -> dict[str, Any]:
    """Describe a feature for `show` and `explain`, in JSON's types."""
    record, plan = view.record, view.plan
    return {
        "feature": reconciler.name,
        "state": plan.state.value,
        "meaning": MEANING[plan.state],
        "since": _since(reconciler, view),
        "why": plan.why,
        "next_in_s": None if plan.wake_at is None else round(max(0.0, plan.wake_at - now), 1),
        "next": _next(reconciler, view),
        "config": asdict(view.config),
        "row": asdict(project(record, view.facts)),
        "joined": view.facts.joined,
        "waiting": sorted(view.facts.waiting),
        "stopping": sorted(view.facts.stopping),
        "granted": record.grant,
        "proven": record.proven,
        "label": {**asdict(view.facts.label), "value": view.facts.label.value.value},
        "crashes": record.crashes,
        "refused_for_s": round(max(0.0, record.refuse_until - now), 1),
        "rolled_back": record.rolled_back,
        "failed_image": record.health.failed_image,
        "boot_fallback": record.boot_fallback,
        "troubles": list(reconciler.problems),
        "complaints": [asdict(c) for c in record.health.complaints],
        "starts_in_vain": len(record.health.starts),
        "containers": [asdict(c) for c in view.facts.containers[:CONTAINERS_SHOWN_MAX]],
        "history": [
            {"at": t.at, "from": t.source.value, "to": t.target.value, "why": t.why}
            for t in reconciler.history
        ],
    }


def _since(reconciler: Reconciler, view: View) -> float:
    """When the state began (seconds since the epoch).

    For a state that existed at the first observation: when its owner was recorded.
    """
    seen_at = reconciler.history[-1].at if reconciler.history else 0.0
    if len(reconciler.history) == 1 and view.record.owner is not Owner.NONE and view.record.owner_ts:
        return float(min(seen_at, view.record.owner_ts))
    return seen_at


def _next(reconciler: Reconciler, view: View) -> dict[str, Any] | None:
    """The next change by time alone: the state and its reason, and what it will prove."""
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
