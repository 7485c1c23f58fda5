"""Define the domain values: frozen values parsed from the databases and Docker.

Knows no clock, no client, no coroutine. Parsing never raises: an invalid value becomes
the default *and* a sentence in `problems`, so an invalid row affects only its own feature.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, StrEnum

# Valid feature names; checked before a name reaches Docker, systemd or a path (proof.md, section 4).
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
    """The owner of a feature's container (`set_owner` allows only the first two)."""

    LOCAL = "local"
    KUBE = "kube"
    NONE = "none"


class SystemState(StrEnum):
    """The last request of the feature's systemd unit."""

    ABSENT = ""
    UP = "up"
    DOWN = "down"


class Mode(StrEnum):
    """The seed's transition_mode: the progress of Kubernetes with this feature."""

    NONE = "none"
    PENDING = "kube_pending"
    READY = "kube_ready"


class FailurePolicy(StrEnum):
    """The reaction to a failed kube feature."""

    ALERT = "alert"
    SWITCH_TO_LOCAL = "switch-to-local"
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True)
class Timing:
    """All times, in seconds, and the counts that belong to them. `docs/settings.md` describes each one."""

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
    `always_local`: in addition, every verb works from Docker alone while Redis is unavailable.
    """

    set_owner: Owner = Owner.LOCAL
    fallback: bool = False
    failure_minutes: int = 0
    failure_policy: FailurePolicy | None = None
    local_only: bool = False
    always_local: bool = False

    @property
    def owner(self) -> Owner:
        """The owner in force: `set_owner`, unless the feature can only be local."""
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
    """One observation of Redis for one feature.

    `config` is None without a FEATURE row (a local feature). `loading`: CONFIG_DB is being
    reloaded, so `config` is not valid and the last known one stays in force. `problems`: fields whose value
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
    """One container of a feature, as Docker reports it.

    `exit_code` is None while it runs and when Docker no longer has it. `started` orders containers
    of one feature by age: Docker's own start time, ISO 8601. `gone`: destroyed since; only its exit
    is known, and it cannot be started. `image`: the name it was created from, `image_id`: the image's ID then.
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
    """The container of a peer, its feature and its owner, as Docker reports them."""

    container_id: str
    feature: str
    owner: Owner


class KubeLabel(Enum):
    """A feature label's value in the queue: the last pending entry, else the last applied one."""

    ON = "on"
    OFF = "off"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class LabelView:
    """The label queue's state of one feature's label (times: BOOTTIME seconds, memory only).

    `pending`: an entry for it is queued. `failed`: an attempt to send it has failed since it was queued.
    `refused`: why the API server rejects it for good.
    """

    value: KubeLabel = KubeLabel.UNKNOWN
    pending: bool = False
    failed: bool = False
    refused: str = ""
    queued_at: float | None = None
    acked_at: float | None = None
