"""Build the DaemonSet that fits a feature. Pure: manifests are trees of plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kubesyncd.cli.rules.daemonset_lint import HOOKS, SOCKET_FOLDER
from kubesyncd.cli.rules.tree import Tree, at, items, text
from kubesyncd.core.labels import feature_label

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Variables that the image sets itself, or that differ between local and kube.
_LEFT_OUT = frozenset(
    {"PATH", "HOME", "HOSTNAME", "DEBIAN_FRONTEND", "RUNTIME_OWNER", "KUBESYNCD_CONTAINER_SOCK"}
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
    """Build a DaemonSet for `feature` that runs like `local`.

    `image`: instead of the local one. `select`: required labels of the switches, besides the feature's own.
    `command`: for an image whose own start does not call the start hook.
    """
    mounts, volumes = _mounts(local)
    container: Tree = {
        "name": feature,
        "image": image or local.image or f"REGISTRY/docker-{feature}:VERSION",
        "imagePullPolicy": "IfNotPresent",
        **({"command": [f"{HOOKS}/entrypoint", feature, *command]} if command else {}),
        "env": [
            {"name": key, "value": value}
            for key, value in {**local.environment, "RUNTIME_OWNER": "kube"}.items()
        ],
        "lifecycle": {"preStop": {"exec": {"command": [f"{HOOKS}/pre-stop", feature]}}},
        "volumeMounts": mounts,
    }
    security = _security(local)
    if security:
        container["securityContext"] = security
    labels = {"app": feature}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": feature, "namespace": namespace, "labels": labels},
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
    for number, bind in enumerate(bind for bind in local.binds if SOCKET_FOLDER not in bind.split(":")):
        source, _, rest = bind.partition(":")
        target, _, mode = rest.partition(":")
        name = f"host-{number}"
        read_only = {"readOnly": True} if "ro" in mode.split(",") else {}
        mounts.append({"name": name, "mountPath": target or source, **read_only})
        volumes.append({"name": name, "hostPath": {"path": source}})
    for number, target in enumerate(local.tmpfs):
        mounts.append({"name": f"memory-{number}", "mountPath": target})
        volumes.append({"name": f"memory-{number}", "emptyDir": {"medium": "Memory"}})
    return mounts, volumes


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
