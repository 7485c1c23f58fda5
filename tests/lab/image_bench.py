"""Make images and a local container on an engine, and hold the Images port and the image store over the same engine."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import structlog

from kubesyncd.adapters.docker_images import DockerImages
from kubesyncd.images.store import ImageStore
from kubesyncd.runtime.state_files import DiskFile, StateFile
from kubesyncd.settings import DockerSettings
from tests.lab.docker_client import DockerClient

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.engines import Docker

LOCAL = "docker-snmp:latest"
PREVIOUS = "docker-snmp:kubesyncd-previous"
REPOSITORY = "registry.example:5000/sonic/docker-snmp"


class ImageBench:
    """The port, and the same engine from the other side; `file` is the store's, in `folder`."""

    def __init__(self, engine: Docker, folder: Path) -> None:
        self.port = DockerImages(DockerSettings(url=engine.url))
        self.docker = DockerClient(engine.socket)
        self.file = StateFile(folder / "images.json")

    def store(self, port: Any = None, *, listed: str = "", **options: Any) -> ImageStore:
        """Return the store of a daemon that has just started; `listed`: SONiC's name of the feature's image."""
        log = structlog.get_logger()
        file = options.pop("file", self.file)
        store = ImageStore(port or self.port, DiskFile(file), lambda _: listed, log, Random(1), **options)
        store.load()
        return store

    def image(self, name: str, **config: object) -> str:
        """Make an image of this name, unlike any other; return its ID."""
        body = {"Image": "busybox:lab", "Cmd": ["/bin/sleep", "9"], "Labels": {"for": name}}
        container = self.docker.create("base.base", body)
        image_id = self.docker.commit(container, name, **config)
        self.docker.remove(container)
        return image_id

    def create(self, name: str = "snmp", image: str = LOCAL, **config: object) -> str:
        """Make a container that has not run yet; return its ID."""
        return self.docker.create(name, {"Image": image, "HostConfig": {"NetworkMode": "none"}, **config})

    def boot(self) -> str:
        """Make the image that the switch came with, and the local container; return the image's ID."""
        image_id = self.image(LOCAL)
        self.create()
        return image_id

    async def tags(self) -> tuple[str, str]:
        """Return the IDs of the images that have the local name and the previous one."""
        stock = await self.port.stock()
        return stock.named(LOCAL), stock.named(PREVIOUS)

    async def finished(self) -> bool:
        """Return whether every container is complete."""
        return not await self.port.unfinished()

    @property
    def container_image(self) -> str:
        """The ID of the image that the local container was made from."""
        return str(self.docker.inspect("snmp")["Image"])

    def clear(self) -> None:
        """Remove all containers, and all images but busybox."""
        for container in self.docker.list():
            self.docker.remove(container["Id"])
        for image in self.docker.ask("GET", "/images/json"):
            names = [name for name in image["RepoTags"] or () if name != "<none>:<none>"]
            for name in names or [image["Id"]]:
                if not name.startswith("busybox:"):
                    self.docker.remove_image(name)
