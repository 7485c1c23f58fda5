"""Build the DaemonSet that fits a feature. Pure: manifests are trees of plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kubesyncd.cli.rules.daemonset_lint import HOOKS, SOCKET_FOLDER
from kubesyncd.cli.rules.kube_syntax import is_env_name, is_host_path, is_image, is_mount_path
from kubesyncd.cli.rules.tree import Tree, at, items, text
from kubesyncd.core.kube_names import kube_name
from kubesyncd.core.labels import feature_label

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Variables that the image sets itself, or that differ between local and kube. The version of the local image, given to
# another one, would have SONiC's start-up script take it for the local one, and wait for ever.
_LEFT_OUT = frozenset(
    {
        "PATH",
        "HOME",
        "HOSTNAME",
        "DEBIAN_FRONTEND",
        "IMAGE_VERSION",
        "RUNTIME_OWNER",
        "KUBESYNCD_CONTAINER_SOCK",
    }
)
# SONiC's own check of a container's start, which ends with the image's own one; an image may have neither.
READY = (
    "for check in /usr/bin/readiness_probe.sh /usr/bin/readiness_probe_hook; do "
    "[ ! -x $check ] || exec $check; done"
)


@dataclass(frozen=True, slots=True)
class Local:
    """How the switch itself runs the feature, as far as a manifest can express it. `binds`: source:target[:mode]."""

    image: str = ""
    binds: tuple[str, ...] = ()
    privileged: bool = False
    capabilities: tuple[str, ...] = ()
    tmpfs: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def daemonset(
    feature: str,
    local: Local,
    *,
    image: str = "",
    namespace: str = "sonic",
    select: Mapping[str, str] | None = None,
    command: Sequence[str] = (),
) -> Tree:
    """Build a DaemonSet for `feature` that runs like `local`, as far as Kubernetes allows (see `left_out`).

    The feature has a name in Kubernetes, in which `_` is `-`.
    `image`: instead of the local one. `select`: required labels of the switches, besides the feature's own.
    `command`: for an image whose own start does not call the start hook.
    """
    name = kube_name(feature)
    mounts, volumes = _mounts(local)
    container: Tree = {
        "name": name,
        "image": image or _image_of(local) or f"REGISTRY/docker-{name}:VERSION",
        "imagePullPolicy": "IfNotPresent",
        **({"command": [f"{HOOKS}/entrypoint", feature, *map(_literal, command)]} if command else {}),
        "env": [
            {"name": key, "value": _literal(value)}
            for key, value in {**local.environment, "RUNTIME_OWNER": "kube"}.items()
            if is_env_name(key)
        ],
        "readinessProbe": {
            "exec": {"command": ["/bin/sh", "-c", READY]},
            "periodSeconds": 10,
            "timeoutSeconds": 10,
        },
        "lifecycle": {"preStop": {"exec": {"command": [f"{HOOKS}/pre-stop", feature]}}},
        "volumeMounts": mounts,
    }
    security = _security(local)
    if security:
        container["securityContext"] = security
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "nodeSelector": {feature_label(feature): "true", **(select or {})},
                    "hostNetwork": True,
                    "dnsPolicy": "Default",
                    "automountServiceAccountToken": False,
                    # Under disk or memory pressure, the kubelet refuses and evicts all other pods. Every namespace may
                    # use it, unless the cluster restricts the class by a ResourceQuota.
                    "priorityClassName": "system-node-critical",
                    "tolerations": [{"operator": "Exists"}],
                    "terminationGracePeriodSeconds": 30,
                    "containers": [container],
                    "volumes": volumes,
                },
            },
        },
    }


def _mounts(local: Local) -> tuple[list[Tree], list[Tree]]:
    """Build volume mounts and volumes: those of the local container, and kubesyncd's socket folder."""
    mounts: list[Tree] = [{"name": "kubesyncd", "mountPath": SOCKET_FOLDER}]
    volumes: list[Tree] = [{"name": "kubesyncd", "hostPath": {"path": SOCKET_FOLDER, "type": "Directory"}}]
    binds = {target: (source, mode) for source, target, mode in map(_bind, local.binds)}
    binds = {target: bind for target, bind in binds.items() if _mountable(bind[0], target)}
    for number, (target, (source, mode)) in enumerate(binds.items()):
        name = f"host-{number}"
        read_only = {"readOnly": True} if "ro" in mode.split(",") else {}
        mounts.append({"name": name, "mountPath": target, **read_only})
        volumes.append({"name": name, "hostPath": {"path": source}})
    memory = [path for path in local.tmpfs if path not in (*binds, SOCKET_FOLDER) and is_mount_path(path)]
    for number, target in enumerate(memory):
        mounts.append({"name": f"memory-{number}", "mountPath": target})
        volumes.append({"name": f"memory-{number}", "emptyDir": {"medium": "Memory"}})
    return mounts, volumes


def _image_of(local: Local) -> str:
    """Return the local image's name; empty for one that was given by its ID, which no registry knows."""
    return local.image if is_image(local.image) and not local.image.startswith("sha256:") else ""


def _bind(bind: str) -> tuple[str, str, str]:
    """Return source, target and mode of a bind mount."""
    source, _, rest = bind.partition(":")
    target, _, mode = rest.partition(":")
    return source, target or source, mode


def _mountable(source: str, target: str) -> bool:
    return SOCKET_FOLDER not in (source, target) and is_host_path(source) and is_mount_path(target)


def _literal(text: str) -> str:
    """Escape what the kubelet would replace by a variable's value: $(NAME)."""
    return text.replace("$(", "$$(")


def left_out(local: Local) -> tuple[str, ...]:
    """Return what of the local container a manifest cannot express: variables and mounts."""
    variables = [key for key in local.environment if not is_env_name(key)]
    mounts = [
        bind
        for bind in local.binds
        if SOCKET_FOLDER not in _bind(bind)[:2] and not _mountable(*_bind(bind)[:2])
    ]
    return (*variables, *mounts)


def _security(local: Local) -> Tree:
    if local.privileged:
        return {"privileged": True}
    return {"capabilities": {"add": list(local.capabilities)}} if local.capabilities else {}


def local_of(inspected: Mapping[str, Any]) -> Local:
    """Derive how a container runs from the output of `docker inspect`."""
    host = at(dict(inspected), "HostConfig")
    environment = dict(
        pair.partition("=")[::2]
        for pair in map(text, items(at(dict(inspected), "Config", "Env")))
        if "=" in pair
    )
    return Local(
        image=text(at(dict(inspected), "Config", "Image")),
        binds=tuple(map(text, items(at(host, "Binds")))),
        privileged=at(host, "Privileged") is True,
        capabilities=tuple(text(name).removeprefix("CAP_") for name in items(at(host, "CapAdd"))),
        tmpfs=tuple(sorted(at(host, "Tmpfs") or {})),
        environment={key: value for key, value in sorted(environment.items()) if key not in _LEFT_OUT},
    )
