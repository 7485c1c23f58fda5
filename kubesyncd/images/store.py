"""Carry out the image policy, and store its record on disk.

Knows the Images port and one file; decides neither when an image is good nor when a feature has failed. A reconciler
waits for tags and for the local container, which Docker does at once. A separate coroutine removes images, because a
slow disk may take a minute.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from kubesyncd.core.image_model import IMAGE_ID
from kubesyncd.core.model import valid_feature_name
from kubesyncd.images import policy
from kubesyncd.images.policy import ImageRecord
from kubesyncd.ports import Missing, PortError, Refused, Unavailable
from kubesyncd.runtime import codec
from kubesyncd.runtime.backoff import Backoff
from kubesyncd.runtime.codec import Undecodable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from random import Random

    from structlog.typing import FilteringBoundLogger

    from kubesyncd.core.image_model import Image, Stock
    from kubesyncd.ports import DurableFile, Images

VERSION = 1
FEATURES_MAX = 512
# A policy that needs more steps than this undoes itself: a bug in the policy.
STEPS_MAX = 64
# Interval for asking Docker again at the start, while it does not answer.
START_S, START_S_MAX = 0.8, 5.0


class ImageStore:
    """The image store of all features. Call `load()` before all else.

    `listed`: SONiC's name of a feature's image; empty where it has none. Without `adopting`, local images stay
    unchanged; rollbacks and `ensure_local` still work.
    """

    def __init__(
        self,
        port: Images,
        file: DurableFile,
        listed: Callable[[str], str],
        log: FilteringBoundLogger,
        rng: Random,
        *,
        adopting: bool = True,
    ) -> None:
        self._images = port
        self._file = file
        self._listed = listed
        self._log = log
        self._backoff = Backoff(rng, START_S, START_S_MAX)
        self._adopting = adopting
        self._records: dict[str, ImageRecord] = {}
        self._unsaved = False
        self._untidy: set[str] = set()
        self._due = asyncio.Event()

    def load(self) -> None:
        """Load the record. An unreadable file means an empty record, and so no removals."""
        try:
            data = self._file.load()
            self._records = {} if data is None else decode(data)
        except Unavailable as error:
            self._log.error("images", why=f"{error}; the stored image record is not used")
        except Undecodable as error:
            self._log.error("images", why=f"the stored image record cannot be read ({error}); it is not used")

    # ---- for reconcilers ----------------------------------------------------------------------------

    def remembered(self, feature: str) -> ImageRecord:
        """Return the record of a feature's images, and of its current rollback."""
        return self._records.get(feature, ImageRecord())

    async def note_rollback(self, feature: str, failed: str, failed_newest: str, failure_text: str) -> None:
        """Store over the boot that the feature is rolled back, or (all empty) that it no longer is.

        Raises Unavailable; the record in memory is kept, and the next call tries to store it again.
        """
        record = self.remembered(feature)
        noted = replace(record, failed=failed, failed_newest=failed_newest, failure=failure_text)
        if noted != record or (self._unsaved and feature in self._records):
            await self._keep(feature, noted)

    async def adopt(self, feature: str, image_id: str) -> None:
        """Make a good image the local one, and keep the one before. Already done is success.

        Raises Missing where the image is gone, Refused where Docker refuses or the local name is unknown, Unavailable
        (a full disk too).
        """
        if not self._adopting:
            return
        stock = await self._images.stock()
        image = stock.image(image_id)
        if image is None:
            raise Missing("Docker", f"image {image_id[:19]} is gone")
        record = await self._named(feature, image)
        # Record the image before tagging it: an unrecorded image is never removed, and the power may fail at any time.
        record = policy.remember(record, stock.named(record.local), image_id)
        await self._keep(feature, record)
        for _ in range(STEPS_MAX):
            step = policy.adopt(record, stock, image_id)
            if step is None:
                break
            await self._tag(feature, step)
            stock = await self._images.stock()
        await self._renew(feature, record)
        self._untidy.add(feature)
        self._due.set()

    async def restore(self, feature: str, failed_image: str) -> None:
        """Make the image before `failed_image` the local one again, where that one is local. Already done is success.

        Raises Refused without an image to return to or where Docker refuses, Unavailable.
        """
        stock = await self._images.stock()
        record = await self._named(feature, stock.image(failed_image))
        step = policy.restore(record, stock, failed_image)
        if step is not None:
            await self._tag(feature, step)
        elif stock.named(record.local) in ("", failed_image):
            found = "is what failed" if stock.named(record.local) else "does not exist"
            raise Refused("Docker", f"{record.local} {found}, and no image from before the failure is kept")
        await self._renew(feature, record)

    async def ensure_local(self, feature: str, deployed: str, *, dry: bool = False) -> str:
        """Ensure that the feature has a local image, if necessary the `deployed` one.

        Return a sentence about what was (or, with `dry`, would be) done. Raises Refused without an image, Unavailable.
        """
        stock = await self._images.stock()
        record = await self._named(feature, stock.image(deployed))
        if stock.named(record.local):
            if not dry:
                await self._keep(feature, record)
            return f"{record.local} exists"
        if stock.image(deployed) is None:
            raise Refused("Docker", f"{record.local} does not exist, and no deployed image could become it")
        if not dry:
            await self._tag(feature, policy.Tag(deployed, record.local))
            await self._keep(feature, policy.remember(record, deployed))
        return f"{record.local} is made from the deployed image {deployed[7:19]}"

    async def ensure_container(self, feature: str, deployed: str, *, dry: bool = False) -> tuple[str, bool]:
        """Ensure that the feature has a local container, if necessary one modelled on the kube container `deployed`.

        Return what was (or, with `dry`, would be) done, empty where a local container exists, and whether it has all
        that the deployed one has. Call it once a local image exists. Raises Refused without a local container where
        none can be created, Unavailable.
        """
        if await self._images.made_from(feature):
            return "", True
        if not deployed:
            raise Refused("Docker", "no local container exists, and no kube container to create it from")
        if dry:
            return "its local container would be created from the one that Kubernetes runs", True
        lacking = await self._images.localize(feature, deployed, self.remembered(feature).local)
        self._log.info("local_container_made", feature=feature, after=deployed, lacking=list(lacking))
        without = f", without what only Kubernetes has at {', '.join(lacking)}" if lacking else ""
        return f"its local container is created from the one that Kubernetes runs{without}", not lacking

    async def missing_local(self, feature: str, made_from: str) -> str:
        """Return the name of the feature's local image where none of its known names exists; empty where one does.

        `made_from`: the image that its local container was made from when there was one. Where no name is known,
        nothing is known to be missing. Raises Unavailable, Refused.
        """
        names = policy.known_names(made_from, self.remembered(feature).local, self._listed(feature))
        for name in names:
            if await self._images.exists(name):
                return ""
        return names[0] if names else ""

    async def forget(self, feature: str) -> None:
        """Handle an uninstalled feature: remove the local container created for it, and clear its record.

        Its images stay. Raises Refused, Unavailable; a failed save is repeated by the next one.
        """
        if await self._images.unlocalize(feature):
            self._log.info("local_container_removed", feature=feature, why="the feature was uninstalled")
        if self._records.pop(feature, None) is not None or self._unsaved:
            await self._save()

    async def run(self) -> None:
        """Finish what a power cut has interrupted; then remove unneeded images, feature by feature, when due.

        Never returns.
        """
        while not await self._finished():  # noqa: ASYNC110 - Docker sends no events while it is down
            await asyncio.sleep(self._backoff.next_s())
        while True:
            await self._due.wait()
            self._due.clear()
            while self._untidy:
                feature = self._untidy.pop()
                try:
                    await self.tidy(feature)
                except PortError as error:
                    self._log.warning("image_kept", feature=feature, why=str(error))

    async def _finished(self) -> bool:
        """Finish local containers that are half created; return whether none is left."""
        try:
            for feature in await self._images.unfinished():
                if await self._images.finish(feature):
                    self._log.info(
                        "local_container_finished", feature=feature, why="its creation was interrupted"
                    )
        except Unavailable:
            return False
        except PortError as error:
            self._log.warning("local_container_unfinished", why=str(error))
        return True

    async def tidy(self, feature: str) -> list[str]:
        """Remove the feature's old images; return the names removed. Raises Refused, Unavailable."""
        removed: list[str] = []
        record = self.remembered(feature)
        for _ in range(STEPS_MAX):
            step = policy.tidy(record, await self._images.stock()) if record.local else None
            if step is None:
                break
            await self._images.remove(step.reference)
            removed.append(step.reference)
            self._log.info("image_removed", feature=feature, image=step.reference)
        return removed

    # ---- for operators --------------------------------------------------------------------------

    @property
    def records(self) -> Mapping[str, ImageRecord]:
        """The record of each feature's images."""
        return self._records

    async def stock(self) -> Stock:
        """Return the images on this switch. Raises PortError."""
        return await self._images.stock()

    # ---- internal -------------------------------------------------------------------------------

    async def _named(self, feature: str, image: Image | None) -> ImageRecord:
        record = self.remembered(feature)
        made_from = await self._images.made_from(feature)
        local = policy.local_name(made_from, record.local, self._listed(feature), image)
        if not local:
            fix = "create its local container, or name its image in [images] names_file"
            raise Refused("Docker", f"the name of {feature}'s local image is unknown; {fix}")
        return replace(record, local=local)

    async def _tag(self, feature: str, step: policy.Tag) -> None:
        await self._images.tag(step.image_id, step.name)
        self._log.info("image_tagged", feature=feature, image=step.image_id, name=step.name)

    async def _renew(self, feature: str, record: ImageRecord) -> None:
        if await self._images.renew(feature, record.local):
            self._log.info("local_container_renewed", feature=feature, name=record.local)

    async def _keep(self, feature: str, record: ImageRecord) -> None:
        if feature not in self._records and len(self._records) >= FEATURES_MAX:
            raise Refused("kubesyncd", f"the limit of {FEATURES_MAX} features with stored images is reached")
        if self._records.get(feature) == record and not self._unsaved:
            return
        self._records[feature] = record
        await self._save()

    async def _save(self) -> None:
        """Store the whole record as it is now: the file keeps the order of the calls."""
        features = dict(sorted(self._records.items()))
        try:
            await self._file.save(codec.encode({"features": features}, version=VERSION))
        except BaseException:
            self._unsaved = True
            raise
        self._unsaved = False


def decode(data: bytes) -> dict[str, ImageRecord]:
    """Decode the stored record; entries of invalid feature names are ignored. Raises Undecodable."""
    features, reader = codec.entry(dict[str, object], data, "features", version=VERSION), codec.Reader()
    return {
        name: _usable(reader.read(ImageRecord, value, name))
        for name, value in features.items()
        if valid_feature_name(name)
    }


def _usable(record: ImageRecord) -> ImageRecord:
    """Return the record without invalid image IDs, which would be given to Docker."""
    return replace(record, known=tuple(i for i in record.known if IMAGE_ID.fullmatch(i))[-policy.KNOWN_MAX :])
