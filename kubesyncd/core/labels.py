"""Decide which node labels a switch may set, and which labels describe the switch itself.

Knows no clock, no file, no client, no coroutine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubesyncd.core.model import FEATURE_NAME
from kubesyncd.core.text import quoted

if TYPE_CHECKING:
    from collections.abc import Mapping


PART_LENGTH_MAX = 63
PREFIX_LENGTH_MAX = 253

_FEATURE_SUFFIX = "_enabled"
_PART = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
_PREFIX = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")

# What NodeRestriction lets a kubelet's credential change among Kubernetes' own names.
_KUBELET_KEYS = frozenset(
    {
        "kubernetes.io/hostname",
        "kubernetes.io/arch",
        "kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
    }
)
# The labels by which the switch describes itself, and the field of DEVICE_METADATA that each follows; without one, it
# follows the installed SONiC version.
_DESCRIPTION = {
    "sonic_version": "",
    "worker.sonic/platform": "platform",
    "hwsku": "hwsku",
    "deployment_type": "type",
}
_KUBELET_DOMAINS = ("kubelet.kubernetes.io", "node.kubernetes.io")
_KUBERNETES_DOMAINS = ("kubernetes.io", "k8s.io")


class InvalidLabel(ValueError):
    """A label that Kubernetes does not accept from this node. The message is one line: what is wrong, and the fix."""


def feature_label(name: str) -> str:
    """Return the node label that lets Kubernetes deploy the feature `name`, when its value is `true`."""
    return f"{name}{_FEATURE_SUFFIX}"


def feature_of(key: str) -> str | None:
    """Return the feature whose label `key` is, or None."""
    name = key.removesuffix(_FEATURE_SUFFIX)
    return name if name != key and FEATURE_NAME.fullmatch(name) else None


def describes_switch(key: str) -> bool:
    """Return whether the switch or its kubelet sets this label itself, by what the switch is."""
    return key in _DESCRIPTION or key in _KUBELET_KEYS


def not_by_hand(key: str) -> str:
    """Return why an operator cannot set or drop this label, with what to do; empty where it is theirs."""
    if key in _DESCRIPTION:
        field = _DESCRIPTION[key]
        source = f"{field} of DEVICE_METADATA" if field else "the installed SONiC version"
        return f"label {quoted(key)} describes the switch and follows {source}; use another key"
    if key in _KUBELET_KEYS:
        return f"label {quoted(key)} describes the node and is set by its kubelet; use another key"
    return ""


def is_key(key: str) -> bool:
    """Return whether `key` may be a label's key on this node."""
    try:
        _check_key(key)
    except InvalidLabel:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a label of the own Node: `value` None removes it. An instance is always valid.

    Raises InvalidLabel.
    """

    key: str
    value: str | None

    def __post_init__(self) -> None:
        _check_key(self.key)
        if self.value is not None:
            _check_value(self.key, self.value)

    @classmethod
    def parse(cls, text: str) -> Change:
        """Parse a change: `key=value` sets a label, `key-` removes it. Raises InvalidLabel."""
        key, equals, value = text.partition("=")
        if equals:
            return cls(key, value)
        if text.endswith("-"):
            return cls(text[:-1], None)
        raise InvalidLabel(f"invalid label change {quoted(text)}; write key=value to set or key- to remove")

    def __str__(self) -> str:
        return f"{self.key}-" if self.value is None else f"{self.key}={self.value}"


def self_description(metadata: Mapping[str, str], os_version: str) -> tuple[Change, ...]:
    """Return labels by which a manifest may select this switch: OS version, platform, HWSKU, device type.

    `metadata` is CONFIG_DB DEVICE_METADATA. An unknown fact gives no label; a character not allowed in a label
    becomes `_`.
    """
    values = {key: _as_value(fact) for key, fact in _facts(metadata, os_version).items()}
    return tuple(Change(key, value) for key, value in values.items() if value)


def originals(metadata: Mapping[str, str], os_version: str) -> dict[str, str]:
    """Return the facts behind `self_description` that a label cannot hold as they are, by the label's last part."""
    facts = _facts(metadata, os_version).items()
    return {key.rpartition("/")[2]: fact for key, fact in facts if fact != _as_value(fact)}


def _facts(metadata: Mapping[str, str], os_version: str) -> dict[str, str]:
    got = {key.lower(): value for key, value in metadata.items()}
    return {key: got.get(field, "") if field else os_version for key, field in _DESCRIPTION.items()}


def _as_value(text: str) -> str:
    """Return the nearest label value: allowed letters only, at most 63, a letter or digit at both ends."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text)[:PART_LENGTH_MAX].strip("_.-")


def is_subdomain(text: str) -> bool:
    """Return whether `text` is a DNS name as Kubernetes has it: a label key's prefix, an object's name."""
    return len(text) <= PREFIX_LENGTH_MAX and _PREFIX.fullmatch(text) is not None


def is_part(text: str) -> bool:
    """Return whether `text` may be the last part of a label's key, or its value where that is not empty."""
    return len(text) <= PART_LENGTH_MAX and _PART.fullmatch(text) is not None


def _check_key(key: str) -> None:
    prefix, slash, name = key.rpartition("/")
    if slash and not is_subdomain(prefix):
        raise InvalidLabel(
            f"label key {quoted(key)}: before the / must be a DNS name "
            f"(lower case, at most {PREFIX_LENGTH_MAX} characters); correct it or leave it out"
        )
    if not is_part(name):
        raise InvalidLabel(
            f"label key {quoted(key)}: use 1 to {PART_LENGTH_MAX} letters, digits, '-', '_' or '.', "
            "with a letter or digit at both ends"
        )
    if _within(prefix, _KUBERNETES_DOMAINS) and not _kubelets_own(key, prefix):
        raise InvalidLabel(
            f"label key {quoted(key)}: a node may not set labels under {prefix} on itself "
            f"(NodeRestriction); use a key without that prefix, such as {name}"
        )


def _check_value(key: str, value: str) -> None:
    if value and not is_part(value):
        raise InvalidLabel(
            f"label {quoted(key)}: value {quoted(value)}: use at most {PART_LENGTH_MAX} letters, digits, "
            "'-', '_' or '.', with a letter or digit at both ends"
        )


def _kubelets_own(key: str, prefix: str) -> bool:
    return key in _KUBELET_KEYS or _within(prefix, _KUBELET_DOMAINS)


def _within(prefix: str, domains: tuple[str, ...]) -> bool:
    return any(prefix == domain or prefix.endswith(f".{domain}") for domain in domains)
