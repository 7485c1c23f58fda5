"""Inspect, tag and remove images, and create local containers from them, through Docker: the Images port.

Does not decide which images to keep. No call is forced: Docker keeps an image that is in use.
"""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiodocker
import aiohttp
from aiodocker.exceptions import DockerError

from kubesyncd.adapters.docker_client import (
    BASE,
    CONNECT_S,
    NOT_FOUND,
    READ_S,
    ask,
    check_container_id,
    check_feature,
)
from kubesyncd.adapters.docker_place import socket_path
from kubesyncd.core.image_model import IMAGE_ID, NAME, Image, Stock
from kubesyncd.core.model import valid_feature_name
from kubesyncd.ports import Missing, Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from aiodocker.containers import DockerContainer

    from kubesyncd.settings import DockerSettings

# Removing an image may take long on a slow disk.
CHANGE_S = 60.0
IMAGES_MAX = 1024
# What a container inherits from its image unless it sets it itself; the new image's own values apply then.
_INHERITED = ("Cmd", "Entrypoint", "WorkingDir", "User", "Healthcheck", "StopSignal", "Shell", "OnBuild")
_INHERITED_MAPS = ("Labels", "Volumes", "ExposedPorts")
_OWN_HOST_NAME = re.compile(r"[0-9a-f]{12}")
# An invalid feature name: a search for containers of features skips it.
_MAKING = ".new"
# Label of a local container that no unit's script created: the kube container it was modelled on.
_MADE_AFTER = "kubesyncd.made-after"
# A kube container's network is its sandbox's.
_JOINED = "container:"
_KUBE_LABELS = ("io.kubernetes.", "annotation.")
# The variables by which start scripts find their owner are set again.
_KUBE_ENVIRONMENT = ("KUBERNETES_", "RUNTIME_OWNER=")
# Settings of a container that a manifest may set, and that the kubelet passes on to Docker.
_KEPT = (
    "CapAdd",
    "CapDrop",
    "Devices",
    "GroupAdd",
    "Memory",
    "Privileged",
    "ReadonlyRootfs",
    "SecurityOpt",
    "Sysctls",
    "Tmpfs",
)
# Mounted into every container of every pod; a local container needs none of it.
_IN_EVERY_POD = ("/etc/hosts", "/dev/termination-log", "/var/run/secrets/kubernetes.io/serviceaccount")
# An empty folder is not mounted: the container's own one serves as well.
_NO_LOSS = "/volumes/kubernetes.io~empty-dir/"


