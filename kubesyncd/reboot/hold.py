"""Represent a prepared reboot: the hold, and the record of the fallback promised to the next boot.

Knows two small files and no daemon; commands use it too.

The hold is a file: while it exists the kubelet stays off. It names the boot that created it. Any other
boot removes the hold and applies its promise: every kube feature may start from its local image at once, whatever its
fallback setting, until Kubernetes works again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from kubesyncd.core.model import valid_feature_name
from kubesyncd.core.text import shown
from kubesyncd.ports import Unavailable
from kubesyncd.runtime import codec
from kubesyncd.runtime.codec import Undecodable

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

# In the state folder.
HOLD_FILE = "hold"
PROMISED_FILE = "promised.json"
VERSION = 1
FEATURES_MAX = 512


class Kind(StrEnum):
    """Kind of reboot. Each has a folder of hooks."""

    WARM = "warm"
    FAST = "fast"
    COLD = "cold"


# SONiC's words for each kind: the REBOOT_TYPE of its scripts, and the SONIC_BOOT_TYPE that they pass to the kernel.
# An express reboot stops the services of a warm one; a fastfast reboot is the warm one of Mellanox switches.
WORDS = {
    Kind.WARM: ("warm", "warm-reboot", "fastfast", "fastfast-reboot", "express", "express-reboot"),
    Kind.FAST: ("fast", "fast-reboot"),
    Kind.COLD: ("cold", "cold-reboot", "reboot", "soft", "soft-reboot"),
}


def kind_of(word: str) -> Kind | None:
    """Return the kind of reboot that SONiC calls by this word; None for any other word."""
    return next((kind for kind, words in WORDS.items() if word in words), None)


def invalid_kind(word: str) -> str:
    """Return the message for a word that names no kind of reboot, with those that do."""
    known = "; ".join(f"{kind}: {', '.join(words)}" for kind, words in WORDS.items())
    return f"invalid kind of reboot {shown(word)}; use one of {known}"


class Grade(StrEnum):
    """Result of one step of the preparation; a failed step rolls back all others."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class PreparationStep:
    """One line of the preparation's result."""

    grade: Grade
    what: str
    text: str


@dataclass(frozen=True, slots=True)
class PreparedReboot:
    """Content of the hold: which boot created it, and which features fall back to local in the next one."""

    kind: str = ""
    boot_id: str = ""
    fallback: tuple[str, ...] = ()


class RemovableFile(Protocol):
    """One small file, replaced atomically."""

    def load(self) -> bytes | None:
        """Read the content; None: the file does not exist. Raises Unavailable."""

    def save(self, data: bytes) -> None:
        """Replace the content, durably. Raises Unavailable."""

    def forget(self) -> None:
        """Remove the file; already gone is success. Raises Unavailable."""


def encode(note: PreparedReboot) -> bytes:
    """Encode the hold's content."""
    return codec.encode(note, version=VERSION)


def decode(data: bytes | None) -> PreparedReboot:
    """Decode a hold. A file that an operator created has no content; the operator removes it.

    The version is not checked: the next boot must remove the hold of any version, or the kubelet stays off.
    """
    try:
        note = codec.decode(PreparedReboot, data or b"")
    except Undecodable:
        return PreparedReboot()
    return replace(note, fallback=tuple(filter(valid_feature_name, note.fallback))[:FEATURES_MAX])


def begin_boot(
    hold: RemovableFile, promised: RemovableFile, boot_id: str, log: FilteringBoundLogger
) -> frozenset[str]:
    """Remove the hold of another boot; return the features that fall back in this one. Call it before all else.

    The promise is stored in a separate file before the hold is removed: after a power cut in between, the next start
    repeats this.
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


def _read(file: RemovableFile, log: FilteringBoundLogger) -> PreparedReboot:
    try:
        return decode(file.load())
    except Unavailable as error:
        log.error("hold", why=shown(str(error)))
        return PreparedReboot()
