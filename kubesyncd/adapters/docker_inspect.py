"""Read a container's `docker inspect`, and decide whose container it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kubesyncd.core.model import Container, Owner, image_version, valid_feature_name
from kubesyncd.core.text import one_line
from kubesyncd.core.verbs import GRACE_S_MAX
from kubesyncd.ports import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from aiodocker.containers import DockerContainer

KUBE_NAME = "io.kubernetes.container.name"
KUBE_POD = "io.kubernetes.pod.name"
KUBE_NAMESPACE = "io.kubernetes.pod.namespace"
KUBE_TYPE = "io.kubernetes.docker.type"
ORDINARY = "container"
# As dockershim and cri-dockerd name containers. A random suffix follows where the name was taken.
_KUBE_FORM = re.compile(
    r"k8s_(?P<container>[^_]+)_(?P<pod>[^_]+)_(?P<namespace>[^_]+)_(?P<uid>[^_]+)_[0-9]+(?:_[^_]+)?"
)
_KUBE_LABELS = {
    "container": KUBE_NAME,
    "pod": KUBE_POD,
    "namespace": KUBE_NAMESPACE,
    "uid": "io.kubernetes.pod.uid",
}
# Docker's states of a container that runs; the others are created, exited, removing and dead.
LIVE = ("running", "restarting", "paused")
HEALTH_LENGTH_MAX = 160
POLICY_LENGTH_MAX = 40
# Docker's words for no restart policy.
NO_POLICY = ("", "no")
NEVER = "0001-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Described:
    """The used part of one `docker inspect`. `started` is "" for a container that never ran."""

    id: str
    name: str
    labels: Mapping[str, str]
    running: bool
    exit_code: int
    started: str
    image: str
    image_id: str
    paused: bool
    restarting: bool
    restart_policy: str
    oom_killed: bool
    unhealthy: str
    stop_timeout_s: int | None
    version: str


@dataclass(frozen=True, slots=True)
class ListEntry:
    """The used part of one entry of Docker's list. `state`: one of LIVE, or another word."""

    id: str
    name: str
    labels: Mapping[str, str]
    state: str
    image: str


@dataclass(frozen=True, slots=True)
class Foreign:
    """A container that is never an owner, never stopped, killed or counted. `why`: a sentence for operators."""

    why: str


def whose(
    name: str,
    labels: Mapping[str, str],
    namespaces: Collection[str],
    feature_of: Callable[[str], str],
) -> tuple[str, Owner] | Foreign:
    """Return the feature and owner of the container that Docker calls `name`; Foreign where it belongs to neither.

    A local container is named like its feature. A kube container has a name of the kubelet's form, and labels that say
    the same: labels alone may come from an image that was committed from a kube container. `namespaces`: those whose
    pods run features. `feature_of`: the feature of a kube container's name; empty: none.
    """
    form = _KUBE_FORM.fullmatch(name.removeprefix("/"))
    if form is None:
        feature = name.removeprefix("/")
        return (
            (feature, Owner.LOCAL)
            if valid_feature_name(feature)
            else Foreign("its name is not that of a feature")
        )
    if any(labels.get(label) != form[part] for part, label in _KUBE_LABELS.items()):
        return Foreign("its name is of the kubelet's form and its labels are not the kubelet's")
    if labels.get(KUBE_TYPE) != ORDINARY:
        return Foreign("it is a pod's sandbox")
    pod = f"{form['namespace']}/{form['pod']}"
    if form["namespace"] not in namespaces:
        return Foreign(
            f"its pod {pod} is in a namespace whose pods run no feature; "
            f"deploy it in one of {', '.join(namespaces)}, or add {form['namespace']} to [kube] namespaces"
        )
    feature = feature_of(form["container"])
    if not feature:
        return Foreign(
            f"container {form['container']} of pod {pod} is not that of a feature; "
            "if it runs one, call it like the feature in its manifest"
        )
    return (feature, Owner.KUBE)


