"""Define the domain values: frozen values parsed from the databases and Docker.

Knows no clock, no client, no coroutine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import TYPE_CHECKING

from kubesyncd.core.setting_range import DAY_S, count, seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kubesyncd.core.node_condition import NodeCondition

# Valid feature names; checked before a name reaches Docker, systemd or a path (proof.md, section 4).
FEATURE_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}(@[0-9]{1,3})?")
# A label of RFC 1123: the name of a container, of a namespace, of a volume; we name DaemonSets like this too.
DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
NAME_RULE = "a feature's name begins with a letter and has lower-case letters, digits, - and _, at most 63"
CONTAINER_ID = re.compile(r"[0-9a-f]{12,64}")
# The version of an image, as SONiC builds put it into IMAGE_VERSION.
IMAGE_VERSION = re.compile(r"[!-~]{1,64}")
# The starts of kube containers that are remembered per feature.
STARTS_MAX = 64
# Higher numbers of changes are taken as absent.
REVISION_MAX = 2**53
# Length of the short ID that `docker ps` shows, and by which SONiC records a kube container.
SHORT_ID = 12


def image_version(text: str) -> str:
    """Return the version of an image as given by it; empty where it is not one."""
    return text if IMAGE_VERSION.fullmatch(text) else ""


def valid_feature_name(name: str) -> bool:
    """Return whether `name` may be used as a feature, a unit and a container name."""
    return FEATURE_NAME.fullmatch(name) is not None


class Signal(Enum):
    """What an event stream yields besides a feature's name."""

    GAP = "gap"
    """Events may have been lost: assume that everything changed."""
    MASTER = "master"
    """The Kubernetes master's configuration changed."""
    IMAGES = "images"
    """An image was added to Docker, removed or renamed."""


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


class Startup(StrEnum):
    """What the row says to the start-up script of a kube container that asks by it (see core.row_gate)."""

    NONE = ""
    """Nothing: no such script waits."""
    WAIT = "wait"
    """One waits, and is not admitted."""
    GO = "go"
    """The script of the admitted container may go on. Every script that reads this goes on."""


