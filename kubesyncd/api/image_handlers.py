"""Answer `image list` and `image gc`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from kubesyncd.api.messages import Reply, failure
from kubesyncd.core import protocol
from kubesyncd.images import policy
from kubesyncd.ports import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kubesyncd.api.handlers import Handler
    from kubesyncd.api.messages import Request
    from kubesyncd.core.descriptions import ImageDescription, RemovedImageDescription
    from kubesyncd.core.image_model import Stock
    from kubesyncd.images.store import ImageStore


class ImageHandlers:
    """The host socket's verbs about images."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store

    def handlers(self) -> dict[str, Handler]:
        """Return each verb and its handler."""
        return {"images": self._list, "image-gc": self._gc}

    async def _list(self, _: Request) -> Reply:
        stock = await self._store.stock()
        return Reply(out="\n".join(json.dumps(line) for line in self._lines(stock)))

    def _lines(self, stock: Stock) -> Iterator[ImageDescription]:
        for feature, record in sorted(self._store.records.items()):
            kept = {stock.named(record.local), stock.named(policy.previous_name(record.local)), *record.known}
            for image in stock.images:
                if record.local and image.id in kept:
                    yield {
                        "feature": feature,
                        "image": image.id,
                        "names": list(image.names),
                        "role": policy.role(record, stock, image),
                        "used": image.id in stock.used,
                        "created": image.created,
                        "size": image.size,
                    }

    async def _gc(self, _: Request) -> Reply:
        removed: list[RemovedImageDescription] = []
        kept: list[str] = []
        for feature in sorted(self._store.records):
            try:
                removed += [{"feature": feature, "removed": name} for name in await self._store.tidy(feature)]
            except Refused as error:
                kept.append(f"{feature}: {error.detail}")
        out = "\n".join(json.dumps(line) for line in removed)
        if not kept:
            return Reply(out=out)
        why = f"Docker keeps an image ({'; '.join(kept)}); look at: kubesync image list"
        return Reply(protocol.EXIT_FAILED, out=out, err=failure(protocol.EXIT_FAILED, "", why).err)