def describe(found: DockerContainer) -> Described:
    """Decode one `docker inspect`. Raises Unavailable where it is invalid."""
    try:
        state, config = found["State"], found["Config"]
        restarting = bool(state.get("Restarting"))
        policy = str((found["HostConfig"].get("RestartPolicy") or {}).get("Name") or "")
        return Described(
            id=str(found["Id"]),
            name=str(found["Name"]),
            labels={str(k): str(v) for k, v in (config["Labels"] or {}).items()},
            running=bool(state["Running"]) or restarting,
            exit_code=int(state["ExitCode"]),
            started=_instant(str(state["StartedAt"])),
            image=str(config["Image"]),
            image_id=str(found["Image"]),
            paused=bool(state.get("Paused")),
            restarting=restarting,
            restart_policy="" if policy in NO_POLICY else one_line(policy, POLICY_LENGTH_MAX),
            oom_killed=bool(state.get("OOMKilled")),
            unhealthy=_unhealthy(state.get("Health") or {}),
            stop_timeout_s=_stop_timeout(config.get("StopTimeout")),
            version=_version(config.get("Env") or ()),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise Unavailable("Docker", f"an unreadable container: {error!r}") from error


def container_of(found: Described, owner: Owner) -> Container:
    """Return the container as the core knows it; a container that never ran has no exit code."""
    ended = bool(found.started) and not found.running
    return Container(
        id=found.id,
        owner=owner,
        running=found.running,
        exit_code=found.exit_code if ended else None,
        started=found.started,
        image=found.image,
        image_id=found.image_id,
        paused=found.paused,
        restarting=found.restarting,
        restart_policy=found.restart_policy,
        oom_killed=found.oom_killed,
        unhealthy=found.unhealthy if found.running else "",
        stop_timeout_s=found.stop_timeout_s,
        pod=_pod_of(found.name),
        version=found.version,
    )


def listed(entry: DockerContainer) -> ListEntry:
    """Decode one entry of Docker's list. Raises Unavailable where it is invalid."""
    try:
        # A legacy link adds names with a second slash.
        name = next(str(name) for name in entry["Names"] if str(name).count("/") == 1)
        return ListEntry(
            id=str(entry["Id"]),
            name=name,
            labels={str(k): str(v) for k, v in (entry["Labels"] or {}).items()},
            state=str(entry["State"]),
            image=str(entry["Image"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise Unavailable("Docker", f"an unreadable list: {error!r}") from error


def unread(entry: ListEntry, owner: Owner, why: str) -> Container:
    """Return a container that Docker lists and does not describe."""
    return Container(
        id=entry.id,
        owner=owner,
        running=entry.state in LIVE,
        image=entry.image,
        paused=entry.state == "paused",
        restarting=entry.state == "restarting",
        unread=why,
        pod=_pod_of(entry.name),
    )


def _unhealthy(health: Mapping[str, Any]) -> str:
    """Return what the failing HEALTHCHECK printed last; empty where it passes, or has not failed often enough."""
    if health.get("Status") != "unhealthy":
        return ""
    log = health.get("Log") or [{}]
    return one_line(str(log[-1].get("Output") or ""), HEALTH_LENGTH_MAX) or "without output"


def _stop_timeout(stored: Any) -> int | None:
    """Return a container's own grace in seconds; a negative one means without limit."""
    if stored is None:
        return None
    return int(stored) if 0 <= int(stored) <= GRACE_S_MAX else GRACE_S_MAX


def _version(env: Iterable[object]) -> str:
    """Return the version that SONiC's builds put into an image's environment."""
    given = (str(entry).partition("=") for entry in env)
    return next((image_version(value) for name, _, value in given if name == "IMAGE_VERSION"), "")


def _pod_of(name: str) -> str:
    """Return namespace and name of the pod of a container that Docker calls `name`; empty where it has none."""
    form = _KUBE_FORM.fullmatch(name.removeprefix("/"))
    return f"{form['namespace']}/{form['pod']}" if form is not None else ""


def _instant(text: str) -> str:
    """Return Docker's time with all nine decimals (it trims zeros), so that text sorts by age; "" for never."""
    if not text or text == NEVER:
        return ""
    seconds, _, decimals = text.removesuffix("Z").partition(".")
    return f"{seconds}.{decimals:0<9}Z"
