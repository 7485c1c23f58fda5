"""Parse CONFIG_DB and STATE_DB fields into values; invalid fields get defaults and are reported.

Parsing never raises: an invalid value becomes the default *and* a sentence in `problems`, so an invalid row affects
only its own feature.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from kubesyncd.core.host import canonical_host, is_host
from kubesyncd.core.model import (
    CONTAINER_ID,
    NAME_RULE,
    REVISION_MAX,
    FailurePolicy,
    FeatureConfig,
    MasterConfig,
    Mode,
    Owner,
    Row,
    SystemState,
    valid_feature_name,
)
from kubesyncd.core.text import escaped, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

T = TypeVar("T", bound=StrEnum)

NAMES_TOLD_MAX = 8


_TRUE = {"true", "on", "yes", "1"}


_FALSE = {"false", "off", "no", "0"}


def unusable_names(names: Iterable[str]) -> str:
    """Return why rows with these names in FEATURE are not managed; empty where each name is valid."""
    invalid = sorted(name for name in names if not valid_feature_name(name))
    if not invalid:
        return ""
    told = ", ".join(f"FEATURE|{escaped(name, 64)}" for name in invalid[:NAMES_TOLD_MAX])
    more = f" and {len(invalid) - NAMES_TOLD_MAX} more" if len(invalid) > NAMES_TOLD_MAX else ""
    return f"{told}{more}: invalid name, not managed: {NAME_RULE}; rename or delete the row"


def is_true(value: str) -> bool:
    """Return whether a text of a yes-or-no field means yes."""
    return value.strip().lower() in _TRUE


def parse_bool(key: str, value: str, problems: list[str], *, default: bool) -> bool:
    """Parse `true|false|on|off` in any case; anything else is `default` and a problem."""
    word = value.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    if word:
        problems.append(
            f"invalid {key}={shown(value)}: neither true nor false; taken as {str(default).lower()}"
        )
    return default


def parse_int(key: str, value: str, problems: list[str], *, default: int, most: int) -> int:
    """Parse a whole number from 0 to `most`; anything else is `default` and a problem."""
    word = value.strip()
    if word.isascii() and word.isdigit() and len(word) <= len(str(most)) and int(word) <= most:
        return int(word)
    if word:
        problems.append(
            f"invalid {key}={shown(value)}: not a whole number from 0 to {most}; taken as {default}"
        )
    return default


def parse_choice(key: str, value: str, problems: list[str], *, allowed: tuple[T, ...], default: T) -> T:
    """Parse one of `allowed`, in any case; anything else is `default` and a problem."""
    word = value.strip().lower()
    for choice in allowed:
        if word == choice.value:
            return choice
    if word:
        names = "|".join(c.value or '""' for c in allowed)
        problems.append(
            f"invalid {key}={shown(value)}: not one of {names}; taken as {default.value or 'absent'}"
        )
    return default


# Ten years in minutes: a larger value is a typing error.
FAILURE_MINUTES_MAX = 5_256_000


def parse_feature_config(
    fields: Mapping[str, str], problems: list[str], known: FeatureConfig | None = None
) -> FeatureConfig:
    """Parse CONFIG_DB fields (the design document's names, any case) as a config.

    An absent field is the design document's default. An invalid field keeps its value in `known`: a typing error must
    not move a feature.
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
    """Parse our STATE_DB fields (the design document's names, any case; `docker-id` is `docker_id`) as a row."""
    got = {key.lower().replace("-", "_"): value for key, value in fields.items()}
    docker_id = got.get("docker_id", "").strip()
    if docker_id and not CONTAINER_ID.fullmatch(docker_id):
        problems.append(f"invalid docker_id={shown(docker_id)}: not a container ID; taken as absent")
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
        revision=parse_int("revision", got.get("revision", ""), problems, default=0, most=REVISION_MAX),
    )


def parse_master_config(fields: Mapping[str, str]) -> MasterConfig:
    """Parse CONFIG_DB `KUBERNETES_MASTER|SERVER` (field names in any case).

    An invalid IP counts as absent. Another spelling of an address is the same configuration.
    """
    got = {key.lower(): value for key, value in fields.items()}
    problems: list[str] = []
    ip = got.get("ip", "").strip()
    if ip and not is_host(ip):
        problems.append(f"invalid IP={shown(ip)}: not an address or host name; taken as absent")
        ip = ""
    return MasterConfig(
        ip=canonical_host(ip),
        port=parse_int("port", got.get("port", ""), problems, default=6443, most=65535) or 6443,
        insecure=parse_bool("insecure", got.get("insecure", ""), problems, default=False),
        disable=parse_bool("disable", got.get("disable", ""), problems, default=False),
        problems=tuple(problems),
    )