class FailurePolicy(StrEnum):
    """The reaction to a failed kube feature."""

    ALERT = "alert"
    SWITCH_TO_LOCAL = "switch-to-local"
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True)
class Timing:
    """All times, in seconds, and the counts that belong to them: the section [timing] of the settings file.

    The sentence below a key is its entry in docs/settings.md.
    """

    local_wait_s: float = seconds(60.0)
    """Time after which the verb `wait` of a feature without a container ends with code 1. A larger value gives a
    feature's script more time to create its container; a smaller one ends the unit of a dead feature earlier."""
    stop_grace_s: float = seconds(10.0, most=DAY_S)
    """Time between SIGTERM and SIGKILL for a container, unless `stop -t` or the container's own stop timeout gives
    another one. A larger value lets slow programs end by themselves; it should stay below `verb_s_max`."""
    kube_stop_grace_s: float = seconds(60.0, most=DAY_S)
    """Time in which the kubelet must end a container whose label was removed; after it the daemon stops the container
    itself. Set it to at least the largest terminationGracePeriodSeconds of the DaemonSets."""
    label_wait_s: float = seconds(5.0, most=DAY_S)
    """Time for which a verb or command waits until the API server has accepted a label; after it the label stays in
    the queue. A larger value delays `stop` while the API server does not answer."""
    kubelet_stop_s: float = seconds(10.0, most=DAY_S)
    """Time for which a `stop` without an answer of the API server, and `reboot prepare`, wait until the kubelet has
    stopped. After it, `stop` ends the container although the kubelet runs, and `reboot prepare` fails."""
    gate_after_s: float = seconds(60.0, least=1.0, most=DAY_S)
    """Time for which a kube container may run without asking to be admitted; after it, its image counts as one that
    ignores the gate. A larger value suits images that start slowly, and finds an image without the gate later."""
    fallback_after_s: float = seconds(300.0)
    """Time without a container after which a feature of owner kube with fallback starts its local container. A larger
    value gives Kubernetes more time to deploy, and leaves the feature without a container for longer."""
    node_not_ready_s: float = seconds(60.0, most=DAY_S)
    """Time for which the Node must be not ready, also after a start of the kubelet, until a feature with fallback and
    without a container starts its local one. A larger value suits kubelets that start slowly, and finds a dead one
    later."""
    kube_stable_s: float = seconds(60.0)
    """Time for which a kube container must run until its hand-over counts as successful. A container that ends
    earlier has failed: the local one returns, and the next hand-over is delayed."""
    handover_delay_s: float = seconds(30.0)
    """Delay of the next hand-over to Kubernetes after the first failed one; it doubles with each failure in a row. A
    larger value means fewer interruptions by an image that fails."""
    handover_delay_s_max: float = seconds(3600.0)
    """Largest delay of a hand-over. A larger value means that a repaired image may be tried later."""
    crash_window_s: float = seconds(900.0, least=1.0, most=DAY_S)
    """Time within which three ends of kube containers are a failure of the feature, also where each of them outlasted
    `kube_stable_s`. It is over, and no earlier end counts, once one has run for this long. A larger value finds slower
    crash loops, and a recovery later; one below twice `kube_stable_s` finds none that outlast it."""
    crash_loop_s: float = seconds(600.0)
    """Time within which `crash_loop_starts` starts are a crash loop, where no container stays up. A larger value also
    finds crashes that are further apart."""
    crash_loop_starts: int = count(5, "starts", most=STARTS_MAX)
    """Number of starts of kube containers within `crash_loop_s` that counts as a failure of the feature; the daemon
    remembers 64 starts at most. 0 turns the detection off."""
    tag_after_s: float = seconds(600.0)
    """Time for which a kube container must be healthy before its image becomes the local one. A larger value
    postpones the change of the image from which a fallback starts. `[images] adopt` turns this off."""
    check_every_s: float = seconds(60.0, least=0.1)
    """Interval at which each check script on the host runs, changed by up to 10 % at random. A smaller value finds a
    failure earlier and starts more programs."""
    check_s_max: float = seconds(10.0, most=DAY_S)
    """Time limit of one check script; a script that takes longer is killed and counts as failed. With a larger value a
    slow script may delay the next run of the others."""
    check_failures: int = count(3, "failures", least=1)
    """Number of failures in a row of one check script that count as a failure of the feature. A larger value
    tolerates short disturbances, and finds a failure later."""
    hook_s_max: float = seconds(10.0, most=DAY_S)
    """Time limit of one reboot hook; `reboot prepare` kills a hook that takes longer and reports it as failed."""
    reboot_s_max: float = seconds(30.0, most=DAY_S)
    """Time limit of the whole `reboot prepare`, including its reversal after a failure. With a larger value the reboot
    script waits longer; with a smaller one the last hooks may not run."""
    reask_s: float = seconds(5.0, most=DAY_S)
    """Time that the clients have to ask again after a start of the daemon or a lost connection. A smaller value risks
    that the daemon cancels a hand-over whose kube container only reconnects."""
    verb_s_max: float = seconds(85.0, most=DAY_S)
    """Time after which a verb that is not done returns exit code 75, while the daemon continues the work. Keep it below
    the time limit of the features' units, which is 90 s by systemd's default."""
    audit_s: float = seconds(60.0, least=0.1)
    """Interval at which the daemon observes every feature, its unit and its node again, even without an event. A
    smaller value finds a missed event earlier, and asks Redis, Docker, systemd and the API server more often."""
    backoff_s: float = seconds(0.8, most=DAY_S)
    """Limit of the delay before the first retry of a failed operation. Each delay is random, and the limit doubles
    with each failure up to `backoff_s_max`."""
    backoff_s_max: float = seconds(30.0, most=DAY_S)
    """Largest limit of the delay between retries. A larger value means fewer attempts while a service is down, and a
    later recovery when it is back."""


