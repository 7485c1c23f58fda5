"""Say what becomes of each running feature when this switch leaves its master, before an operator confirms it.

Prints and asks nothing itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubesyncd.cli.output import count
from kubesyncd.core.model import Owner

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kubesyncd.core.descriptions import FeatureDescription

INTRODUCTION = (
    "This switch leaves its master: every pod on it ends, its Node and the queued labels are deleted."
)


def effects(features: Iterable[FeatureDescription]) -> Iterator[str]:
    """Yield a line for each feature that Kubernetes runs or should run, and one for all others."""
    yield INTRODUCTION
    unchanged = 0
    for found in features:
        if found["row"]["system_state"] != "up":
            continue
        if found["config"]["set_owner"] != Owner.KUBE.value or _is_local(found):
            unchanged += any(c["running"] for c in found["containers"])
        else:
            yield f"  {found['feature']}: {_becomes(found)}"
    if unchanged:
        yield f"  {count(unchanged, 'feature')} from local images: no change"


def _is_local(found: FeatureDescription) -> bool:
    config = found["config"]
    only = config["local_only"] or config["always_local"] or found["rolled_back"]
    return only or any(c["running"] and c["owner"] == Owner.LOCAL.value for c in found["containers"])


def _becomes(found: FeatureDescription) -> str:
    name, config = found["feature"], found["config"]
    now = "its kube container ends" if found["granted"] else "nothing runs now"
    if not (config["fallback"] or found["boot_fallback"] or found["row"]["failure"]):
        fix = f"kubesync config feature {name} owner local"
        return f"{now}; nothing runs afterwards, because fallback is off; to change that first: {fix}"
    if lacking := found.get("no_way_back"):
        return f"{now}; nothing runs afterwards, because {lacking}; see: kubesync explain {name}"
    if any(c["owner"] == Owner.LOCAL.value and not c["gone"] for c in found["containers"]):
        return f"{now}; its local container starts at once, before the node is drained"
    return f"{now}; its unit is restarted afterwards, which creates a local container where it can"
