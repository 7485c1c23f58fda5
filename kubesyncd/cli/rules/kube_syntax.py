"""Check the fields of a DaemonSet against Kubernetes' own rules. Pure: manifests are trees of plain values.

These are the checks of an API server that most often refuse a manifest, and the kubelet's check of an image's name.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from kubesyncd.cli.rules.tree import Tree, at, items, text
from kubesyncd.core.labels import feature_of, is_part, is_subdomain
from kubesyncd.core.model import DNS_LABEL
from kubesyncd.core.text import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ANNOTATIONS_BYTES_MAX = 256 * 1024
NAME_MAX = 255

# Newer API servers allow nearly all characters; 1.22 allows these.
_ENV_NAME = re.compile(r"[A-Za-z_.-][A-Za-z0-9_.-]*")
_DOMAIN = (
    r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*(?::[0-9]+)?"
)
_PATH = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?:{_DOMAIN}/)?{_PATH}(?:/{_PATH})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?"
    r"(?:@[A-Za-z][A-Za-z0-9]*(?:[+._-][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?"
)
_DNS_RULE = "use lower-case letters, digits and -, with a letter or digit at both ends"


def is_dns_label(name: str) -> bool:
    """Return whether `name` may be the name of a container, a volume or a namespace."""
    return DNS_LABEL.fullmatch(name) is not None


def is_qualified(key: str) -> bool:
    """Return whether `key` may be the key of a label or an annotation."""
    prefix, slash, name = key.rpartition("/")
    return (not slash or is_subdomain(prefix)) and is_part(name)


def is_label_value(value: Any) -> bool:
    """Return whether `value` may be a label's value."""
    return isinstance(value, str) and (not value or is_part(value))


def is_env_name(name: str) -> bool:
    """Return whether `name` may be the name of an environment variable, for every version of the API server."""
    return name not in (".", "..") and not name.startswith("..") and _ENV_NAME.fullmatch(name) is not None


def is_host_path(path: str) -> bool:
    """Return whether `path` may be a folder or file of the switch that a pod mounts."""
    return path.startswith("/") and ".." not in path.split("/")


def is_mount_path(path: str) -> bool:
    """Return whether `path` may be a place in a container at which something is mounted."""
    return path.startswith("/") and ":" not in path


def is_image(reference: str) -> bool:
    """Return whether the kubelet takes `reference` as an image's name."""
    name = reference.partition("@")[0]
    return len(name) <= NAME_MAX and _IMAGE.fullmatch(reference) is not None


def invalid_fields(document: Any) -> Iterator[tuple[str, str]]:
    """Yield what an API server or the kubelet refuses in this DaemonSet, and the fix."""
    meta, spec = at(document, "metadata"), at(document, "spec")
    template = at(spec, "template")
    yield from _names("its name", [at(meta, "name")], is_subdomain)
    if at(meta, "namespace") is not None:
        yield from _names("its namespace", [at(meta, "namespace")], is_dns_label)
    for holder, where in ((meta, "its"), (at(template, "metadata"), "its template's")):
        yield from _labels(f"{where} label", at(holder, "labels"))
        yield from _annotations(where, at(holder, "annotations"))
    chosen = at(template, "spec", "nodeSelector")
    # The features' own labels have a rule of their own.
    others = {k: v for k, v in chosen.items() if not feature_of(str(k))} if isinstance(chosen, dict) else {}
    yield from _labels("its nodeSelector", others)
    yield from _selector(at(spec, "selector", "matchLabels"), at(template, "metadata", "labels"))
    yield from _pod(at(template, "spec"))


def _pod(pod: Any) -> Iterator[tuple[str, str]]:
    volumes = [text(at(v, "name")) for v in items(at(pod, "volumes"))]
    yield from _names("volume", volumes, is_dns_label)
    for volume in items(at(pod, "volumes")):
        path = at(volume, "hostPath", "path")
        if path is not None and not is_host_path(text(path)):
            yield f"invalid hostPath {shown(str(path))}", "give an absolute path without .."
    everything = [c for kind in ("initContainers", "containers") for c in items(at(pod, kind))]
    containers = [c for c in everything if isinstance(c, dict)]
    yield from _names("container", [text(c.get("name")) for c in containers], is_dns_label)
    for container in containers:
        yield from _container(container, volumes)


def _container(container: Tree, volumes: list[str]) -> Iterator[tuple[str, str]]:
    image = text(container.get("image"))
    if image and not is_image(image):
        yield (
            f"invalid image {shown(image)}",
            "write it as REGISTRY/name:VERSION or REGISTRY/name@sha256:DIGEST",
        )
    for variable in items(container.get("env")):
        name = text(at(variable, "name"))
        if not is_env_name(name):
            yield f"invalid environment variable {shown(name)}", "use letters, digits, _, - and ."
    mounts = [(text(at(m, "name")), text(at(m, "mountPath"))) for m in items(container.get("volumeMounts"))]
    for volume, path in mounts:
        if volume not in volumes:
            yield f"it mounts {shown(volume)}, which is not among its volumes", "add the volume"
        if not path or ":" in path:
            yield f"invalid mountPath {shown(path)}", "give a path without a colon"
    yield from _twice("mountPath", [path for _, path in mounts])


def _names(what: str, names: Iterable[Any], valid: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    known = [text(name) for name in names]
    for name in known:
        if not valid(name):
            dashed = name.lower().replace("_", "-")
            fix = f"name it {dashed}" if valid(dashed) else _DNS_RULE
            yield f"{what} {shown(name)} is invalid in Kubernetes", fix
    yield from _twice(what, known)


def _twice(what: str, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    for name, count in Counter(names).items():
        if count > 1:
            yield f"{what} {shown(name)} is there {count} times", "keep one of them"


def _labels(what: str, labels: Any) -> Iterator[tuple[str, str]]:
    for key, value in labels.items() if isinstance(labels, dict) else ():
        if not is_qualified(str(key)):
            yield f"{what} has an invalid key {shown(str(key))}", "use at most 63 letters, digits, -, _ and ."
        elif not is_label_value(value):
            yield (
                f"{what} {shown(str(key))} has an invalid value {shown(str(value))}",
                "use a string of at most 63 letters, digits, -, _ and .",
            )


def _annotations(where: str, annotations: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(annotations, dict):
        return
    for key in annotations:
        if not is_qualified(str(key).lower()):
            yield (
                f"{where} annotation has an invalid key {shown(str(key))}",
                "use letters, digits, -, _ and .",
            )
    size = sum(len(str(part).encode(errors="replace")) for pair in annotations.items() for part in pair)
    if size > ANNOTATIONS_BYTES_MAX:
        yield f"{where} annotations have {size} bytes", f"keep at most {ANNOTATIONS_BYTES_MAX}"


def _selector(wanted: Any, labels: Any) -> Iterator[tuple[str, str]]:
    given = labels if isinstance(labels, dict) else {}
    missing = [k for k, v in wanted.items() if given.get(k) != v] if isinstance(wanted, dict) else []
    if missing:
        yield (
            f"its selector asks for {', '.join(map(str, missing))}, which its template's labels do not have",
            "give selector and template the same labels",
        )
