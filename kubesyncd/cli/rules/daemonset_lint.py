"""Check a feature's DaemonSet against the mandates. Pure: manifests are trees of plain values.

The rules are the design document's mandates on deployed images, and what the switch's side of them needs: the
label by which a switch says when, the gate before the feature's own process, the one folder that is mounted for
it. `RULES` is the list; each finding names its rule, what is wrong, and the fix.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from kubesyncd.cli.rules.tree import Tree, at, items, text
from kubesyncd.core.labels import feature_label, feature_of
from kubesyncd.core.model import valid_feature_name
from kubesyncd.core.parse import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


SOCKET_FOLDER = "/run/kubesyncd/container"
HOOKS = "/usr/share/kubesyncd/container"
GATES = ("entrypoint", "start-hook")
# The kubelet and then we wait so long for a container to end before it is killed (`kube_stop_grace_s`).
GRACE_S_MAX = 60
DOCUMENTS_MAX = 64


class Weight(StrEnum):
    """How much a finding matters."""

    BREAKS = "breaks"
    """A mandate is broken: the switch cannot keep its promises with this manifest."""
    ADVICE = "advice"


RULES: Mapping[str, str] = {
    "daemonset": "a feature is a DaemonSet: one container per switch, and none elsewhere",
    "label": "the switch's label <feature>_enabled=true must be in the node selector: it says when",
    "container": "the container is named after the feature: the switch knows it by that name",
    "gate": "the image's own process may begin only when the switch lets it",
    "socket": f"{SOCKET_FOLDER} is mounted as a folder, and nothing else of the switch's daemons",
    "network": "features live in the switch's own network",
    "pull": "only images that were qualified: a tag that moves, or none, names no image",
    "taints": "a switch that is not Ready for a moment keeps its features",
    "grace": "the end of a container must not take longer than the switch waits for it",
    "init": "init containers run before the switch has said yes",
    "token": "a feature needs no credential for the master",
    "stop": "a container that is told to end says so",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule that a manifest does not keep; `where`: kind and name."""

    rule: str
    weight: Weight
    where: str
    problem: str
    fix: str


# ---- a manifest ----------------------------------------------------------------------------------


# ---- what is wrong with one ----------------------------------------------------------------------


def check(documents: Sequence[Any]) -> tuple[Finding, ...]:
    """What breaks a rule in these manifests, in their order. Never raises: nonsense is a finding."""
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
                    "daemonset", where, f"a {shown(kind)} is no DaemonSet", "make it a DaemonSet (apps/v1)"
                )
            )
    if not seen and not found:
        found.append(
            _breaks("daemonset", "file", "there is no DaemonSet in it", "give a file with a DaemonSet")
        )
    return tuple(found)


def _check_daemonset(where: str, document: Any) -> Iterator[Finding]:
    pod = at(document, "spec", "template", "spec")
    features = sorted({name for key in _required(pod) if (name := feature_of(key))})
    containers = [c for c in items(at(pod, "containers")) if isinstance(c, dict)]
    yield from _check_label(where, pod, containers)
    if features:
        yield from _check_name(where, features[0], containers)
    yield from _check_pod(where, pod)
    feature = features[0] if features else ""
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
            "label", where, f"no switch can say when: {wanted} is not in its nodeSelector",
            f'add nodeSelector: {{{wanted}: "true"}}',
        )  # fmt: skip
    for key, value in labels.items():
        if value != "true":
            quoted = " (in quotes: a label is a text)" if value is True else ""
            yield _breaks(
                "label", where, f"{key} must be {shown(str(value))}", f'ask for {key}: "true"{quoted}'
            )
    if len(labels) > 1:
        yield _breaks(
            "label", where, f"it waits for {len(labels)} features' labels", "one DaemonSet, one feature"
        )


def _check_name(where: str, feature: str, containers: list[Tree]) -> Iterator[Finding]:
    names = [text(c.get("name")) for c in containers]
    if names.count(feature) != 1:
        yield _breaks(
            "container", where, f"no container is called {feature}, but {shown(', '.join(names))}",
            f"call the feature's container {feature}",
        )  # fmt: skip


