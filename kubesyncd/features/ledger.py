"""Store every feature's record, last known configuration and history as JSON: it outlives the daemon, not the boot.

Knows no feature's rules and no clock. Reading is total: an invalid ledger gives an empty one and a sentence, never
an error at start. A ledger of another boot is ignored.
"""

from __future__ import annotations

import json
from dataclasses import asdict, is_dataclass
from enum import Enum
from math import isfinite
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from kubesyncd.core.model import FeatureConfig, valid_feature_name
from kubesyncd.core.parse import shown
from kubesyncd.core.record import Record
from kubesyncd.core.state import HISTORY_MAX, Transition

if TYPE_CHECKING:
    from kubesyncd.ports import File

VERSION = 1


class Ledger:
    """All features' records of this boot, in memory and in one file.

    `first`: no ledger was found, so this is the daemon's first start of the boot. `config_loaded`: CONFIG_DB
    has been observed as loaded, so its absence means "being loaded" (S10).
    """

    def __init__(self, file: File, boot_id: str) -> None:
        self._file = file
        self._boot_id = boot_id
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
            tree = json.loads(data)
            if tree["version"] != VERSION:
                return f"the ledger has version {ascii(tree['version'])[:20]}, not {VERSION}; it is not used"
            if tree["boot_id"] != self._boot_id:
                return ""
            for name, entry in tree["features"].items():
                if valid_feature_name(name):
                    self.records[name] = _read(Record, entry["record"])
                    self.configs[name] = _read(FeatureConfig, entry["config"])
                    self.histories[name] = _read_history(entry.get("history"))
                    self._entries[name] = _entry(self.records[name], self.configs[name], self.histories[name])
            self.config_loaded = tree["config_loaded"] is True
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            self.records.clear()
            self.configs.clear()
            self.histories.clear()
            self._entries.clear()
            return f"the ledger cannot be read ({type(error).__name__}: {shown(str(error))}); it is not used"
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
        self._entries[name] = _entry(record, config, history)
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
        features = ",".join(f"{json.dumps(name)}:{entry}" for name, entry in sorted(self._entries.items()))
        head = json.dumps({"version": VERSION, "boot_id": self._boot_id, "config_loaded": self.config_loaded})
        self._file.save(f'{head[:-1]},"features":{{{features}}}}}\n'.encode())
        self._unsaved.clear()
        self.first = False


def _entry(record: Record, config: FeatureConfig, history: tuple[Transition, ...]) -> str:
    tree = {"record": asdict(record), "config": asdict(config), "history": [asdict(each) for each in history]}
    return json.dumps(tree)


def _read_history(value: Any) -> tuple[Transition, ...]:
    """The last changes of state; empty where invalid, so that an invalid history does not lose the record's grant."""
    try:
        history: tuple[Transition, ...] = _read(tuple[Transition, ...], value)
    except (ValueError, TypeError, ArithmeticError):
        return ()
    return history[-HISTORY_MAX:]


def _read(hint: Any, value: Any) -> Any:
    """A JSON value as the type `hint`; invalid values are rejected here, not later in a rule.

    A missing field keeps its default (an older daemon wrote it), an unknown one is ignored (a newer
    one did). Raises TypeError, ValueError, OverflowError.
    """
    if get_origin(hint) is UnionType:
        (inner,) = (kind for kind in get_args(hint) if kind is not NoneType)
        return None if value is None else _read(inner, value)
    if get_origin(hint) is tuple and get_args(hint)[1:] == (...,):
        return tuple(_read(get_args(hint)[0], each) for each in _listed(value))
    if get_origin(hint) is tuple:
        return tuple(_read(kind, each) for kind, each in zip(get_args(hint), _listed(value), strict=True))
    if isinstance(hint, type) and is_dataclass(hint):
        hints = get_type_hints(hint)
        return hint(**{name: _read(kind, value[name]) for name, kind in hints.items() if name in value})
    if issubclass(hint, Enum):
        return hint(value)
    allowed = (int, float) if hint is float else hint
    if not isinstance(value, allowed) or isinstance(value, bool) is not (hint is bool):
        raise TypeError(f"invalid {hint.__name__}: {shown(str(value))}")
    if hint is float and not isfinite(value):
        raise ValueError(f"invalid time: {value}")
    return hint(value)


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"invalid list: {shown(str(value))}")
    return value
