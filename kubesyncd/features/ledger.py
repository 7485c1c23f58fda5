"""Store every feature's record, last known configuration and history as JSON: it outlives the daemon, not the boot.

Knows no feature's rules and no clock. Reading is total: an invalid ledger gives an empty one and a sentence, never
an error at start.

A ledger of another boot is ignored: it is this boot's first start. The boot's mark (see boot_mark), or a row of this
boot in STATE_DB, tells that apart from a ledger that is lost. Features without an entry in a lost ledger are unknown,
until the next boot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping  # noqa: TC003 - the codec reads the annotation
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from kubesyncd.core.model import FeatureConfig, valid_feature_name
from kubesyncd.core.record import Record  # noqa: TC001 - the same
from kubesyncd.core.state import HISTORY_MAX, Transition
from kubesyncd.features.boot_mark import BootMark, why_unwritten
from kubesyncd.ports import Unavailable
from kubesyncd.runtime import codec
from kubesyncd.runtime.codec import Undecodable

if TYPE_CHECKING:
    from kubesyncd.ports import DurableFile

VERSION = 1
MISSING = "the ledger is missing"
OTHER_BOOT = "the ledger is of another boot"
MEANS = (
    "until it can be, no feature is handed over to Kubernetes, what runs runs on, and a restart of the daemon goes by "
    "STATE_DB's rows"
)
UNMARKED = "no ledger of this boot was found, although STATE_DB has rows of this boot"
LOST = "what runs and STATE_DB's rows decide instead, and the ledger is written again"


@dataclass(frozen=True, slots=True)
class _LedgerFile:
    """The file. Entries are read one by one: those of invalid feature names are ignored."""

    boot_id: object
    config_loaded: object
    features: Mapping[str, object]
    lost: object = None


class LedgerStart(Enum):
    """What a start of the daemon has found: no ledger of this boot, a ledger, or that one was lost within the boot."""

    FIRST = "first"
    KNOWN = "known"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class _LedgerEntry:
    """One feature. `history` is read by itself, so that an invalid one does not lose the record's grant."""

    record: Record
    config: FeatureConfig
    history: object = None


