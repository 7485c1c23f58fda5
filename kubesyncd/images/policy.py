"""Decide which image a feature starts from locally, which one is kept for a rollback, and which may go. Pure.

Knows no Docker, no clock, no coroutine. Tags store the state: the *local name* (what the unit's script starts from,
`docker-snmp:latest`) names the good image, and `docker-snmp:kubesyncd-previous` the one before it. An
`ImageRecord` also holds which images kubesyncd has run here: only those are ever removed. Every function returns only
the next step, so that after a power cut between two steps the next pass continues. Seed: section Image management.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from kubesyncd.core.image_model import IMAGE_ID, NAME, Image, Stock

PREVIOUS_TAG = "kubesyncd-previous"
# One image per update, for some years; the oldest are forgotten first, and are then left alone.
KNOWN_MAX = 32
# How docker create may name an image by its ID.
_ID = re.compile(r"(?:sha256:)?[0-9a-f]{12,64}")


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """The stored record of one feature's images. `local`: the local name. `known`: IDs that ran here, oldest first.

    `failed`: the image that was rolled back, `failed_newest` and `failure` as in its record.
    """

    local: str = ""
    known: tuple[str, ...] = ()
    failed: str = ""
    failed_newest: str = ""
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Tag:
    """Point `name` to this image."""

    image_id: str
    name: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove this name, or an image without a name."""

    reference: str


def base(name: str) -> str:
    """Return the name without registry, folders and tag: `docker-snmp` of `registry:5000/sonic/docker-snmp:v2`."""
    return name.rpartition("/")[2].partition(":")[0]


def previous_name(local: str) -> str:
    """Return the name of the image kept for a rollback."""
    folder, slash, last = local.rpartition("/")
    return f"{folder}{slash}{last.partition(':')[0]}:{PREVIOUS_TAG}"


def local_name(made_from: str, remembered: str, listed: str, image: Image | None) -> str:
    """Return the image name that the unit's script starts from; empty where it is unknown.

    Sources in order of preference: the image of the local container, the earlier image of the local container, SONiC's
    list of names, and the name of the master's image in its registry.
    """
    for name in (made_from, remembered, listed and f"{listed}:latest"):
        if name and NAME.fullmatch(name) and not IMAGE_ID.fullmatch(name):
            return name if ":" in name.rpartition("/")[2] else f"{name}:latest"
    named = (*image.names, *image.repositories) if image is not None else ()
    return next((f"{base(name)}:latest" for name in named if NAME.fullmatch(name)), "")


def known_names(made_from: str, remembered: str, listed: str) -> tuple[str, ...]:
    """Return what the local image may be called, names before IDs, in the order of preference of `local_name`.

    A unit's script starts from one of them; which one it is, is not known: an upgrade removes older tags.
    """
    found = (made_from, remembered, listed and f"{listed}:latest")
    usable = dict.fromkeys(name for name in found if NAME.fullmatch(name) or IMAGE_ID.fullmatch(name))
    return tuple(sorted(usable, key=lambda name: _ID.fullmatch(name) is not None))


def remember(record: ImageRecord, *image_ids: str) -> ImageRecord:
    """Return the image record with these images added as known to have run here."""
    fresh = tuple(dict.fromkeys(i for i in image_ids if i and i not in record.known))
    return replace(record, known=(*record.known, *fresh)[-KNOWN_MAX:]) if fresh else record


def adopt(record: ImageRecord, stock: Stock, image_id: str) -> Tag | None:
    """Return the next step until the local name points to this image and the one before it is kept; None: done."""
    now, previous = stock.named(record.local), previous_name(record.local)
    if now == image_id:
        return None
    if now and stock.named(previous) != now:
        return Tag(now, previous)
    return Tag(image_id, record.local)


def restore(record: ImageRecord, stock: Stock, failed_image: str) -> Tag | None:
    """Return the next step until the local name points to a good image again; None: done, or no image to return to."""
    previous, now = stock.named(previous_name(record.local)), stock.named(record.local)
    if now not in ("", failed_image) or previous in ("", failed_image):
        return None
    return Tag(previous, record.local)


def removable(record: ImageRecord, stock: Stock) -> tuple[Image, ...]:
    """Return images that ran here, that nothing uses or falls back to, and that only this feature names."""
    local = stock.named(record.local)
    if not local:
        # An operator has removed the name: the image that a local container needs may be any of these.
        return ()
    kept = {local, stock.named(previous_name(record.local)), *stock.used}
    family = base(record.local)
    return tuple(
        image
        for image in stock.images
        if image.id in record.known
        and image.id not in kept
        and all(base(name) == family for name in (*image.names, *image.repositories))
    )


def tidy(record: ImageRecord, stock: Stock) -> Remove | None:
    """Return the next removal; None: nothing to remove. Removing the last name of an image removes the image."""
    for image in removable(record, stock):
        return Remove(image.names[0] if image.names else image.id)
    return None


def role(record: ImageRecord, stock: Stock, image: Image) -> str:
    """Return the image's role for its feature, in a word or two for operators."""
    words = []
    if image.id == stock.named(record.local):
        words.append("local")
    if image.id == stock.named(previous_name(record.local)):
        words.append("previous")
    if image.id == record.failed:
        words.append("failed")
    return ", ".join(words) or ("in use" if image.id in stock.used else "old")
