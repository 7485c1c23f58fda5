"""Keep which feature has the right of each name in Kubernetes, for all parts of the daemon."""

from __future__ import annotations

from kubesyncd.core.kube_names import KubeClaim, holder_of, kube_name, why_not_kube
from kubesyncd.core.model import valid_feature_name


class KubeNames:
    """The claims of all known features. `changes` counts how often another feature got the right of a name."""

    def __init__(self) -> None:
        self._claims: dict[str, dict[str, KubeClaim]] = {}
        self.changes = 0

    def note(self, feature: str, claim: KubeClaim) -> tuple[str, ...]:
        """Note a feature's claim; return the features that share its name where the right of it moves."""
        kube = kube_name(feature)
        claims = self._claims.setdefault(kube, {})
        if not kube or claims.get(feature) is claim:
            return ()
        before = holder_of(kube, claims)
        claims[feature] = claim
        return self._moved(kube, before)

    def forget(self, feature: str) -> tuple[str, ...]:
        """Drop the claim of a feature that does not exist any more; see `note`."""
        kube = kube_name(feature)
        claims = self._claims.get(kube, {})
        before = holder_of(kube, claims)
        claims.pop(feature, None)
        if not claims:
            self._claims.pop(kube, None)
        return self._moved(kube, before)

    def feature_of(self, container: str) -> str:
        """Return the feature that a manifest's container of this name runs; empty where no feature may be called so."""
        held = holder_of(container, self._claims.get(container, {}))
        return held or (container if valid_feature_name(container) else "")

    def why_not_kube(self, feature: str) -> str:
        """Return why Kubernetes cannot run the feature; empty where it can."""
        return why_not_kube(feature, self._claims.get(kube_name(feature), {}))

    def _moved(self, kube: str, before: str) -> tuple[str, ...]:
        claims = self._claims.get(kube, {})
        if holder_of(kube, claims) == before:
            return ()
        self.changes += 1
        return tuple(sorted(claims))
