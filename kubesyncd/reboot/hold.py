"""Represent a prepared reboot: the hold, and the note with what was promised to the next boot.

Knows two small files and no daemon: the commands know it too.

The hold is a file: while it is there the kubelet stays off (spec section 6). It names the boot it was made in, so
any other boot lifts it, and with it comes true what it promises: every kube feature may start from its local image
at once, whatever its fallback says, until kube has shown that it is there again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from kubesyncd.core.model import valid_feature_name
from kubesyncd.core.parse import shown
from kubesyncd.ports import Unavailable

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

# In the state's folder.
HOLD_FILE = "hold"
PROMISED_FILE = "promised.json"
VERSION = 1
FEATURES_MAX = 512


class Kind(StrEnum):
    """How the switch will reboot."""

    WARM = "warm"
    FAST = "fast"


class Grade(StrEnum):
    """How one step of the preparation went; a failed one takes back all the others."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Step:
    """One line of what was prepared."""

    grade: Grade
    what: str
    text: str


@dataclass(frozen=True, slots=True)
class Note:
    """What the hold says: in which boot it was made, and which features fall back to local in the next one."""

    kind: str = ""
    boot_id: str = ""
    fallback: tuple[str, ...] = ()


class File(Protocol):
    """One small file, replaced as a whole."""

    def load(self) -> bytes | None:
        """Its content; None: there is no such file. Raises Unavailable."""

    def save(self, data: bytes) -> None:
        """Replace its content, durably. Raises Unavailable."""

    def forget(self) -> None:
        """Take it away; gone already is success. Raises Unavailable."""


def encode(note: Note) -> bytes:
    """The hold's content."""
    return json.dumps({"version": VERSION, **asdict(note)}).encode() + b"\n"


def decode(data: bytes | None) -> Note:
    """What a hold says. One that somebody made by hand says nothing, and is lifted by hand."""
    try:
        tree = json.loads(data or b"null")
        names = [name for name in tree["fallback"] if valid_feature_name(name)]
        return Note(str(tree["kind"]), str(tree["boot_id"]), tuple(names[:FEATURES_MAX]))
    except (ValueError, LookupError, TypeError, RecursionError):
        return Note()


def begin_boot(hold: File, promised: File, boot_id: str, log: FilteringBoundLogger) -> frozenset[str]:
    """Lift the hold of another boot; the features that fall back in this one. To be called before all else.

    The promise is kept in a file of its own before the hold goes: a power cut in between is just another start.
    """
    note = _read(hold, log)
    if note.boot_id and note.boot_id != boot_id:
        note = replace(note, boot_id=boot_id)
        try:
            promised.save(encode(note))
            hold.forget()
            log.info("hold_lifted", kind=note.kind, fallback=list(note.fallback), why="the switch has booted")
        except Unavailable as error:
            log.error("hold_not_lifted", alert=True, why=f"{error}; the kubelet stays off until it is")
        return frozenset(note.fallback)
    note = _read(promised, log)
    return frozenset(note.fallback) if note.boot_id == boot_id else frozenset()


def _read(file: File, log: FilteringBoundLogger) -> Note:
    try:
        return decode(file.load())
    except Unavailable as error:
        log.error("hold", why=shown(str(error)))
        return Note()
