"""Check a feature's DaemonSet against the mandates. Pure: manifests are trees of plain values.

The rules are the design document's mandates on deployed images, and the requirements of kubesyncd: the feature's label
in the node selector, the start hook before the feature's own process, the mounted socket folder. `RULES` lists them;
each finding names its rule, the problem and the fix.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from kubesyncd.cli.rules.kube_syntax import invalid_fields
from kubesyncd.cli.rules.tree import Tree, at, items, text
from kubesyncd.core.kube_names import kube_name, why_not_kube
from kubesyncd.core.labels import feature_label, feature_of
from kubesyncd.core.model import valid_feature_name
from kubesyncd.core.text import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


SOCKET_FOLDER = "/run/kubesyncd/container"
HOOKS = "/usr/share/kubesyncd/container"
GATES = ("entrypoint", "start-hook")
# The kubelet, then kubesyncd, waits this long for a container to end before killing it (`kube_stop_grace_s`).
GRACE_S_MAX = 60
DOCUMENTS_MAX = 64


class Weight(StrEnum):
    """Severity of a finding."""

    BREAKS = "breaks"
    """A broken mandate: kubesyncd cannot manage the feature with this manifest."""
    ADVICE = "advice"


RULES: Mapping[str, str] = {
    "daemonset": "a feature is a DaemonSet: one container per switch, and none elsewhere",
    "label": "the node selector must have <feature>_enabled=true: kubesyncd sets it when kube may deploy",
    "container": "the container must be named after the feature, with - for _: kubesyncd finds it by that name",
    "syntax": "an API server or the kubelet refuses names and values that Kubernetes does not allow",
    "gate": "the image's own process must not start before kubesyncd admits it",
    "socket": f"{SOCKET_FOLDER} is mounted as a folder, and nothing else of the switch's daemons",
    "network": "features use the switch's own network",
    "pull": "only qualified images: a mutable or missing tag does not identify an image",
    "taints": "a switch that is briefly NotReady must keep its features",
    "priority": "a switch that is short of disk or memory must keep its features",
    "grace": "a container must stop within the time that kubesyncd waits for it",
    "init": "init containers run before kubesyncd admits the feature",
    "token": "a feature needs no credential for the API server",
    "stop": "a container must report that it stops",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule that a manifest breaks; `where`: kind and name."""

    rule: str
    weight: Weight
    where: str
    problem: str
    fix: str


# ---- checks --------------------------------------------------------------------------------------


def check(documents: Sequence[Any]) -> tuple[Finding, ...]:
    """Find broken rules in these manifests, in their order. Never raises: an invalid document is a finding."""
    found: list[Finding] = []
    seen = False
    for document in documents[:DOCUMENTS_MAX]:
        kind, name = text(at(document, "kind")), text(at(document, "metadata", "name"))
        where = f"{kind or 'document'}/{name or '?'}"
        if kind == "DaemonSet":
            seen = True
            found += _check_daemonset(where, document)
        elif at(document, "spec", "template", "spec", "containers") or kind in ("Pod", "CronJob"):
            found.append(
                _breaks(
                    "daemonset",
                    where,
                    f"invalid kind {shown(kind)} for a feature",
                    "make it a DaemonSet (apps/v1)",
                )
            )
    if not seen and not found:
        found.append(_breaks("daemonset", "file", "it contains no DaemonSet", "give a file with a DaemonSet"))
    return tuple(found)


def _check_daemonset(where: str, document: Any) -> Iterator[Finding]:
    pod = at(document, "spec", "template", "spec")
    features = sorted({name for key in _required(pod) if (name := feature_of(key))})
    containers = [c for c in items(at(pod, "containers")) if isinstance(c, dict)]
    yield from _check_label(where, pod, containers)
    if features:
        yield from _check_name(where, features[0], containers)
    for problem, fix in invalid_fields(document):
        yield _breaks("syntax", where, problem, fix)
    yield from _check_pod(where, pod)
    feature = kube_name(features[0]) if features else ""
    for container in containers:
        if text(container.get("name")) == feature or len(containers) == 1:
            yield from _check_gate(where, container)
            yield from _check_end(where, container)
        yield from _check_image(where, container)
    yield from _check_mounts(where, pod, containers)


def _check_label(where: str, pod: Any, containers: list[Tree]) -> Iterator[Finding]:
    required = _required(pod)
    labels = {key: value for key, value in required.items() if feature_of(key)}
    name = text(containers[0].get("name")) if containers else ""
    wanted = feature_label(name if valid_feature_name(name) else "FEATURE")
    if not labels:
        yield _breaks(
            "label", where, f"{wanted} is not in its nodeSelector",
            f'add nodeSelector: {{{wanted}: "true"}}',
        )  # fmt: skip
    for key, value in labels.items():
        if value != "true":
            quoted = " (in quotes: a label's value is a string)" if value is True else ""
            yield _breaks("label", where, f"{key} is {shown(str(value))}", f'set {key}: "true"{quoted}')
    if len(labels) > 1:
        yield _breaks(
            "label", where, f"it requires {len(labels)} features' labels", "one DaemonSet, one feature"
        )


def _check_name(where: str, feature: str, containers: list[Tree]) -> Iterator[Finding]:
    names, wanted = [text(c.get("name")) for c in containers], kube_name(feature)
    if not wanted:
        yield _breaks("container", where, why_not_kube(feature, {}), "deploy another feature")
    elif names.count(wanted) != 1:
        yield _breaks(
            "container", where, f"no container is named {wanted}; found {shown(', '.join(names))}",
            f"name the feature's container {wanted}",
        )  # fmt: skip


