"""Represent the images on a switch."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Image names allowed in Docker API paths: registry, folders, name, tag (never a digest, never a `..`).
NAME = re.compile(
    r"(?=.{1,251}\Z)[a-z0-9][a-zA-Z0-9._-]*(?::[0-9]{1,5}(?=/))?(?:/[a-zA-Z0-9][a-zA-Z0-9._-]*)*"
    r"(?::[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127})?"
)


IMAGE_ID = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Image:
    """One image on the switch. `names`: its tags (`registry/docker-snmp:v2`). `repositories`: where it was pulled from.

    `created`: seconds since the epoch. `size`: bytes.
    """

    id: str
    names: tuple[str, ...] = ()
    repositories: tuple[str, ...] = ()
    created: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class Stock:
    """All images, and the IDs of those that any container, running or not, was made from."""

    images: tuple[Image, ...]
    used: frozenset[str] = frozenset()

    def named(self, name: str) -> str:
        """Return the ID of the image with this name; empty where there is none."""
        return next((image.id for image in self.images if name in image.names), "")

    def image(self, image_id: str) -> Image | None:
        """Return the image with this ID, if it exists."""
        return next((image for image in self.images if image.id == image_id), None)
