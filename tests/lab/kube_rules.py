"""Hold the API server's pure rules, in the real server's words: what it accepts, what a selector matches.

Knows no socket and no store. `tests/contract/test_cluster.py` holds these rules against the real server's.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]

_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_NAME = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_VALUE_TEXT = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must"
    " start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex"
    f" used for validation is '{_VALUE.pattern}')"
)
_NAME_TEXT = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an"
    " alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is"
    f" '{_NAME.pattern}')"
)
_PREFIX_TEXT = "prefix part a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters"

# What NodeRestriction lets a kubelet set under kubernetes.io and k8s.io.
_KUBELET_LABELS = {
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
}
_KUBELET_PREFIXES = ("kubelet.kubernetes.io", "node.kubernetes.io")


class ApiError(Exception):
    """A refusal, as the server puts it."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason

    def status(self) -> Object:
        """The Status object that says so."""
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": str(self),
            "reason": self.reason,
            "code": self.code,
        }


@dataclass(frozen=True, slots=True)
class Caller:
    """Who the client certificate says is calling."""

    name: str
    groups: tuple[str, ...]

    @property
    def admin(self) -> bool:
        """Whether everything is allowed."""
        return "system:masters" in self.groups

    @property
    def node(self) -> str:
        """The node whose kubelet this is, or nothing."""
        return self.name.removeprefix("system:node:") if "system:nodes" in self.groups else ""


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object and where it lives."""

    plural: str
    kind: str
    group: str = ""
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """As it stands in objects."""
        return f"{self.group}/v1" if self.group else "v1"


RESOURCES = {
    r.plural: r
    for r in (
        Resource("nodes", "Node", namespaced=False),
        Resource("pods", "Pod"),
        Resource("events", "Event"),
        Resource("configmaps", "ConfigMap"),
        Resource("daemonsets", "DaemonSet", "apps"),
    )
}


def check_labels(resource: Resource, name: str, labels: Any) -> None:
    """Raise ApiError 422 with the real server's message for a label it would not take, 400 for no string."""
    for key, value in (labels or {}).items():
        if not isinstance(value, str):
            raise ApiError(400, "BadRequest", "unrecognized type: string")
        for subject, text in _label_problems(key, value):
            raise ApiError(
                422,
                "Invalid",
                f'{resource.kind} "{name}" is invalid: metadata.labels: Invalid value: "{subject}": {text}',
            )


def _label_problems(key: str, value: str) -> list[tuple[str, str]]:
    problems = []
    prefix, slash, part = key.rpartition("/")
    if slash and (not _PREFIX.fullmatch(prefix) or len(prefix) > 253):
        problems.append((key, _PREFIX_TEXT))
    if len(part) > 63:
        problems.append((key, "name part must be no more than 63 characters"))
    if not _NAME.fullmatch(part):
        problems.append((key, _NAME_TEXT))
    if len(value) > 63:
        problems.append((value, "must be no more than 63 characters"))
    if not _VALUE.fullmatch(value):
        problems.append((value, _VALUE_TEXT))
    return problems


def authorize(caller: Caller | None, verb: str, resource: Resource, name: str) -> None:
    """RBAC and the Node authorizer, as far as a switch meets them. Raises ApiError 401 or 403."""
    if caller is None:
        raise ApiError(401, "Unauthorized", "Unauthorized")
    if caller.admin:
        return
    allowed = {
        "nodes": {"get", "list", "watch", "create", "patch"},
        "pods": {"get", "list", "watch", "create", "patch", "delete"},
        "events": {"create", "patch"},
        "configmaps": {"get"},
    }
    if not caller.node or verb not in allowed.get(resource.plural, set()):
        where = f' in API group "{resource.group}"'
        what = f'{resource.plural} "{name}"' if name else resource.plural
        detail = f'User "{caller.name}" cannot {verb} resource "{resource.plural}"{where}'
        raise ApiError(403, "Forbidden", f"{what} is forbidden: {detail}")


def restrict_node(caller: Caller, name: str, before: Object, after: Object) -> None:
    """NodeRestriction: a kubelet changes its own Node, and not the labels others rely on. Raises ApiError."""
    if not caller.node:
        return
    if caller.node != name:
        detail = f'node "{caller.node}" is not allowed to modify node "{name}"'
        raise ApiError(403, "Forbidden", f'nodes "{name}" is forbidden: {detail}')
    old, new = _labels(before), _labels(after)
    changed = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k) and not _own_label(k))
    if changed:
        detail = f"is not allowed to modify labels: {', '.join(changed)}"
        raise ApiError(403, "Forbidden", f'nodes "{name}" is forbidden: {detail}')


def _own_label(key: str) -> bool:
    prefix, slash, _ = key.partition("/")
    if not slash or not any(prefix == d or prefix.endswith(f".{d}") for d in ("kubernetes.io", "k8s.io")):
        return True
    if prefix == "node-restriction.kubernetes.io" or prefix.endswith(".node-restriction.kubernetes.io"):
        return False
    return key in _KUBELET_LABELS or any(prefix == p or prefix.endswith(f".{p}") for p in _KUBELET_PREFIXES)


def _labels(thing: Object) -> dict[str, str]:
    return thing.get("metadata", {}).get("labels") or {}


def merged(target: Any, patch: Any) -> Any:
    """RFC 7386; strategic merge is the same wherever no list is patched."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def selected(thing: Object, fields: str, labels: str) -> bool:
    """Whether both a fieldSelector and a labelSelector (`=`, `==`, `!=`, a bare key; commas) mean `thing`."""
    return all(_term(term, lambda path: _field(thing, path)) for term in _terms(fields)) and all(
        _term(term, _labels(thing).get) for term in _terms(labels)
    )


def _terms(selector: str) -> list[str]:
    return [term.strip() for term in selector.split(",") if term.strip()]


def _term(term: str, look: Any) -> bool:
    if "!=" in term:
        key, _, value = term.partition("!=")
        return bool(look(key) != value)
    if "=" not in term:
        return look(term) is not None
    key, _, value = term.replace("==", "=").partition("=")
    return bool(look(key) == value)


def _field(thing: Object, path: str) -> str:
    value: Any = thing
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return "" if value is None else str(value)


def metadata_only(thing: Object) -> Object:
    """What a client gets that accepts PartialObjectMetadata."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": thing["metadata"]}