class Ledger:
    """All features' records of this boot, in memory and in one file.

    `found`: what this start of the daemon has found. `config_loaded`: CONFIG_DB has been observed as loaded, so its
    absence means "being loaded" (S10).
    """

    def __init__(self, file: DurableFile, boot_id: str, mark: DurableFile | None = None) -> None:
        self._file = file
        self.boot = BootMark(boot_id, mark)
        # Each feature's part of the file, encoded.
        self._entries: dict[str, str] = {}
        # Features whose part is in no file yet, in the file being written, and left out of the next one.
        self._unsaved: set[str] = set()
        self._saving: set[str] = set()
        self._leaving: set[str] = set()
        self._writing = asyncio.Lock()
        # The number of writes asked for, and the last one that a finished write included; `_failed`: its error.
        self._asked = self._tried = 0
        self._failed: Unavailable | None = None
        self.records: dict[str, Record] = {}
        self.configs: dict[str, FeatureConfig] = {}
        self.histories: dict[str, tuple[Transition, ...]] = {}
        self.config_loaded = False
        self.found = LedgerStart.FIRST

    @property
    def _kept(self) -> tuple[dict[str, Any], ...]:
        """All that is kept by feature."""
        return (self.records, self.configs, self.histories, self._entries)

    @property
    def first(self) -> bool:
        """Whether this is the daemon's first start of the boot, and nothing has been stored yet."""
        return self.found is LedgerStart.FIRST

    @property
    def lost(self) -> bool:
        """Whether the ledger was lost within this boot."""
        return self.found is LedgerStart.LOST

    def load(self) -> str:
        """Read the file. Returns a sentence about an invalid or lost ledger, or an empty string."""
        marked, named = self.boot.load(), False
        try:
            data = self._file.load()
            tree = {} if data is None else codec.parse(data)
            # A file that cannot be used may still name its boot.
            named = tree.get("boot_id") == self.boot.boot_id
            problem = MISSING if data is None else self._read(tree)
        except Unavailable as error:
            problem = str(error)
        except Undecodable as error:
            for kept in self._kept:
                kept.clear()
            problem = f"the ledger cannot be read ({error})"
        if not problem:
            self._note_boot()
            return ""
        # Where the mark cannot be read, this boot may not be new.
        if named or marked is not False:
            return self.lose(f"{problem}, although this boot is not new")
        return f"{problem}; it is not used" if problem not in (MISSING, OTHER_BOOT) else ""

    def lose(self, problem: str = UNMARKED) -> str:
        """Take the ledger for one that was lost within this boot; return a sentence about it."""
        self.found = LedgerStart.LOST
        # Where that is not known: an incomplete CONFIG_DB is waited for, and nothing is ended for it.
        self.config_loaded = self.boot.config_loaded is not False
        return f"{problem}; {LOST}"

    def _read(self, tree: Mapping[str, object]) -> str:
        """Read a ledger of this boot; return why it is none, or an empty string. Raises Undecodable."""
        try:
            codec.check_version(tree, VERSION)
        except Undecodable as error:
            return f"the ledger has {error}"
        # Fields were added over time: what an older daemon wrote without them keeps their defaults.
        reader = codec.Reader(defaults=True)
        file = reader.read(_LedgerFile, tree)
        if file.boot_id != self.boot.boot_id:
            return OTHER_BOOT
        for name, value in file.features.items():
            if valid_feature_name(name):
                entry = reader.read(_LedgerEntry, value, name)
                history = _history(reader, entry.history)
                self.records[name], self.configs[name] = entry.record, entry.config
                self.histories[name] = history
                self._entries[name] = _entry(name, entry.record, entry.config, history)
        self.config_loaded = file.config_loaded is True
        self.found = LedgerStart.LOST if file.lost is True else LedgerStart.KNOWN
        return ""

    async def save(
        self,
        name: str,
        record: Record,
        config: FeatureConfig,
        history: tuple[Transition, ...] = (),
        *,
        surely: bool = False,
    ) -> None:
        """Store one feature; return when the file has the change. Raises Unavailable.

        It is kept in memory then, and in the next write; with `surely`, neither: what depends on it is not done.
        A change of `history` alone is not written: it follows from the others.
        """
        if (
            self.records.get(name) == record
            and self.configs.get(name) == config
            and not self._unsaved - self._entries.keys()
            and name not in self._unsaved
            and name not in self._saving
        ):
            return
        before = [(kept, kept.get(name)) for kept in self._kept]
        self.records[name], self.configs[name], self.histories[name] = record, config, history
        self._entries[name] = _entry(name, record, config, history)
        self._unsaved.add(name)
        try:
            await self.write()
        except Unavailable:
            if surely and self.records.get(name) is record:
                for kept, value in before:
                    if value is None:
                        kept.pop(name, None)
                    else:
                        kept[name] = value
            raise

    async def forget(self, name: str) -> None:
        """Delete one feature, from the file and then from memory. Raises Unavailable; then it is in both."""
        if name not in self._entries:
            return
        self._leaving.add(name)
        try:
            await self.write()
        finally:
            self._leaving.discard(name)
        self.drop(name)
        self._unsaved.discard(name)

    def drop(self, name: str) -> None:
        """Delete one feature from memory; the next write is without it, and any observation asks for one."""
        for kept in self._kept:
            kept.pop(name, None)
        self._unsaved.add(name)

    async def write(self) -> None:
        """Return when the file has all that is in memory now. Raises Unavailable.

        One write at a time: the changes that arrive meanwhile share the next one, so that the cost of many features'
        changes is that of a few files. They share its error as well.
        """
        self._asked += 1
        mine = self._asked
        async with self._writing:
            if self._tried < mine:
                await self._write()
            if self._failed is not None:
                raise self._failed.meaning()

    @property
    def unwritten(self) -> tuple[str, ...]:
        """Why the last write failed; empty where it did not."""
        return () if self._failed is None else (self._failed.detail,)

    async def check(self) -> tuple[str, ...]:
        """Write the file and the boot's mark as they are; return why that fails, for each of their folders."""
        ledger = await why_unwritten(self.write(), "the ledger's file", MEANS)
        return tuple(filter(None, (ledger, await self.boot.prove())))

    async def _write(self) -> None:
        upto, self._saving, self._unsaved = self._asked, self._unsaved, set()
        try:
            await self._file.save(self._encoded())
        except Unavailable as error:
            self._failed, self._tried = error.meaning(MEANS), upto
        else:
            self._saving = set()
            self._failed, self._tried = None, upto
            self.found = LedgerStart.KNOWN if self.first else self.found
            self._note_boot()
        finally:
            # What a failed or cancelled write may not have stored is written by the next one.
            self._unsaved |= self._saving
            self._saving = set()

    def _note_boot(self) -> None:
        self.boot.note(config_loaded=self.config_loaded)

    def _encoded(self) -> bytes:
        """Return the file's content: the parts are encoded already."""
        kept = ",".join(self._entries[name] for name in sorted(self._entries) if name not in self._leaving)
        lost = {"lost": True} if self.lost else {}
        head = codec.text(
            {"version": VERSION, "boot_id": self.boot.boot_id, "config_loaded": self.config_loaded, **lost}
        )
        return f'{head[:-1]},"features":{{{kept}}}}}\n'.encode()


def _entry(name: str, record: Record, config: FeatureConfig, history: tuple[Transition, ...]) -> str:
    """Encode a feature's part of the file. It is kept, so that a change of one feature encodes no other one."""
    return f"{codec.text(name)}:{codec.text(_LedgerEntry(record, config, history))}"


def _history(reader: codec.Reader, value: object) -> tuple[Transition, ...]:
    """Return the last changes of state; empty where invalid."""
    try:
        return reader.read(tuple[Transition, ...], value)[-HISTORY_MAX:]
    except Undecodable:
        return ()
