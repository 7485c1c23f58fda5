"""Keep the label queue in its file. Changes of the queue happen between two awaits; writes are serialized.

A damaged file is read part by part: each valid label is kept, because a lost one may leave a feature on the wrong side.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from kubesyncd.core.label_queue import Queue, QueueFull
from kubesyncd.core.labels import Change, InvalidLabel
from kubesyncd.core.text import quoted
from kubesyncd.ports import Refused, Unavailable
from kubesyncd.runtime import codec
from kubesyncd.runtime.codec import Undecodable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kubesyncd.ports import DurableFile
    from kubesyncd.runtime.context import Runtime

SERVICE = "Kubernetes"
FILE_BYTES_MAX = 1 << 21
MEANS = (
    "labels are applied all the same; after a restart of the daemon, the features' labels in the file, which may be "
    "older ones, are applied until each feature's is requested again"
)


class QueueFile:
    """The current queue and its file; empty until `load`.

    `changed` is called after each change of the queue, and then `appended` with the changes that were queued.
    """

    def __init__(
        self,
        file: DurableFile,
        runtime: Runtime,
        *,
        changed: Callable[[], None],
        appended: Callable[[Sequence[Change]], None],
    ) -> None:
        self._file = file
        self._alerts = runtime.alert_log("labels")
        self._log = runtime.log
        self._changed = changed
        self._appended = appended
        self._saving = asyncio.Lock()
        self._to_save = asyncio.Event()
        self.queue = Queue()

    def load(self) -> None:
        """Read the file. A file that cannot be read is logged, and the queue starts empty."""
        try:
            self.queue, problems = decode(self._file.load())
        except Unavailable as error:
            problems = (f"{error}; the label queue starts empty",)
        for problem in problems:
            self._log.error("labels_not_loaded", why=problem)

    def _with(self, changes: Sequence[Change], *, wished: bool) -> Queue:
        """Return the queue with `changes` appended, not stored. Raises Refused where too many others wait."""
        try:
            queue = self.queue.append(changes)
            return queue.wish(changes) if wished else queue
        except QueueFull as error:
            raise Refused(SERVICE, str(error)) from error

    def keep(self, queue: Queue) -> None:
        """Replace the queue; the file is written later.

        An older file loses nothing: what was applied is applied once more after a restart, in the same order.
        """
        self._replace(queue)
        self._to_save.set()

    def append_soon(self, changes: Sequence[Change]) -> None:
        """Queue `changes` that are asked for again after a restart; the file is written later.

        Where it is not written, a restart begins with an older value, which may reach the Node before the later one.
        Raises Refused where too many others wait.
        """
        self._append(changes, wished=False)
        self._to_save.set()

    async def append(self, changes: Sequence[Change]) -> int:
        """Queue what an operator wishes, in the file too; return the arrival number behind the last one.

        Raises Refused, Unavailable.
        """
        async with self._saving:
            await self._file.save(encode(self._with(changes, wished=True)))
            self._alerts.end("labels_not_saved")
            # Changes of the queue during the write are written next, by `run`.
            return self._append(changes, wished=True)

    def _append(self, changes: Sequence[Change], *, wished: bool) -> int:
        self._replace(self._with(changes, wished=wished))
        self._appended(changes)
        return self.queue.arrivals

    async def purge(self) -> None:
        """Drop every label, queued or applied. Raises Unavailable, and then nothing is forgotten."""
        async with self._saving:
            await self._file.save(encode(self.queue.purge()))
            self._replace(self.queue.purge())

    @property
    def failures(self) -> list[str]:
        """Why the file was not written the last time; empty where it was."""
        return list(self._alerts.lasting("labels_not_saved"))

    def retry(self) -> None:
        """Write again what could not be written."""
        if self._alerts.lasting("labels_not_saved"):
            self._to_save.set()

    async def run(self) -> None:
        """Write the queue to the file after each change. Never returns."""
        while True:
            await self._to_save.wait()
            self._to_save.clear()
            async with self._saving:
                await self._save()

    async def _save(self) -> None:
        try:
            await self._file.save(encode(self.queue))
        except Unavailable as error:
            self._alerts.begin("labels_not_saved", error.meaning(MEANS).detail, file=error.file)
        else:
            self._alerts.end("labels_not_saved")

    def _replace(self, queue: Queue) -> None:
        self.queue = queue
        self._changed()


def encode(queue: Queue) -> bytes:
    """Encode the queue as a file's content, indented for operators."""
    parts = {
        "pending": [str(change) for change in queue.changes],
        "applied": queue.applied,
        "failed": queue.failed,
        "wishes": queue.wishes,
        "node": queue.uid,
        "store": queue.version,
    }
    return codec.encode(parts, indent=1)


def decode(data: bytes | None) -> tuple[Queue, tuple[str, ...]]:
    """Decode a file: the queue, and a sentence for each invalid part of the file. Never raises."""
    if data is None:
        return Queue(), ()
    try:
        tree = codec.parse(data, FILE_BYTES_MAX)
    except Undecodable as error:
        return Queue(), (f"the label queue cannot be read ({quoted(str(error), 120)}); it starts empty",)
    reader, problems, queue = codec.Reader(), list[str](), Queue()
    for text in _listed(reader, tree.get("pending", []), "pending", problems):
        try:
            queue = queue.append([Change.parse(text)])
        except (InvalidLabel, QueueFull) as error:
            problems.append(f"a queued label is dropped: {error}")
    applied = _applied(reader, tree.get("applied", {}), problems)
    failed = _listed(reader, tree.get("failed", []), "failed", problems)
    queue = queue.recall(applied, failed)
    if "wishes" not in tree:
        return queue.infer_wishes(), _few(problems)
    wishes = _applied(reader, tree["wishes"], problems)
    with suppress(QueueFull):
        queue = queue.wish([Change(key, value) for key, value in wishes.items()])
    uid, version = tree.get("node", ""), tree.get("store", 0)
    queue = replace(queue, uid=uid if isinstance(uid, str) else "")
    return replace(queue, version=version if type(version) is int else 0), _few(problems)


def _listed(reader: codec.Reader, value: object, name: str, problems: list[str]) -> tuple[str, ...]:
    try:
        return reader.read(tuple[str, ...], value)
    except Undecodable:
        problems.append(f"label queue file: invalid {name}, not a list of strings; ignored")
        return ()


def _applied(reader: codec.Reader, value: object, problems: list[str]) -> dict[str, str | None]:
    """Return the valid part of `applied`; a lost key is observed again on the Node."""
    try:
        items = reader.read(dict[str, object], value)
    except Undecodable:
        problems.append("label queue file: invalid applied, not an object; ignored")
        return {}
    usable: dict[str, str | None] = {}
    for key, each in items.items():
        try:
            change = reader.read(Change, {"key": key, "value": each})
        except Undecodable:
            problems.append(f"an applied label is ignored: {quoted(key)}")
        else:
            usable[change.key] = change.value
    return usable


def _few(problems: list[str]) -> tuple[str, ...]:
    """Return at most five sentences: an invalid file must not fill the log."""
    if len(problems) <= 5:
        return tuple(problems)
    return (*problems[:4], f"{len(problems) - 4} more problems in the label queue file")