def _check_pod(where: str, pod: Any) -> Iterator[Finding]:
    if at(pod, "hostNetwork") is not True:
        yield _breaks("network", where, "it has a network of its own", "set hostNetwork: true")
    if items(at(pod, "initContainers")):
        yield _advice(
            "init", where, "its init containers run before the switch has said yes",
            "let the feature's own container do that work, behind its entry point",
        )  # fmt: skip
    everything = any(
        at(t, "operator") == "Exists" and not at(t, "key") and not at(t, "effect")
        for t in items(at(pod, "tolerations"))
    )
    if not everything:
        yield _advice(
            "taints",
            where,
            "a taint on the switch takes the feature away",
            "add tolerations: [{operator: Exists}]",
        )
    grace_s = at(pod, "terminationGracePeriodSeconds")
    if isinstance(grace_s, int) and grace_s > GRACE_S_MAX:
        yield _advice(
            "grace", where, f"it may take {grace_s} s to end, the switch waits {GRACE_S_MAX} s",
            f"set terminationGracePeriodSeconds to at most {GRACE_S_MAX}, or kube_stop_grace_s on the switches to more",
        )  # fmt: skip
    if at(pod, "automountServiceAccountToken") is not False:
        yield _advice(
            "token", where, "it gets a credential for the master", "set automountServiceAccountToken: false"
        )


def _check_gate(where: str, container: Tree) -> Iterator[Finding]:
    command = [text(word) for word in (*items(container.get("command")), *items(container.get("args")))]
    gated = any(word.rpartition("/")[2] in GATES for word in command)
    if container.get("command") and not gated:
        yield _breaks(
            "gate", where, f"{shown(command[0]) if command else 'its command'} begins whatever the switch says",
            f"let {HOOKS}/entrypoint {container.get('name')} run it, or leave it out where the image calls start-hook",
        )  # fmt: skip
    after = [text(word) for word in items(at(container, "lifecycle", "postStart", "exec", "command"))]
    if any("container_state" in word or word.rpartition("/")[2] in GATES for word in after):
        yield _breaks(
            "gate", where, "a postStart hook runs beside the first process and cannot hold it back",
            f"call {HOOKS}/start-hook in the image's start, or {HOOKS}/entrypoint as its entry point",
        )  # fmt: skip


def _check_end(where: str, container: Tree) -> Iterator[Finding]:
    if not at(container, "lifecycle", "preStop"):
        yield _advice(
            "stop", where, "nothing says that it goes down",
            f"add a preStop hook {HOOKS}/pre-stop {container.get('name')}, unless its supervisord runs state-monitor",
        )  # fmt: skip


def _check_image(where: str, container: Tree) -> Iterator[Finding]:
    image = text(container.get("image"))
    name, at, _ = image.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    if not image:
        yield _breaks(
            "pull", where, f"container {shown(text(container.get('name')))} has no image", "name its image"
        )
    elif not at and tag in ("", "latest"):
        yield _breaks(
            "pull", where, f"{shown(image)} is another image tomorrow", "name a version, best by its digest"
        )


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
            "it cannot speak to the switch",
            f"mount the host's {SOCKET_FOLDER} at the same place",
        )
    for path in sorted(set(hosts.values())):
        if path.startswith(f"{SOCKET_FOLDER}/"):
            yield _breaks(
                "socket",
                where,
                f"{shown(path)} is a socket, and another one after a restart",
                f"mount {SOCKET_FOLDER}",
            )
        if path in ("/", "/run", "/var/run", "/run/kubesyncd", "/var/run/kubesyncd") or path.endswith(
            "docker.sock"
        ):
            yield _breaks(
                "socket",
                where,
                f"{shown(path)} gives the feature the whole switch",
                f"mount {SOCKET_FOLDER} and what it needs",
            )


def _required(pod: Any) -> Mapping[str, Any]:
    """The labels a node must have: of the node selector, and of the affinity that says the same."""
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
