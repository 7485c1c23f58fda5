"""Store every feature's record, last known configuration and history as JSON: it outlives the daemon, not the boot.

Knows no feature's rules and no clock. Reading is total: an invalid ledger gives an empty one and a sentence, never
an error at start. A ledger of another boot is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - the codec reads the annotation
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubesyncd.core.model import FeatureConfig, valid_feature_name
from kubesyncd.core.record import Record  # noqa: TC001 - the same
from kubesyncd.core.state import HISTORY_MAX, Transition
from kubesyncd.runtime import codec
from kubesyncd.runtime.codec import Undecodable

if TYPE_CHECKING:
    from kubesyncd.ports import File

VERSION = 1


@dataclass(frozen=True, slots=True)
class _LedgerFile:
    """The file. Entries are read one by one: those of invalid feature names are ignored."""

    boot_id: object
    config_loaded: object
    features: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class _LedgerEntry:
    """One feature. `history` is read by itself, so that an invalid one does not lose the record's grant."""

    record: Record
    config: FeatureConfig
    history: object = None


class Ledger:
    """All features' records of this boot, in memory and in one file.

    `first`: no ledger was found, so this is the daemon's first start of the boot. `config_loaded`: CONFIG_DB
    has been observed as loaded, so its absence means "being loaded" (S10).
    """

    def __init__(self, file: File, boot_id: str) -> None:
        self._file = file
        self._boot_id = boot_id
        # Each feature's part of the file, encoded.
        self._entries: dict[str, str] = {}
        self._unsaved: set[str] = set()
        self.records: dict[str, Record] = {}
        self.configs: dict[str, FeatureConfig] = {}
        self.histories: dict[str, tuple[Transition, ...]] = {}
        self.config_loaded = False
        self.first = True

    def load(self) -> str:
        """Read the file. Returns a sentence about an invalid ledger, or an empty string."""
        data = self._file.load()
        if data is None:
            return ""
        try:
            return self._read(data)
        except Undecodable as error:
            self.records.clear()
            self.configs.clear()
            self.histories.clear()
            self._entries.clear()
            return f"the ledger cannot be read ({error}); it is not used"

    def _read(self, data: bytes) -> str:
        tree = codec.parse(data)
        try:
            codec.check_version(tree, VERSION)
        except Undecodable as error:
            return f"the ledger has {error}; it is not used"
        # Fields were added over time: what an older daemon wrote without them keeps their defaults.
        reader = codec.Reader(defaults=True)
        file = reader.read(_LedgerFile, tree)
        if file.boot_id != self._boot_id:
            return ""
        for name, value in file.features.items():
            if valid_feature_name(name):
                entry = reader.read(_LedgerEntry, value, name)
                history = _history(reader, entry.history)
                self.records[name], self.configs[name] = entry.record, entry.config
                self.histories[name] = history
                self._entries[name] = _entry(name, entry.record, entry.config, history)
        self.config_loaded = file.config_loaded is True
        self.first = False
        return ""

    def save(
        self, name: str, record: Record, config: FeatureConfig, history: tuple[Transition, ...] = ()
    ) -> None:
        """Store one feature; writes only a change. Raises Unavailable; the change is kept in memory.

        A change of `history` alone is not written: it follows from the others.
        """
        if (
            self.records.get(name) == record
            and self.configs.get(name) == config
            and name not in self._unsaved
        ):
            return
        self.records[name], self.configs[name], self.histories[name] = record, config, history
        self._entries[name] = _entry(name, record, config, history)
        self._unsaved.add(name)
        self.write()

    def forget(self, name: str) -> None:
        """Delete one feature. Raises Unavailable; it is deleted from memory all the same."""
        self.records.pop(name, None)
        self.configs.pop(name, None)
        self.histories.pop(name, None)
        self._unsaved.discard(name)
        if self._entries.pop(name, None) is not None:
            self.write()

    def write(self) -> None:
        """Write everything. Raises Unavailable."""
        features = ",".join(entry for _, entry in sorted(self._entries.items()))
        head = codec.text({"version": VERSION, "boot_id": self._boot_id, "config_loaded": self.config_loaded})
        self._file.save(f'{head[:-1]},"features":{{{features}}}}}\n'.encode())
        self._unsaved.clear()
        self.first = False


def _entry(name: str, record: Record, config: FeatureConfig, history: tuple[Transition, ...]) -> str:
    """Encode a feature's part of the file. It is kept, so that a change of one feature encodes no other one."""
    return f"{codec.text(name)}:{codec.text(_LedgerEntry(record, config, history))}"


def _history(reader: codec.Reader, value: object) -> tuple[Transition, ...]:
    """Return the last changes of state; empty where invalid."""
    try:
        return reader.read(tuple[Transition, ...], value)[-HISTORY_MAX:]
    except Undecodable:
        return ()
