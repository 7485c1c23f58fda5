"""Draw the features of one storm and their configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubesyncd.core.model import FailurePolicy, FeatureConfig, Owner, Timing

if TYPE_CHECKING:
    from random import Random

    from tests.sim.switch import World

# Features that Kubernetes may run.
NAMES = ("snmp", "lldp", "telemetry")
# A name of no feature, and one of a feature that is installed and uninstalled; neither has a container or a unit.
MISSPELT, INSTALLED = "snmpp", "tap"
TIMING = Timing(handover_delay_s_max=600.0, crash_window_s=600.0)


def drawn_features(rng: Random) -> dict[str, FeatureConfig | None]:
    """Return a plain local feature, the one that is always local, and one or more that Kubernetes may run."""
    features: dict[str, FeatureConfig | None] = {"pmon": None, "database": None}
    for name in NAMES[: rng.randint(1, 3)]:
        features[name] = drawn_config(rng)
    return features


def drawn_config(rng: Random) -> FeatureConfig:
    """Return what the FEATURE row of one that Kubernetes may run says."""
    return FeatureConfig(
        set_owner=rng.choice((Owner.LOCAL, Owner.KUBE, Owner.KUBE)),
        fallback=rng.random() < 0.5,
        failure_minutes=rng.choice((0, 0, 2, 10)),
        failure_policy=rng.choice((None, None, *FailurePolicy)),
    )


def kube_features(world: World) -> list[str]:
    """Return the features that Kubernetes may run."""
    return [feature for feature in world.features if feature in NAMES]
