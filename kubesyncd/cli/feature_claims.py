"""Read which features claim a name in Kubernetes, from CONFIG_DB."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from kubesyncd.core.kube_names import KubeClaim, kube_name
from kubesyncd.core.model import Owner
from kubesyncd.ports import Refused

if TYPE_CHECKING:
    from kubesyncd.cli.switch_redis import SwitchRedis


def kube_claims(redis: SwitchRedis, name: str) -> dict[str, KubeClaim]:
    """Return the claims of the features that share `name`'s name in Kubernetes and whose owner is kube.

    An unusable row claims nothing. Raises Unavailable.
    """
    kube, claims = kube_name(name), {}
    for feature in redis.feature_names():
        if kube_name(feature) != kube:
            continue
        with suppress(Refused):
            if redis.feature_rows(feature).means.owner is Owner.KUBE:
                claims[feature] = KubeClaim.WANTED
    return claims