class DockerImages:
    """ports.Images. A connection is used for one call: these calls are rare."""

    def __init__(self, settings: DockerSettings) -> None:
        self._path = socket_path(settings.url)

    async def stock(self) -> Stock:
        """See ports.Images."""
        async with self._docker() as docker:
            listed = await ask(docker.images.list(), READ_S)
            containers = await ask(docker.containers.list(all=1), READ_S)
            used = frozenset(str(container["ImageID"]) for container in containers)
            return Stock(tuple(_image(entry) for entry in listed[:IMAGES_MAX]), used)

    async def exists(self, reference: str) -> bool:
        """See ports.Images."""
        if not NAME.fullmatch(reference) and not IMAGE_ID.fullmatch(reference):
            raise Refused("Docker", f"{reference[:80]!a}: invalid image name")
        try:
            async with self._docker() as docker:
                await ask(docker.images.inspect(reference), READ_S)
        except Missing:
            return False
        return True

    async def made_from(self, feature: str) -> str:
        """See ports.Images."""
        async with self._docker() as docker:
            found = await _inspected(docker, feature)
            return str(found["Config"]["Image"]) if found is not None else ""

    async def tag(self, image_id: str, name: str) -> None:
        """See ports.Images."""
        repository, _, tag = _named(name).rpartition(":")
        async with self._docker() as docker:
            await ask(docker.images.tag(_identified(image_id), repository, tag=tag), CHANGE_S)

    async def remove(self, reference: str) -> None:
        """See ports.Images."""
        known = reference if IMAGE_ID.fullmatch(reference) else _named(reference)
        try:
            async with self._docker() as docker:
                await ask(docker.images.delete(known), CHANGE_S)
        except Missing:
            pass

    async def renew(self, feature: str, name: str) -> bool:
        """See ports.Images. After a power cut in the middle, the next call or `finish` completes it."""
        _named(name)
        async with self._docker() as docker:
            await self._finish(docker, feature)
            old = await _inspected(docker, feature)
            if old is None or old["State"]["Running"]:
                return False
            image = await ask(docker.images.inspect(name), READ_S)
            if image["Id"] == old["Image"]:
                return False
            before = await ask(docker.images.inspect(_identified(old["Image"])), READ_S)
            config = remade(old, before.get("Config") or {}, name)
            new = await ask(docker.containers.create(config, name=f"{feature}{_MAKING}"), CHANGE_S)
            # Not forced: if the old container has just been started, it stays and the new one is removed next time.
            await ask(docker.containers.container(old["Id"]).delete(), CHANGE_S)
            await ask(new.rename(feature), CHANGE_S)
        return True

    async def unfinished(self) -> tuple[str, ...]:
        """See ports.Images."""
        async with self._docker() as docker:
            listed = await ask(docker.containers.list(all=1), READ_S)
            names = (str(name).removeprefix("/") for container in listed for name in container["Names"] or ())
            found = {name.removesuffix(_MAKING) for name in names if name.endswith(_MAKING)}
        return tuple(sorted(name for name in found if valid_feature_name(name)))

    async def finish(self, feature: str) -> bool:
        """See ports.Images."""
        async with self._docker() as docker:
            return await self._finish(docker, feature)

    async def _finish(self, docker: aiodocker.Docker, feature: str) -> bool:
        """Rename the half-created container where the local one is gone, else remove it."""
        left = await _inspected(docker, f"{feature}{_MAKING}")
        if left is None:
            return False
        container, lost = docker.containers.container(left["Id"]), await _inspected(docker, feature) is None
        await ask(container.rename(feature) if lost else container.delete(), CHANGE_S)
        return lost

    async def localize(self, feature: str, container_id: str, name: str) -> tuple[str, ...]:
        """See ports.Images. The sandbox shows what the pod shares with the host; a kube container only joins it."""
        _named(name)
        check_feature(feature)
        check_container_id(container_id)
        async with self._docker() as docker:
            kube = sandbox = await ask(docker.containers.get(container_id), READ_S)
            image = await ask(docker.images.inspect(_identified(kube["Image"])), READ_S)
            network = str(kube["HostConfig"].get("NetworkMode") or "")
            if network.startswith(_JOINED):
                sandbox = await ask(docker.containers.get(network.removeprefix(_JOINED)), READ_S)
            config, lacking = localized(kube, sandbox, image.get("Config") or {}, name)
            config["Labels"][_MADE_AFTER] = container_id
            await ask(docker.containers.create(config, name=feature), CHANGE_S)
        return lacking

    async def unlocalize(self, feature: str) -> bool:
        """See ports.Images."""
        async with self._docker() as docker:
            local = await _inspected(docker, feature)
            if local is None or _MADE_AFTER not in (local["Config"].get("Labels") or {}):
                return False
            await ask(docker.containers.container(local["Id"]).delete(), CHANGE_S)
        return True

    @asynccontextmanager
    async def _docker(self) -> AsyncIterator[aiodocker.Docker]:
        """Open a connection; translate its errors to port errors."""
        connector = aiohttp.UnixConnector(self._path)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
        docker = aiodocker.Docker(BASE, connector=connector, timeout=timeout)
        try:
            yield docker
        except DockerError as error:
            raise (Missing if error.status == NOT_FOUND else Refused)("Docker", error.message) from error
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise Unavailable("Docker", f"an unreadable answer: {error!r}") from error
        finally:
            await docker.close()
            await connector.close()