def _check_pod(where: str, pod: Any) -> Iterator[Finding]:
    if at(pod, "hostNetwork") is not True:
        yield _breaks("network", where, "it does not use the host's network", "set hostNetwork: true")
    if items(at(pod, "initContainers")):
        yield _advice(
            "init", where, "its init containers run before kubesyncd admits the feature",
            "move that work to the feature's own container, after its entry point",
        )  # fmt: skip
    everything = any(
        at(t, "operator") == "Exists" and not at(t, "key") and not at(t, "effect")
        for t in items(at(pod, "tolerations"))
    )
    if not everything:
        yield _advice(
            "taints",
            where,
            "a taint on the switch evicts the feature",
            "add tolerations: [{operator: Exists}]",
        )
    if at(pod, "priorityClassName") not in ("system-node-critical", "system-cluster-critical"):
        yield _advice(
            "priority",
            where,
            "under disk or memory pressure the kubelet refuses and evicts the feature",
            "set priorityClassName: system-node-critical, where the cluster allows it",
        )
    grace_s = at(pod, "terminationGracePeriodSeconds")
    if isinstance(grace_s, int) and grace_s > GRACE_S_MAX:
        yield _advice(
            "grace", where, f"it may take {grace_s} s to end, kubesyncd waits {GRACE_S_MAX} s",
            f"set terminationGracePeriodSeconds to at most {GRACE_S_MAX}, or kube_stop_grace_s on the switches to more",
        )  # fmt: skip
    if at(pod, "automountServiceAccountToken") is not False:
        yield _advice(
            "token",
            where,
            "it gets a credential for the API server",
            "set automountServiceAccountToken: false",
        )


def _check_gate(where: str, container: Tree) -> Iterator[Finding]:
    command = [text(word) for word in (*items(container.get("command")), *items(container.get("args")))]
    gated = any(word.rpartition("/")[2] in GATES for word in command)
    if container.get("command") and not gated:
        yield _breaks(
            "gate", where, f"{shown(command[0]) if command else 'its command'} starts before kubesyncd admits it",
            f"run it with {HOOKS}/entrypoint {container.get('name')}, or remove it if the image calls start-hook",
        )  # fmt: skip
    after = [text(word) for word in items(at(container, "lifecycle", "postStart", "exec", "command"))]
    if any("container_state" in word or word.rpartition("/")[2] in GATES for word in after):
        yield _breaks(
            "gate", where, "a postStart hook runs in parallel with the first process and cannot delay it",
            f"call {HOOKS}/start-hook in the image's start, or {HOOKS}/entrypoint as its entry point",
        )  # fmt: skip


def _check_end(where: str, container: Tree) -> Iterator[Finding]:
    if not at(container, "lifecycle", "preStop"):
        yield _advice(
            "stop", where, "it does not report that it stops",
            f"add a preStop hook {HOOKS}/pre-stop {container.get('name')}, unless its supervisord runs state-monitor",
        )  # fmt: skip


def _check_image(where: str, container: Tree) -> Iterator[Finding]:
    image = text(container.get("image"))
    name, digest, _ = image.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    if not image:
        yield _breaks(
            "pull", where, f"container {shown(text(container.get('name')))} has no image", "name its image"
        )
    elif not digest and tag in ("", "latest"):
        yield _breaks("pull", where, f"{shown(image)} is a mutable tag", "pin a version or digest")


def _check_mounts(where: str, pod: Any, containers: list[Tree]) -> Iterator[Finding]:
    hosts = {
        text(at(v, "name")): text(at(v, "hostPath", "path")).rstrip("/") or "/"
        for v in items(at(pod, "volumes"))
        if at(v, "hostPath", "path")
    }
    mounts = {
        (hosts.get(text(at(m, "name")), ""), text(at(m, "mountPath")).rstrip("/"))
        for c in containers
        for m in items(c.get("volumeMounts"))
    }
    if (SOCKET_FOLDER, SOCKET_FOLDER) not in mounts:
        yield _breaks(
            "socket",
            where,
            "it cannot reach kubesyncd",
            f"mount the host's {SOCKET_FOLDER} at the same path",
        )
    for path in sorted(set(hosts.values())):
        if path.startswith(f"{SOCKET_FOLDER}/"):
            yield _breaks(
                "socket",
                where,
                f"{shown(path)} is a socket, which a restart of kubesyncd replaces",
                f"mount {SOCKET_FOLDER}",
            )
        if path in ("/", "/run", "/var/run", "/run/kubesyncd", "/var/run/kubesyncd") or path.endswith(
            "docker.sock"
        ):
            yield _breaks(
                "socket",
                where,
                f"{shown(path)} gives the feature control of the whole switch",
                f"mount {SOCKET_FOLDER} and only what it needs",
            )


def _required(pod: Any) -> Mapping[str, Any]:
    """Return the labels a node must have: of the node selector, and of an equivalent affinity."""
    required = dict(at(pod, "nodeSelector") or {}) if isinstance(at(pod, "nodeSelector"), dict) else {}
    affinity = at(pod, "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution")
    terms = items(at(affinity, "nodeSelectorTerms"))
    # Several terms are alternatives: none of them is required.
    for expression in items(at(terms[0], "matchExpressions")) if len(terms) == 1 else ():
        values = items(at(expression, "values"))
        if at(expression, "operator") == "In" and len(values) == 1:
            required.setdefault(text(at(expression, "key")), values[0])
    return {key: value for key, value in required.items() if isinstance(key, str)}


def _breaks(rule: str, where: str, problem: str, fix: str) -> Finding:
    assert rule in RULES, rule
    return Finding(rule, Weight.BREAKS, where, problem, fix)


def _advice(rule: str, where: str, problem: str, fix: str) -> Finding:
    assert rule in RULES, rule
    return Finding(rule, Weight.ADVICE, where, problem, fix)
