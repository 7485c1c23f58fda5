"""Say what to make of each failure of Redis: ask again within the caller's limit, or fail with the fix.

One table for the daemon, the join and the operators' commands. Knows redis-py's errors; opens no connection.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from redis.exceptions import RedisError, ResponseError

from kubesyncd.ports import Forbidden, Lasting, Passing, PortError, Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

SAID_MAX = 120
NO_HASH = "the key is not a hash; delete it"
WRONGTYPE = "WRONGTYPE"
OOM = "OOM"
# The words of the table for a Redis that is not there, or does not answer.
NO_ANSWER = ("refused", "silent")
RIGHTS = "give its user the rights that docs/security.md lists: redis-cli ACL SETUSER"


class _Refusal(NamedTuple):
    """What to make of one kind of failure: the port's error, and the fix."""

    kind: type[PortError]
    fix: str


# By the word that begins Redis' answer. The last ones are ours, for failures without such a word.
REFUSALS: Mapping[str, _Refusal] = MappingProxyType(
    {
        "BUSY": _Refusal(Passing, "a script keeps it busy; to end it: redis-cli SCRIPT KILL"),
        "LOADING": _Refusal(Passing, "it is loading its data; it answers when it is done"),
        "MASTERDOWN": _Refusal(
            Passing, "its replica has lost its primary; to end that: redis-cli REPLICAOF NO ONE"
        ),
        "CLUSTERDOWN": _Refusal(Passing, "its cluster is not complete; see: redis-cli CLUSTER INFO"),
        "NOAUTH": _Refusal(Lasting, "put its password into [redis] password_file"),
        "WRONGPASS": _Refusal(
            Lasting, "correct [redis] user and password_file; see: redis-cli ACL LIST"
        ),
        "NOPERM": _Refusal(Lasting, RIGHTS),
        "DENIED": _Refusal(Lasting, "set a password in Redis and in [redis] password_file, or use its Unix socket"),
        "MISCONF": _Refusal(
            Lasting, "its last snapshot failed; free its disk, or see: redis-cli INFO persistence"
        ),
        "NOREPLICAS": _Refusal(
            Lasting, "it has too few replicas; see: redis-cli CONFIG GET min-replicas-to-write"
        ),
        "READONLY": _Refusal(
            Lasting, "it is a read only replica; to make it writable: redis-cli REPLICAOF NO ONE"
        ),
        OOM: _Refusal(Lasting, "it is at its maxmemory; raise that: redis-cli CONFIG SET maxmemory"),
        WRONGTYPE: _Refusal(Refused, NO_HASH),
        "max clients": _Refusal(
            Passing, "it has too many clients; see: redis-cli CLIENT LIST, or raise: redis-cli CONFIG SET maxclients"
        ),
        "no password": _Refusal(Lasting, "its user has no password; remove [redis] password_file"),
        "unknown command": _Refusal(
            Lasting, "redis.conf renames or disables a command that docs/security.md lists; allow it"
        ),
        "other": _Refusal(Passing, "see: systemctl status database"),
        "no access": _Refusal(Forbidden, "its socket may not be used by this user; use sudo, or join its group"),
        "refused": _Refusal(Passing, "start it: systemctl start database"),
        "silent": _Refusal(Passing, "see: systemctl status database"),
    }
)  # fmt: skip
# redis-py's classes cut the word off; older versions do not have all of them.
_CLASSES: Mapping[str, str] = MappingProxyType(
    {
        "BusyLoadingError": "LOADING",
        "MasterDownError": "MASTERDOWN",
        "ClusterDownError": "CLUSTERDOWN",
        "NoPermissionError": "NOPERM",
        "OutOfMemoryError": OOM,
        "ReadOnlyError": "READONLY",
        "AuthenticationError": "NOAUTH",
        "AuthenticationWrongNumberOfArgsError": "NOAUTH",
    }
)
# What the text says: redis-py makes another class of what Redis answers to a new connection.
_SAYINGS: tuple[tuple[str, str], ...] = (
    ("authentication required", "NOAUTH"),
    ("loading the dataset", "LOADING"),
    ("max number of clients", "max clients"),
    ("without any password", "no password"),
    ("no password is set", "no password"),
    ("invalid username-password", "WRONGPASS"),
    ("invalid password", "WRONGPASS"),
    ("protected mode", "DENIED"),
    ("unknown command", "unknown command"),
)
_CODE = re.compile(r"\b[A-Z]{3,}\b")


def translated(what: str, error: RedisError | OSError, place: str = "") -> PortError:
    """Return the port's error: what failed, Redis' own words, and the fix.

    `place`: why Redis was asked where it was, for an error of the connection itself.
    """
    word = word_of(error)
    refusal, said = REFUSALS[word], _said(error)
    if refusal.fix is NO_HASH:
        return refusal.kind("Redis", f"{what}: {NO_HASH}")
    if word.isupper():
        # Its first sentence: a long text would hide the fix.
        said = said.partition(". ")[0]
        said = said if said.startswith(word) else f"{word} {said}"
    said = said.rstrip(".")[:SAID_MAX]
    if word in NO_ANSWER:
        said = f"no answer: {said}" if said else "no answer in time"
        said = f"{said} ({place})" if place else said
    return refusal.kind("Redis", f"{what}: {said}; {refusal.fix}")


def word_of(error: Exception) -> str:
    """Return the word of the table for this failure."""
    said = str(error)
    for saying, word in _SAYINGS:
        if saying in said.lower():
            return word
    if (by_class := _CLASSES.get(type(error).__name__, "")) != "":
        return by_class
    answered = next((word for word in _CODE.findall(_said(error)) if word in REFUSALS), "")
    if answered or is_answer(error):
        return answered or "other"
    if _caused_by(error, PermissionError):
        return "no access"
    return "refused" if _caused_by(error, ConnectionRefusedError, FileNotFoundError) else "silent"


def is_answer(error: BaseException | None) -> bool:
    """Return whether Redis itself refused a command, on a connection that goes on."""
    return isinstance(error, ResponseError)


def _said(error: Exception) -> str:
    """Return Redis' words: of a transaction, redis-py tells the whole command before them."""
    return str(error).rpartition(" caused error: ")[2].strip("(',)\"")


def _caused_by(error: BaseException | None, *kinds: type[OSError]) -> bool:
    """Return whether an error of these kinds is the cause; redis-py wraps it."""
    while error is not None and not isinstance(error, kinds):
        error = error.__cause__ or error.__context__
    return error is not None
