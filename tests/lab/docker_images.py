"""Keep the images of the lab's Docker engine, and answer the requests about them."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.lab.docker_http import answer, flag
from tests.lab.docker_words import ApiError, Image, image_tag, iso

if TYPE_CHECKING:
    from tests.lab.docker_containers import LabContainers
    from tests.lab.docker_http import Routes
    from tests.lab.docker_journal import Journal


class LabImages:
    """The images of one engine."""

    def __init__(self, journal: Journal) -> None:
        self.all: list[Image] = []
        self._journal = journal

    def add(self, *tags: str, **config: Any) -> Image:
        """Have an image with these names; `config` in Docker's words (Cmd, Env, Labels …)."""
        image = Image(f"sha256:{secrets.token_hex(32)}", [*tags], time.time_ns(), config)
        self.all.append(image)
        return image

    def find(self, name: str) -> Image:
        """By its name, or by 12 or more digits of its ID. Raises ApiError."""
        tag = image_tag(name)
        short = name.removeprefix("sha256:")
        for image in self.all:
            if tag in image.tags or (len(short) >= 12 and image.id[7:].startswith(short)):
                return image
        raise ApiError(404, f"No such image: {tag}")

    def name(self, image: Image, tag: str) -> None:
        """A name means one image: the one that had it before loses it."""
        for other in self.all:
            if tag in other.tags:
                other.tags.remove(tag)
        image.tags.append(tag)
        self._journal.image("tag", image.id, tag)

    def untag(self, image: Image, tag: str) -> None:
        """Take one of several names away."""
        image.tags.remove(tag)
        self._journal.image("untag", image.id, image.id)

    def remove(self, image: Image) -> None:
        """Remove an image and all its names."""
        self.all.remove(image)
        for action in (*("untag" for _ in image.tags), "delete"):
            self._journal.image(action, image.id, image.id)


class ImageRequests:
    """What clients ask and tell about images."""

    def __init__(self, images: LabImages, containers: LabContainers) -> None:
        self._images = images
        self._containers = containers

    def routes(self) -> Routes:
        """Method, path and handler of each."""
        image = "/images/{name:.+}"
        return [
            ("POST", "/commit", self._commit),
            ("GET", "/images/json", self._list),
            ("GET", image + "/json", self._inspect),
            ("POST", image + "/tag", self._tag),
            ("DELETE", image, self._remove),
        ]

    async def _list(self, _: web.Request) -> web.Response:
        return answer(
            [
                {
                    "Id": i.id,
                    "RepoTags": i.tags or None,
                    "RepoDigests": None,
                    "ParentId": "",
                    "Created": i.created // 10**9,
                    "Labels": i.config.get("Labels"),
                    "Size": 0,
                    "VirtualSize": 0,
                    "SharedSize": -1,
                    "Containers": -1,
                }
                for i in self._images.all
            ]
        )

    async def _commit(self, request: web.Request) -> web.Response:
        """An image as the container is, but for what the caller says instead."""
        boxes = self._containers.boxes.values()
        box = next((b for b in boxes if request.query["container"] in (b.id, b.name)), None)
        if box is None:
            raise ApiError(404, f"No such container: {request.query['container']}")
        said = await request.json() if request.can_read_body else None
        image = self._images.add(**{**box.config, **(said or {})})
        self._images.name(image, _tag_of(request))
        return answer({"Id": image.id}, status=201)

    async def _inspect(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        try:
            image = self._images.find(name)
        except ApiError as error:
            raise ApiError(404, f"no such image: {name}: {error.message}") from None
        return answer(
            {
                "Id": image.id,
                "RepoTags": image.tags,
                "RepoDigests": [],
                "Created": iso(image.created),
                "Config": image.config,
                "Architecture": "amd64",
                "Os": "linux",
                "Size": 0,
            }
        )

    async def _tag(self, request: web.Request) -> web.Response:
        self._images.name(self._images.find(request.match_info["name"]), _tag_of(request))
        return web.Response(status=201)

    async def _remove(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        image = self._images.find(name)
        tag = image_tag(name)
        if tag in image.tags and len(image.tags) > 1:
            self._images.untag(image, tag)
            return answer([{"Untagged": tag}])
        user = next((b for b in self._containers.boxes.values() if b.image_id == image.id), None)
        if user is not None and not flag(request, "force"):
            short = image.id.removeprefix("sha256:")[:12]
            raise ApiError(
                409,
                f'conflict: unable to remove repository reference "{name}" (must force) - '
                f"container {user.id[:12]} is using its referenced image {short}",
            )
        self._images.remove(image)
        return answer([*({"Untagged": t} for t in image.tags), {"Deleted": image.id}])


def _tag_of(request: web.Request) -> str:
    return image_tag(f"{request.query['repo']}:{request.query.get('tag') or 'latest'}")
