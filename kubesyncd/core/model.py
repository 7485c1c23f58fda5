"""Define the nouns: frozen values that databases and Docker speak of.

Knows no clock, no client, no coroutine. Parsing never raises: a value nobody can use becomes
the default *and* a sentence in `problems`, so a poison row stops only its own feature.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, StrEnum

# Letters a feature's name may have before it touches Docker, systemd or a path (proof.md, section 4).
FEATURE_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}(@[0-9]{1,3})?")
CONTAINER_ID = re.compile(r"[0-9a-f]{12,64}")


def valid_feature_name(name: str) -> bool:
    """Whether `name` may be used as a feature, a unit and a container name."""
    return FEATURE_NAME.fullmatch(name) is not None


class Signal(Enum):
    """What an event stream yields besides a feature's name."""

    GAP = "gap"
    """Events may have been lost: assume that everything changed."""
    MASTER = "master"
    """The Kubernetes master's configuration changed."""


class Owner(StrEnum):
    """Who runs a feature's container (`set_owner` knows only the first two)."""

    LOCAL = "local"
    KUBE = "kube"
    NONE = "none"


class SystemState(StrEnum):
    """What the feature's systemd unit last asked for."""

    ABSENT = ""
    UP = "up"
    DOWN = "down"


class Mode(StrEnum):
    """The seed's transition_mode: how far Kubernetes has come with this feature."""

    NONE = "none"
    PENDING = "kube_pending"
    READY = "kube_ready"


class FailurePolicy(StrEnum):
    """What is done once a kube feature counts as failed."""

    ALERT = "alert"
    SWITCH_TO_LOCAL = "switch-to-local"
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True)
class Timing:
    """All times, in seconds, and what is counted within them. `docs/settings.md` says what each one does."""

    local_wait_s: float = 60.0
    stop_grace_s: float = 10.0
    kube_stop_grace_s: float = 60.0
    label_wait_s: float = 5.0
    kubelet_stop_s: float = 10.0
    fallback_after_s: float = 300.0
    kube_stable_s: float = 60.0
    handover_delay_s: float = 30.0
    handover_delay_s_max: float = 3600.0
    crash_loop_s: float = 600.0
    crash_loop_starts: int = 5
    tag_after_s: float = 600.0
    check_every_s: float = 60.0
    check_s_max: float = 10.0
    check_failures: int = 3
    hook_s_max: float = 10.0
    reboot_s_max: float = 30.0
    reask_s: float = 5.0
    verb_s_max: float = 85.0
    audit_s: float = 60.0
    backoff_s: float = 0.8
    backoff_s_max: float = 30.0


@dataclass(frozen=True, slots=True)
class FeatureConfig:
    """CONFIG_DB `FEATURE|<name>`, parsed; the defaults are the seed's (section CONFIG-DB).

    `failure_policy` None: switch-to-local with fallback on, else alert.
    `local_only`: Kubernetes can never own it (multi-ASIC features, an image without its packages).
    `always_local`: besides, every verb works from Docker alone while Redis is away.
    """

    set_owner: Owner = Owner.LOCAL
    fallback: bool = False
    failure_minutes: int = 0
    failure_policy: FailurePolicy | None = None
    local_only: bool = False
    always_local: bool = False

    @property
    def owner(self) -> Owner:
        """The owner that rules: `set_owner`, unless the feature can only be local."""
        return Owner.LOCAL if self.local_only or self.always_local else self.set_owner

    @property
    def policy(self) -> FailurePolicy:
        """The failure policy in force (spec section 5)."""
        if self.failure_policy is not None:
            return self.failure_policy
        return FailurePolicy.SWITCH_TO_LOCAL if self.fallback else FailurePolicy.ALERT


@dataclass(frozen=True, slots=True)
class Row:
    """Our fields of STATE_DB `FEATURE|<name>`; a missing field is the empty value."""

    system_state: SystemState = SystemState.ABSENT
    current_owner: Owner = Owner.NONE
    transition_mode: Mode = Mode.NONE
    docker_id: str = ""
    update_ts: int = 0
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Stored:
    """One look at Redis for one feature.

    `config` is None when there is no FEATURE row (a local feature). `loading`: CONFIG_DB is being
    refilled, so `config` says nothing and the last known one stands. `problems`: fields whose value
    could not be used, each a sentence naming key, value and what is allowed.
    """

    config: FeatureConfig | None
    row: Row
    loading: bool = False
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MasterConfig:
    """CONFIG_DB `KUBERNETES_MASTER|SERVER`; an empty `ip` means: no master configured."""

    ip: str = ""
    port: int = 6443
    insecure: bool = False
    disable: bool = False
    problems: tuple[str, ...] = ()

    @property
    def wanted(self) -> bool:
        """Whether the operator wants this switch to have a master."""
        return bool(self.ip) and not self.disable


@dataclass(frozen=True, slots=True)
class Container:
    """One container of a feature, by Docker's word.

    `exit_code` is None while it runs and when Docker no longer knows. `started` orders containers
    of one feature by age: Docker's own start time, ISO 8601. `gone`: destroyed since; only how it ended
    is known, and it cannot be started. `image` is the name it was made from, `image_id` what that meant then.
    """

    id: str
    owner: Owner
    running: bool
    exit_code: int | None = None
    started: str = ""
    image: str = ""
    gone: bool = False
    image_id: str = ""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which container a peer lives in and which feature that is, by Docker's word."""

    container_id: str
    feature: str
    owner: Owner


class KubeLabel(Enum):
    """A feature label as the queue sees it: what the last pending entry says, else the last applied one."""

    ON = "on"
    OFF = "off"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class LabelView:
    """What the label queue knows of one feature's label (times: BOOTTIME seconds, memory only).

    `pending`: an entry for it is queued. `failed`: an attempt that held it has failed since it was queued.
    `refused`: why the master will never take it.
    """

    value: KubeLabel = KubeLabel.UNKNOWN
    pending: bool = False
    failed: bool = False
    refused: str = ""
    queued_at: float | None = None
    acked_at: float | None = None