@dataclass(frozen=True, slots=True)
class FeatureConfig:
    """CONFIG_DB `FEATURE|<name>`, parsed; the defaults are the design document's (section CONFIG-DB).

    `failure_policy` None: switch-to-local with fallback on, else alert.
    `local_only`: Kubernetes can never own it (multi-ASIC features, an image without its packages).
    `why_local`: why, where it is for another reason than its containers' number.
    `always_local`: in addition, every verb works from Docker alone while Redis is unavailable.
    """

    set_owner: Owner = Owner.LOCAL
    fallback: bool = False
    failure_minutes: int = 0
    failure_policy: FailurePolicy | None = None
    local_only: bool = False
    why_local: str = ""
    always_local: bool = False

    @property
    def owner(self) -> Owner:
        """The owner in force: `set_owner`, unless the feature can only be local."""
        return Owner.LOCAL if self.local_only or self.always_local else self.set_owner

    @property
    def policy(self) -> FailurePolicy:
        """The failure policy in force."""
        if self.failure_policy is not None:
            return self.failure_policy
        return FailurePolicy.SWITCH_TO_LOCAL if self.fallback else FailurePolicy.ALERT


@dataclass(frozen=True, slots=True)
class Row:
    """Our fields of STATE_DB `FEATURE|<name>`; a missing field is the empty value.

    `revision`: the number of the last change of state, owner, mode or container (see core.revision); 0: none.
    `startup`, `version`: only SONiC's names have them. `version`: of the image that runs, or ran last; of the one
    that waits, where `startup` says so: its script gives up for ever where the row has another one.
    """

    system_state: SystemState = SystemState.ABSENT
    current_owner: Owner = Owner.NONE
    transition_mode: Mode = Mode.NONE
    docker_id: str = ""
    update_ts: int = 0
    failure: str = ""
    revision: int = 0
    startup: Startup = Startup.NONE
    version: str = ""


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
    `paused`, `restarting`: such a container counts as running; Docker starts a restarting one in a moment.
    `restart_policy`: Docker's word for it; empty: none. `by_policy`: Docker has started it by that policy, when
    Docker itself started. `unread`: why Docker did not describe it; then it runs as far as Docker's list shows.
    `oom_killed`: the kernel ended a process of it for lack of memory. `unhealthy`: the output of a failing HEALTHCHECK,
    else empty. `stop_timeout_s`: the grace it was created with; None: Docker's default.
    `pod`: namespace and name of a kube container's pod. `version`: its image's IMAGE_VERSION; empty: none.
    """

    id: str
    owner: Owner
    running: bool
    exit_code: int | None = None
    started: str = ""
    image: str = ""
    gone: bool = False
    image_id: str = ""
    paused: bool = False
    restarting: bool = False
    restart_policy: str = ""
    by_policy: bool = False
    unread: str = ""
    oom_killed: bool = False
    unhealthy: str = ""
    stop_timeout_s: int | None = None
    pod: str = ""
    version: str = ""

    @property
    def restarts(self) -> bool:
        """Whether Docker starts it again by itself."""
        return bool(self.restart_policy)


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
class NodeSeen:
    """The own Node as the API server has it. `uid` differs for a Node that was deleted and registered again.

    `older`: the API server's store is older than it was before on this link, as after the restore of a backup.
    `condition`: its own state; None: not told. `version`: the store's newest version; 0: not told.
    """

    labels: Mapping[str, str]
    uid: str = ""
    older: bool = False
    condition: NodeCondition | None = None
    version: int = 0


@dataclass(frozen=True, slots=True)
class LabelView:
    """The label queue's state of one feature's label (times: BOOTTIME seconds, memory only).

    `pending`: an entry for it is queued. `failed`: an attempt to send it has failed since it was queued.
    `refused`: why the API server rejects it for good. `contested`: what to know where another client keeps changing it.
    """

    value: KubeLabel = KubeLabel.UNKNOWN
    pending: bool = False
    failed: bool = False
    refused: str = ""
    contested: str = ""
    queued_at: float | None = None
    acked_at: float | None = None
