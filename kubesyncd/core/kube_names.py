"""Translate names of features for Kubernetes, whose containers and objects have no `_` in their names.

Knows no clock, no client, no coroutine. Keys of labels and annotations have the feature's own name, with its `_`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from kubesyncd.core.labels import feature_label, is_key
from kubesyncd.core.model import DNS_LABEL

if TYPE_CHECKING:
    from collections.abc import Mapping


class KubeClaim(IntEnum):
    """The claim of a feature to its Kubernetes name; the larger one wins."""

    NONE = 0
    """It is local."""
    WANTED = 1
    """Its owner is kube."""
    GRANTED = 2
    """A kube container of it is admitted."""


def kube_name(feature: str) -> str:
    """Return the name of the feature's container and DaemonSet; empty where Kubernetes cannot run it."""
    name = feature.replace("_", "-")
    return name if DNS_LABEL.fullmatch(name) and is_key(feature_label(feature)) else ""


def holder_of(kube: str, claims: Mapping[str, KubeClaim]) -> str:
    """Return the feature that has the right of this Kubernetes name; empty where none claims it.

    Of several, the one with the largest claim; then the first in alphabetical order, which holds after a restart too.
    """
    sharing = [feature for feature in claims if kube_name(feature) == kube]
    return min(sharing, key=lambda feature: (-claims[feature], feature), default="")


def why_not_kube(feature: str, claims: Mapping[str, KubeClaim]) -> str:
    """Return why Kubernetes cannot run the feature; empty where it can. `claims`: those of all features."""
    kube = kube_name(feature)
    if not kube:
        return (
            f"{feature} cannot be the name of a container, of a DaemonSet and of a node label in Kubernetes; "
            "it can only be local"
        )
    holder = holder_of(kube, claims)
    if holder in ("", feature):
        return ""
    return f"its container in Kubernetes would be {kube}, which is that of {holder}; it can only be local"
