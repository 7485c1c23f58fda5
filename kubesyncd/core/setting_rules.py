"""Define which combinations of valid settings can never work: one rule each, over the keys of one section.

Knows the names of sections and keys, not the classes that hold them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class SettingRule:
    """A condition over the `keys` of the section `section`; `says`: the allowed combinations, and why."""

    section: str
    keys: tuple[str, ...]
    says: str
    holds: Callable[[Any], bool]


def _at_most(section: str, least: str, most: str) -> SettingRule:
    return SettingRule(
        section,
        (least, most),
        f"{least} of at most {most}",
        lambda chosen: bool(getattr(chosen, least) <= getattr(chosen, most)),
    )


def _above_sum(section: str, most: str, *parts: str, because: str) -> SettingRule:
    return SettingRule(
        section,
        (most, *parts),
        f"{most} above the sum of the others, because {because}",
        lambda chosen: bool(getattr(chosen, most) > sum(getattr(chosen, part) for part in parts)),
    )


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _mounted(path: str, container: str) -> bool:
    """Return whether the folder of `container` has this path in it, at any depth."""
    folder = _parts(container)[:-1]
    return _parts(path)[: len(folder)] == folder


RULES: tuple[SettingRule, ...] = (
    SettingRule(
        "redis",
        ("config_db", "state_db"),
        "different numbers, because both databases have one row for each feature",
        lambda redis: bool(redis.config_db != redis.state_db),
    ),
    SettingRule(
        "sockets",
        ("host", "container"),
        "a folder of container that does not have host in it, because containers mount that folder",
        lambda sockets: not _mounted(sockets.host, sockets.container),
    ),
    SettingRule(
        "kube",
        ("bootstrap_token_file", "ca_cert_hash"),
        "ca_cert_hash with bootstrap_token_file, because a join by bootstrap token checks it",
        lambda kube: not kube.bootstrap_token_file or bool(kube.ca_cert_hash),
    ),
    SettingRule(
        "kube",
        ("client_certificate", "client_key", "ca_file", "ca_cert_hash"),
        "client_key, and ca_file or ca_cert_hash, with client_certificate, because a join by client certificate "
        "needs its key, and the master's CA",
        lambda kube: bool(
            not kube.client_certificate
            or kube.bootstrap_token_file
            or (kube.client_key and (kube.ca_file or kube.ca_cert_hash))
        ),
    ),
    _at_most("kube", "join_retry_s", "join_retry_s_max"),
    _at_most("timing", "handover_delay_s", "handover_delay_s_max"),
    _at_most("timing", "backoff_s", "backoff_s_max"),
    _above_sum(
        "timing",
        "verb_s_max",
        "label_wait_s",
        "kubelet_stop_s",
        "stop_grace_s",
        because="a stop without the API server waits for all of them",
    ),
    _above_sum(
        "timing",
        "verb_s_max",
        "label_wait_s",
        "kube_stop_grace_s",
        "stop_grace_s",
        because="a stop of a kube container waits for all of them",
    ),
)
