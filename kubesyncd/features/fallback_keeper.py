"""Keep the fallback of features as ctrmgrd took it, from kubesyncd's first start on until operators say otherwise."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kubesyncd.core.fallback_history import FallbackHistory
from kubesyncd.ports import Unavailable
from kubesyncd.runtime.codec import Undecodable
from kubesyncd.runtime.fallback_file import decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubesyncd.core.model import Timing
    from kubesyncd.ports import DurableFile
    from kubesyncd.runtime.context import Runtime

MEANS = "a restart of kubesyncd may read no_fallback_to_local in another way"


class FallbackKeeper:
    """The history of `no_fallback_to_local`, in memory and in its file.

    `was_ctrmgrds`: whether this start is kubesyncd's first on a switch that ctrmgrd has managed. Only then, or where
    an earlier start has stored one, there is a history; without one, every field is read as it is.
    """

    def __init__(
        self, file: DurableFile, was_ctrmgrds: Callable[[], bool], timing: Timing, runtime: Runtime
    ) -> None:
        self._file = file
        self._was_ctrmgrds = was_ctrmgrds
        self._log = runtime.log
        self._alerts = runtime.alert_log("fallback")
        self._backoff = runtime.backoff(timing)
        self._history: FallbackHistory | None = None
        self._due = asyncio.Event()

    def load(self) -> None:
        """Read the file, or begin the history. Call it before the mark of the boot is written."""
        try:
            data = self._file.load()
            self._history = None if data is None else decode(data)
        except (Unavailable, Undecodable) as error:
            # It has been ctrmgrd's, so no field may turn fallback on.
            self._log.warning("fallback", why=str(error))
            self._history = FallbackHistory()
            return
        if data is None and self._was_ctrmgrds():
            self._log.info(
                "fallback", why="ctrmgrd has managed this switch: its fallback settings stay as they were"
            )
            self._history = FallbackHistory()
            self._due.set()

    def keeps_off(self, feature: str, text: str, *, whole: bool) -> bool:
        """Return whether a feature's field means no, but counts as yes. `whole`: whether CONFIG_DB is complete."""
        if self._history is None:
            return False
        if whole:
            now = self._history.observed(feature, text)
            if now != self._history:
                self._history = now
                self._due.set()
        return self._history.keeps_off(feature, text)

    async def run(self) -> None:
        """Store each change of the history. Never returns."""
        while True:
            await self._due.wait()
            self._due.clear()
            assert self._history is not None, "a history that changes exists"
            try:
                await self._file.save(encode(self._history))
            except Unavailable as error:
                self._alerts.begin("fallback_not_stored", f"{error}; {MEANS}", file=error.file)
                self._due.set()
                await asyncio.sleep(self._backoff.next_s())
            else:
                self._alerts.end("fallback_not_stored")
                self._backoff.reset()
