"""Name and label containers as a kubelet does on Docker: dockershim and cri-dockerd alike."""

from __future__ import annotations

# The namespace of the features' pods, as kubesyncd's default has it.
NAMESPACE = "sonic"


def kube_name(feature: str) -> str:
    """The name of a feature's container and DaemonSet: Kubernetes has no `_` there."""
    return feature.replace("_", "-")


def kube_box(
    container: str, pod: str, namespace: str = NAMESPACE, attempt: int = 0, *, uid: str = ""
) -> tuple[str, dict[str, str]]:
    """The name and the labels of a pod's container; `POD` is its sandbox. `uid`: the pod's, else by its name."""
    uid = uid or f"uid-of-{pod}"
    labels = {
        "io.kubernetes.container.name": container,
        "io.kubernetes.pod.name": pod,
        "io.kubernetes.pod.namespace": namespace,
        "io.kubernetes.pod.uid": uid,
        "io.kubernetes.docker.type": "podsandbox" if container == "POD" else "container",
        "annotation.io.kubernetes.container.restartCount": str(attempt),
    }
    return f"k8s_{container}_{pod}_{namespace}_{uid}_{attempt}", labels
