"""What are the nouns? Frozen values and the total parsing of what databases and Docker say.

Knows no clock, no client, no coroutine. Parsing never raises: a value nobody can use becomes
the default *and* a sentence in `problems`, so a poison row stops only its own feature.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, StrEnum
from ipaddress import ip_address
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T", bound=StrEnum)

# Of a value nobody can use, an operator is shown so many characters.
SHOWN_MAX = 40
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


_TRUE = {"true", "on", "yes", "1"}
_FALSE = {"false", "off", "no", "0"}


def parse_bool(key: str, value: str, problems: list[str], *, default: bool) -> bool:
    """`true|false|on|off` in any case; anything else is `default` and a problem."""
    word = value.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    if word:
        problems.append(f"{key}={shown(value)} is neither true nor false; taken as {str(default).lower()}")
    return default


def parse_int(key: str, value: str, problems: list[str], *, default: int, most: int) -> int:
    """A whole number from 0 to `most`; anything else is `default` and a problem."""
    word = value.strip()
    if word.isascii() and word.isdigit() and len(word) <= len(str(most)) and int(word) <= most:
        return int(word)
    if word:
        problems.append(f"{key}={shown(value)} is no whole number from 0 to {most}; taken as {default}")
    return default


def parse_choice(key: str, value: str, problems: list[str], *, allowed: tuple[T, ...], default: T) -> T:
    """One of `allowed`, in any case; anything else is `default` and a problem."""
    word = value.strip().lower()
    for choice in allowed:
        if word == choice.value:
            return choice
    if word:
        names = "|".join(c.value or '""' for c in allowed)
        problems.append(f"{key}={shown(value)} is not one of {names}; taken as {default.value or 'absent'}")
    return default


# Ten years of minutes: more is a typing error, not a wish.
FAILURE_MINUTES_MAX = 5_256_000


def parse_feature_config(
    fields: Mapping[str, str], problems: list[str], known: FeatureConfig | None = None
) -> FeatureConfig:
    """CONFIG_DB fields (the seed's names, any case) as a config.

    An absent field is the seed's default. One that nobody can use stays as it is `known`: a typing error must not
    move a feature.
    """
    got = {key.lower(): value for key, value in fields.items()}
    absent = FeatureConfig()

    def otherwise(key: str) -> FeatureConfig:
        return known if known is not None and got.get(key, "").strip() else absent

    owner, fallback, minutes, policy = (
        "set_owner",
        "fallback_to_local",
        "kube_failure_detection",
        "failure_policy",
    )
    chosen = otherwise(policy).failure_policy
    if got.get(policy, "").strip():
        allowed = tuple(FailurePolicy)
        default = chosen or FailurePolicy.ALERT
        chosen = parse_choice(policy, got[policy], problems, allowed=allowed, default=default)
    return FeatureConfig(
        set_owner=parse_choice(
            owner,
            got.get(owner, ""),
            problems,
            allowed=(Owner.LOCAL, Owner.KUBE),
            default=otherwise(owner).set_owner,
        ),
        fallback=parse_bool(fallback, got.get(fallback, ""), problems, default=otherwise(fallback).fallback),
        failure_minutes=parse_int(
            minutes,
            got.get(minutes, ""),
            problems,
            default=otherwise(minutes).failure_minutes,
            most=FAILURE_MINUTES_MAX,
        ),
        failure_policy=chosen,
        local_only=parse_bool(
            "has_per_asic_scope", got.get("has_per_asic_scope", ""), problems=[], default=False
        ),
    )


def parse_row(fields: Mapping[str, str], problems: list[str]) -> Row:
    """Our STATE_DB fields (the seed's names, any case; `docker-id` is `docker_id`) as a row."""
    got = {key.lower().replace("-", "_"): value for key, value in fields.items()}
    docker_id = got.get("docker_id", "").strip()
    if docker_id and not CONTAINER_ID.fullmatch(docker_id):
        problems.append(f"docker_id={shown(docker_id)} is no container ID; taken as absent")
        docker_id = ""
    return Row(
        system_state=parse_choice(
            "system_state",
            got.get("system_state", ""),
            problems,
            allowed=(SystemState.UP, SystemState.DOWN),
            default=SystemState.ABSENT,
        ),
        current_owner=parse_choice(
            "current_owner", got.get("current_owner", ""), problems, allowed=tuple(Owner), default=Owner.NONE
        ),
        transition_mode=parse_choice(
            "transition_mode",
            got.get("transition_mode", ""),
            problems,
            allowed=tuple(Mode),
            default=Mode.NONE,
        ),
        docker_id=docker_id,
        update_ts=parse_int(
            "current_owner_update_ts", got.get("current_owner_update_ts", ""), problems, default=0, most=2**62
        ),
        failure=got.get("failure", ""),
    )


# The last part has a letter: 300.1.1.1 and 10.1.2 are mistyped addresses, not names.
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"(?=.{{1,253}}$)({_LABEL}\.)*(?=[^.]*[A-Za-z])({_LABEL})\.?")


def is_host(text: str) -> bool:
    """Whether this is an IP address (an IPv6 one also in brackets, none with a zone) or a host name; without a port."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        found = ip_address(bare)
    except ValueError:
        return _HOST.fullmatch(text) is not None
    return "%" not in text and (found.version == 6 or bare == text)


def parse_master_config(fields: Mapping[str, str]) -> MasterConfig:
    """CONFIG_DB `KUBERNETES_MASTER|SERVER` (field names in any case). An IP nobody can use counts as none."""
    got = {key.lower(): value for key, value in fields.items()}
    problems: list[str] = []
    ip = got.get("ip", "").strip()
    if ip and not is_host(ip):
        problems.append(f"IP={shown(ip)} is no address or host name; taken as absent")
        ip = ""
    return MasterConfig(
        ip=ip,
        port=parse_int("port", got.get("port", ""), problems, default=6443, most=65535) or 6443,
        insecure=parse_bool("insecure", got.get("insecure", ""), problems, default=False),
        disable=parse_bool("disable", got.get("disable", ""), problems, default=False),
        problems=tuple(problems),
    )


def shown(value: str) -> str:
    """A hostile value, short enough and clean enough for one log line."""
    text = ascii(value[:SHOWN_MAX])
    return text if len(text) <= SHOWN_MAX + 2 and len(value) <= SHOWN_MAX else f"{text[: SHOWN_MAX - 3]}..."