def remade(old: Mapping[str, Any] | DockerContainer, image: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the `docker create` configuration that makes container `old` (an inspect) again from the image `name`.

    `image` is the old image's own config: values that the container had from there come from the new image.
    """
    config = dict(old["Config"])
    for key in _INHERITED:
        if config.get(key) == image.get(key):
            config.pop(key, None)
    for key in _INHERITED_MAPS:
        inherited = image.get(key) or {}
        config[key] = {k: v for k, v in (config.get(key) or {}).items() if (k, v) not in inherited.items()}
    inherited_env = set(image.get("Env") or ())
    config["Env"] = [pair for pair in config.get("Env") or () if pair not in inherited_env]
    host = dict(old["HostConfig"])
    network = str(host.get("NetworkMode") or "")
    if network.startswith(("host", "container:")) or _OWN_HOST_NAME.fullmatch(config.get("Hostname") or ""):
        config.pop("Hostname", None)
        config.pop("Domainname", None)
    return {**config, "Image": name, "HostConfig": host}


def localized(
    kube: Mapping[str, Any] | DockerContainer,
    sandbox: Mapping[str, Any] | DockerContainer,
    image: Mapping[str, Any],
    name: str,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the `docker create` configuration of a local container modelled on `kube` (an inspect), from image `name`.

    Also returns the mount points of volumes that only its pod has. What the kubelet controls (cgroups, scores) is left
    out.
    """
    config = remade(kube, image, name)
    labels = kube["Config"].get("Labels") or {}
    folder = f"/pods/{labels.get('io.kubernetes.pod.uid', '')}/"
    config["Labels"] = {k: v for k, v in config["Labels"].items() if not k.startswith(_KUBE_LABELS)}
    own = [pair for pair in config["Env"] if not pair.startswith(_KUBE_ENVIRONMENT)]
    config["Env"] = [*own, "RUNTIME_OWNER=local"]
    before, shared = config["HostConfig"], sandbox["HostConfig"]
    host = {key: before[key] for key in _KEPT if before.get(key)}
    binds = [str(bind) for bind in before.get("Binds") or ()]
    host["Binds"] = [bind for bind in binds if folder not in bind.partition(":")[0]]
    host["NetworkMode"] = str(shared.get("NetworkMode") or "default")
    for key in ("PidMode", "IpcMode", "UTSMode"):
        if "host" in (before.get(key), shared.get(key)):
            host[key] = "host"
    pods = (bind for bind in binds if folder in bind.partition(":")[0] and _NO_LOSS not in bind)
    targets = (bind.split(":")[1] for bind in pods)
    lacking = tuple(sorted(target for target in targets if target not in _IN_EVERY_POD))
    return {**config, "HostConfig": host}, lacking


def _image(entry: Mapping[str, Any]) -> Image:
    digests = entry.get("RepoDigests") or ()
    repositories = (str(d).partition("@")[0] for d in digests)
    return Image(
        id=str(entry["Id"]),
        names=tuple(str(n) for n in entry.get("RepoTags") or () if n != "<none>:<none>"),
        repositories=tuple(r for r in dict.fromkeys(repositories) if r != "<none>"),
        created=int(entry.get("Created") or 0),
        size=int(entry.get("Size") or 0),
    )


async def _inspected(docker: aiodocker.Docker, name: str) -> DockerContainer | None:
    """Return the container with exactly this name; None where there is none."""
    check_feature(name.removesuffix(_MAKING))
    try:
        found = await ask(docker.containers.get(name), READ_S)
    except DockerError as error:
        if error.status == NOT_FOUND:
            return None
        raise
    # Docker also finds containers by the beginning of an ID.
    return found if found["Name"] == f"/{name}" else None


def _named(name: str) -> str:
    if not NAME.fullmatch(name) or ":" not in name.rpartition("/")[2]:
        raise Refused("Docker", f"{name[:70]!a}: invalid image name with a tag")
    return name


def _identified(image_id: str) -> str:
    if not IMAGE_ID.fullmatch(image_id):
        raise Refused("Docker", f"{image_id[:80]!a}: invalid image ID")
    return image_id
