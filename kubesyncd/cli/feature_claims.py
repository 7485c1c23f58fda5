"""Read which features claim a name in Kubernetes, from CONFIG_DB."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from kubesyncd.core.kube_names import KubeClaim
from kubesyncd.core.model import Owner
from kubesyncd.ports import Refused

if TYPE_CHECKING:
    from kubesyncd.cli.switch_redis import SwitchRedis


def kube_claims(redis: SwitchRedis) -> dict[str, KubeClaim]:
    """Return the claims of all features whose owner is kube; an unusable row claims nothing. Raises Unavailable."""
    claims = {}
    for feature in redis.feature_names():
        with suppress(Refused):
            if redis.feature_rows(feature).means.owner is Owner.KUBE:
                claims[feature] = KubeClaim.WANTED
    return claims
